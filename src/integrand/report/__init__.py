"""Figures, tables, and one self-contained HTML file."""

from integrand.report.page import write_report
from integrand.report.readme import markdown, picture

__all__ = ["markdown", "picture", "write_report"]
