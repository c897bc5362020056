"""The generated page of the catalogue."""

import json
from pathlib import Path

from integrand.report.catalogue_page import SPEEDS, catalogue_markdown
from integrand.spec import gates, names, row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "catalogue.md"


def test_page_in_docs_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == catalogue_markdown(ROOT / SPEEDS), (
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


def test_a_slow_row_says_why(tmp_path):
    path = tmp_path / "summary.json"
    about = {"dtype": "float32", "causes": ["1 table look-up per element"]}
    rows = [
        {"name": n, "activation": n, "ratio_silu": r, **about}
        for n, r in [("relu2", 0.5), ("xielu", 2)]
    ]
    data = {"rows": rows, "environment": {"processor": "p", "threads": 2}}
    path.write_text(json.dumps(data))
    page = catalogue_markdown(path)
    assert "- speed: 0.50 (fp32) of the time of `F.silu`\n" in page
    assert "- speed: 2.00 (fp32) of the time of `F.silu`; slow because of: 1 table look" in page
