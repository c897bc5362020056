"""The page of a search."""

import json
from html import escape
from pathlib import Path
from typing import Any

from integrand.activation import activation
from integrand.search.page import (
    ancestry,
    headline,
    ladder,
    page,
    standings,
    winners,
    write_page,
)
from integrand.spec import row, to_toml


def shown(name: str, score: float, parents: tuple[str, ...] = ()) -> dict[str, Any]:
    spec = row(name).spec
    return {
        "key": spec.sha256, "name": name, spec.kind: spec.gradient or spec.function,
        "parents": parents, "operation": "perturb" if parents else "new",
        "scores": {"gaussian": 1.0, "tiny": score}, "spec": to_toml(spec),
        "numbers": {"certified": 0.0, "max_ulp_f": 0.5, "both_ratio": 1.25, "cost": score},
        "objectives": {"score": score, "cost": score},
    }  # fmt: skip


def against(reference: str, verdict: str) -> dict[str, Any]:
    return {"reference": reference, "size": "0.2M", "difference": -0.0123, "ci": [-0.02, -0.001],
            "seeds": 6, "verdict": verdict}  # fmt: skip


ELU, XIELU = row("elu").spec.sha256, row("xielu").spec.sha256
SUMMARY: dict[str, Any] = {
    "command": "integrand search gradient --out <here>", "evaluated": 1234, "deduplicated": 56,
    "objectives": ["score", "cost"],
    "rungs": [
        {"name": "gaussian", "scored": 900, "refused": 334, "keep": 0.25, "seconds_median": 0.012,
         "rank_correlation": -0.34, "pairs": 41, "pairs_by_chance": 9},
        {"name": "tiny", "scored": 41, "refused": 2, "keep": 0.25, "seconds_median": 31.0},
    ],
    "front": [shown("elu", 4.1, (XIELU,))],
    "ranking": [shown("elu", 4.1, (XIELU,)), shown("xielu", 4.2)],
    "lineage": {
        ELU: {"gradient": "1 if x > 0 else exp(x)", "parents": [XIELU], "operation": "perturb"},
        XIELU: {"gradient": "a < b", "parents": [], "operation": "new"},
    },
    "confirmed": [],
}  # fmt: skip


def test_an_unconfirmed_winner_is_no_evidence() -> None:
    assert "cannot tell" in headline(SUMMARY)
    assert "No confirmation was run: cannot tell." in page(SUMMARY)


def test_verdicts_are_those_of_the_confirmation() -> None:
    tried = {"name": f"xielu-{XIELU[:8]}", "gradient": "", "verdict": "cannot tell", "seeds": 6,
             "against": [against("SwiGLU", "worse"), against("ReLU2", "better")]}  # fmt: skip
    said = {**SUMMARY, "confirmed": [tried]}
    # what was tried comes first, and each spec once
    assert [w["name"] for w in winners(said)] == ["xielu", "elu"]
    assert '<td class="good">-0.012 [-0.020, -0.001] better</td>' in page(said)
    assert "0 of 1" in page(said)


def test_correlations_are_signed_and_absent_where_there_is_none() -> None:
    rows = [[c.text for c in r] for r in ladder(SUMMARY["rungs"]).rows]
    assert rows[0][5:] == ["-0.34", "41", "9"] and rows[1][5:] == ["–", "–", "–"]


def test_a_reference_is_shown_where_it_stands() -> None:
    known = {**shown("elu", 4.1), "places": {"gaussian": [3, 900], "tiny": [14, 93]}, "refused": ""}
    lost = {**shown("xielu", 4.2), "places": {"gaussian": [1, 900]}, "refused": "a hang"}
    rows = [[c.text for c in r][:3] for r in standings([known, lost]).rows]
    assert rows == [["elu", "3 of 900", "14 of 93"], ["xielu", "1 of 900", "refused"]]
    assert "Where the references stand" in page({**SUMMARY, "references": [known]})
    assert "Where the references stand" not in page(SUMMARY)
    given = {**shown("elu", 4.1), "operation": "reference"}
    assert [w["name"] for w in winners({**SUMMARY, "front": [given], "ranking": [given]})] == []


def test_the_line_of_descent_ends_at_chance_and_never_turns_in_circles() -> None:
    assert [key for key, _ in ancestry(SUMMARY["lineage"], ELU)] == [ELU, XIELU]
    loop = {"a": {"parents": ["b"]}, "b": {"parents": ["a"]}}
    assert [key for key, _ in ancestry(loop, "a")] == ["a", "b"]


def test_the_page_is_whole_and_texts_are_no_html(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    text = write_page(tmp_path).read_text()
    assert "a &lt; b" in text and "--out &lt;here&gt;" in text
    assert text.count("<svg") == 2 and "http" not in text.replace("http://www.w3.org", "")
    assert '<td class="bad">no</td>' in text and "No rung of this search" not in text
    for heading in ("Pareto front", "Kernels and certificates", "Lineage"):
        assert f"<h2>{heading}</h2>" in text


def test_a_search_that_found_nothing_has_a_page() -> None:
    assert "0.012" in page({**SUMMARY, "front": [], "ranking": [], "lineage": {}})


def test_a_formula_is_shown_where_one_was_derived_and_kernels_where_they_were_measured() -> None:
    found = [shown("xielu", 4.0)]
    measured = page({**SUMMARY, "front": found, "ranking": []})
    formula = activation("xielu").formula
    assert escape(f"f(x) = {formula}") in measured
    found[0]["numbers"] = {"cost": 4.0}
    text = page({**SUMMARY, "front": found, "ranking": []})
    assert "No rung of this search measured kernels" in text and "f(x) = " not in text
