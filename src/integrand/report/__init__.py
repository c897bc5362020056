"""Figures, tables, and one self-contained HTML file."""

from integrand.report.page import write_report
from integrand.report.readme import markdown

__all__ = ["markdown", "write_report"]
