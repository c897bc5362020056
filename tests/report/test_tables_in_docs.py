import re
from pathlib import Path

import pytest

from integrand.report.readme import refresh

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "results" / "certificates.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
WITH_TABLES = [page for page in PAGES if "<!-- table:" in page.read_text(encoding="utf-8")]


def test_the_pages_that_show_results_have_their_tables():
    assert {
        "README.md",
        "certificates.md",
        "search.md",
        "speed.md",
        "studies.md",
        "sparsity.md",
    } <= {page.name for page in WITH_TABLES}


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda p: p.name)
def test_tables_are_those_of_the_results(page):
    assert refresh(page) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_linked_file_exists(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
