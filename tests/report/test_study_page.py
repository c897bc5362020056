"""The page of a study: what it says is what was found, and all of it lies in one file."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from integrand.report import markdown, study_figures, write_report
from integrand.report.ink import PALETTE
from integrand.report.study_words import difference, headline, results, trends


@pytest.fixture(scope="module")
def folder(planted_study, tmp_path_factory):
    folder = planted_study(tmp_path_factory.mktemp("study") / "planted", rungs=3)
    write_report(folder)
    return folder


@pytest.fixture
def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_study_folder_becomes_page_summary_and_picture(folder, summary):
    text = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#)', text) and "<script" not in text
    assert "prefers-color-scheme: dark" in text and "better: xIELU" in text
    parts = ("results", "differences", "compute", "rates", "curves", "depth", "reproduce")
    assert all(f'id="{part}"' in text for part in parts)
    assert summary["kind"] == "study"
    root = ET.parse(folder / "study.svg").getroot()
    assert root.tag.endswith("svg") and "prefers-color-scheme" in (folder / "study.svg").read_text()


def test_the_headline_speaks_of_the_largest_size(summary):
    tokens, time, share, effect = headline(summary)
    assert tokens.startswith("Against SwiGLU at 3.2 million parameters and 64 million tokens (nats")
    assert "5 seeds), better: xIELU −0.0" in tokens and "; cannot tell: ReLU2 " in tokens
    assert time.startswith("In the time of SwiGLU") and share.startswith("Tokens to the loss of")
    assert "shows a true difference of" in effect


def test_a_worse_variant_and_a_failed_match_are_said_as_plainly(summary):
    for row in summary["comparisons"]:
        if row["b"] == "xIELU":
            row["verdict"] = "worse"
    summary["checks"][0]["ok"] = False
    summary["progress"]["main"]["finished"] = 3
    summary["missing"] = [{"rung": "0.2M", "variant": "xIELU", "seed": 0}]
    said = " ".join(headline(summary))
    assert "worse: xIELU" in said and "Not matched: weights at 0.2M." in said
    assert "Not finished: 3 of 45 main runs" in said


def test_differences_carry_sign_interval_and_unit():
    row = {"difference": -0.05, "ci": [-0.06, 0.01], "unit": "nats"}
    assert difference(row) == "−0.0500 [−0.0600, +0.0100]"
    assert difference({**row, "unit": "share of tokens", "ci": None}) == "−5 %"
    assert difference({**row, "difference": None}) == "–"


def test_the_table_has_a_line_per_size_and_variant(folder, summary):
    table = results(summary)
    assert len(table.rows) == 9 and table.breaks == {3, 6}
    # every comparison has its place
    twice = {**summary, "comparisons": summary["comparisons"] + [
        {**row, "a": "xIELU"} for row in summary["comparisons"] if row["b"] == "ReLU2"
    ]}  # fmt: skip
    shown = [(row[1].text, row[7].text) for row in results(twice).rows if row[1].text == "ReLU2"]
    assert shown == [("ReLU2", "SwiGLU"), ("ReLU2", "xIELU")] * 3
    verdicts = {row[1].text: row[9].kind for row in table.rows}
    assert verdicts["xIELU"] == "good" and verdicts["ReLU2"] == "aside"
    assert markdown(folder / "summary.json") == table.markdown()


def test_trends_name_the_law_of_every_variant(summary):
    said = trends(summary)
    assert sum("· (C/" in text for text in said) == 3 and "cannot tell" in said[0]


def test_every_figure_is_well_formed_and_has_no_stand_in_colour(folder):
    drawn = re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text(), re.DOTALL)
    # differences, compute, rates, curves, depth, values over time
    assert len(drawn) == 6 and all(ET.fromstring(svg).get("viewBox") for svg in drawn)
    assert not any(stand_in in svg for svg in drawn for stand_in, *_ in PALETTE.values())
    assert all(f">{name}<" in drawn[1] for name in ("SwiGLU", "ReLU2", "xIELU"))


def test_the_baseline_and_xielu_have_their_colours(summary):
    assert study_figures.shades(summary) == {"SwiGLU": "peer", "xIELU": "ours", "ReLU2": "third"}


def test_a_study_that_has_barely_begun_has_a_page(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=1, seeds=1)
    for path in (folder / "records").glob("*"):
        if "-main-" not in path.name or "ReLU2" in path.name:
            path.unlink()
    plan = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**plan, "name": "<b>", "command": "<b>"}))
    text = write_report(folder).read_text()
    assert "Not finished: 2 of 3 main runs" in text and "cannot tell: xIELU" in text
    assert "has no short run" in text and "at least 3 rungs" in text
    assert "<b>" not in text and "&lt;b&gt;" in text
    # what is published is the summary alone
    (tmp_path / "summary.json").write_text((folder / "summary.json").read_text())
    assert write_report(tmp_path).read_bytes() == (folder / "report.html").read_bytes()


def test_a_study_that_cannot_resolve_the_effect_says_so(summary):
    summary["resolve"] = 1e-4
    summary["rungs"][0]["seeds_needed"] = 1000
    summary["variants"][0]["diverged"] = [2]
    said = " ".join(headline(summary))
    assert "It cannot resolve 0.0001 nats at 0.2M: that takes 1,000 seeds or more." in said
    assert "Diverged: SwiGLU at 0.2M, seed 2." in said


def test_without_a_pair_the_headline_says_so(summary):
    for row in summary["comparisons"]:
        row["difference"] = None
    assert "No pair of variants" in headline({**summary, "min_detectable_effect": None})[0]
