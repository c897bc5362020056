"""The page: self-contained, honest about what is missing, safe with foreign text."""

import json
import re
from pathlib import Path

import pytest

import integrand as ig
from integrand.errors import DataError
from integrand.report import markdown, picture, write_report
from integrand.report.collect import collect
from integrand.report.curves import curves
from integrand.report.describe import to_data


@pytest.fixture(scope="module")
def derived():
    act = ig.activation("relu2")
    return {**to_data(act), "title": "<b>ReLU²</b>", "trainable": [], "curves": curves(act)}


@pytest.fixture
def folder(tmp_path, derived):
    (tmp_path / "derive.json").write_text(json.dumps(derived))
    return tmp_path


def test_page_needs_nothing_from_elsewhere(folder):
    text = write_report(folder).read_text()
    assert "<script" not in text and "@import" not in text and "url(http" not in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_text_from_data_cannot_bring_markup(folder):
    text = write_report(folder).read_text()
    assert "<b>ReLU²</b>" not in text and "&lt;b&gt;ReLU²" in text


def test_absent_parts_are_left_out(folder):
    text = write_report(folder).read_text()
    assert 'id="derive"' in text and 'id="reproduce"' in text
    assert not any(f'id="{part}"' in text for part in ("speed", "training", "certificate"))


def test_same_data_lie_beside_the_page_and_give_the_same_page(folder, derived):
    first = write_report(folder).read_bytes()
    assert json.loads((folder / "report.json").read_text())["derive"] == derived
    assert write_report(folder).read_bytes() == first


def test_a_folder_without_results_is_refused_and_left_as_it_is(tmp_path):
    with pytest.raises(DataError, match=r"derive\.json"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        write_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_matched_training_alone_is_a_report(tmp_path):
    summary = {"kind": "study", "variants": [{"name": "A", "metrics": "a/metrics.jsonl"}]}
    (tmp_path / "a").mkdir()
    rows = [
        {"kind": "train", "step": 1, "loss": 7.0},
        {"kind": "held_out", "step": 1, "loss": 6.5},
        {"kind": "activation", "step": 1, "values": {"alpha_p": [0.8]}},
    ]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = collect(tmp_path)["study"]["curves"]["A"]
    assert found["train"] == [[1, 7.0]] and found["held_out"] == [[1, 6.5]]
    assert found["activation"] == [{"step": 1, "values": {"alpha_p": [0.8]}}]


def test_a_summary_of_another_kind_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text('{"kind": "bench"}')
    with pytest.raises(DataError, match="kind 'study'"):
        collect(tmp_path)


def test_readme_table_is_made_from_results(tmp_path):
    variant = {
        "name": "xIELU", "parameters": 1000, "tokens": 20, "loss_mean": 3.21,
        "bits_per_byte": 1.5, "wall_s": 9.0,
    }  # fmt: skip
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"kind": "study", "variants": [variant]}))
    assert "| xIELU | 1,000 | 20 | 3.210 | 1.500 | 9 s |" in markdown(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="kind"):
        markdown(path)


def test_picture_of_the_readme_shows_the_catalogue_entry():
    drawn = picture(ig.activation("xielu"))
    assert drawn.startswith("<svg") and "xielu: gradient and function" in drawn
    kept = Path(__file__).parents[2] / "docs" / "xielu.svg"
    # matplotlib's versions differ in layout; the title and the two curves do not
    assert "xielu: gradient and function" in kept.read_text(encoding="utf-8")
    assert kept.read_text(encoding="utf-8").count("var(--ours)") == drawn.count("var(--ours)")
