"""The generated page of the catalogue."""

from pathlib import Path

from integrand.report.catalogue_page import catalogue_markdown
from integrand.spec import gates, names, row

PAGE = Path(__file__).parents[2] / "docs" / "catalogue.md"


def test_page_in_docs_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == catalogue_markdown(), (
        "docs/catalogue.md is out of date: integrand list --markdown > docs/catalogue.md"
    )


def test_page_has_one_entry_per_row_with_its_parameters_and_source():
    entries = {
        text.split("`")[1]: text for text in catalogue_markdown().split("\n### ") if text[0] == "`"
    }
    assert set(entries) == set(names())
    for name, text in entries.items():
        spec = row(name).spec
        assert all(f"- `{p}`" in text for p in spec.params)
        assert spec.source in text and row(name).note in text


def test_page_lists_every_gated_form():
    assert all(f"| `{name}` " in catalogue_markdown() for name in gates())
