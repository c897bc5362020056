"""`report` and `demo`: results as a page that shows them."""

from __future__ import annotations

from pathlib import Path


def report(folder: Path, /) -> int:
    """Write report.html and report.json from the results in a folder, or fill a page's tables.

    Args:
        folder: such as runs/demo; or a .md page, whose marked tables are made again from the
            results files they name.
    """
    from integrand.report import write_report
    from integrand.report.readme import refresh
    from integrand.train.files import read_json

    if folder.suffix == ".md":
        folder.write_text(refresh(folder), encoding="utf-8")
        print(folder)
        return 0
    found = folder / "summary.json"
    if found.is_file() and read_json(found).get("kind") == "search":
        from integrand.search.page import write_page

        print(write_page(folder))
        return 0
    print(write_report(folder))
    return 0


def demo(data: str = "python-docs", out: Path = Path("runs/demo"), quick: bool = False) -> int:
    """Derive, certify, time and train xIELU, and write a page that shows it.

    Args:
        data: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME.
        out: where results and report.html go; the same command goes on after a stop.
        quick: a few steps at a small size, to see that everything runs.
    """
    from integrand.demo import demo as run

    print(run(data, out, quick))
    return 0
