"""Figures: valid SVG, colours from the page, the same file for the same data."""

import re
import xml.etree.ElementTree as ET
from itertools import chain

import pytest

import integrand as ig
from integrand.report import figures
from integrand.report.curves import curves
from integrand.report.ink import PALETTE


@pytest.fixture(scope="module")
def drawn():
    act = ig.activation("relu2")
    derived = {"name": "relu2", "declares": "gradient", "curves": curves(act)}
    groups = {"worst": [0.5, 3e33, 0.0, 2.0], "mean": [0.1] * 4}
    swept = {"edges": [-3e38, -1.0, 0.0, 1.0, 3e38], "f": groups, "df": groups}
    rows = [[step, 7 - step / 100] for step in range(1, 201)]
    study = {
        "variants": [{"name": "A"}, {"name": "B", "activation": "xielu"}],
        "curves": {n: {"train": rows, "held_out": rows[::50]} for n in "AB"},
    }
    learned = [{"step": s, "values": {"alpha_p": [0.8, 0.8 + s]}} for s in (0, 1)]
    return {
        "gradient": figures.gradient_and_function(derived),
        "alone": figures.gradient_and_function(derived, standalone=True),
        "errors": figures.error_by_pattern([swept, swept]),
        "loss": figures.loss_curves(study),
        "learned": figures.parameters_by_depth(learned, ["alpha_p"]),
    }


def test_every_figure_is_well_formed_and_has_a_title(drawn):
    for name, svg in drawn.items():
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg") and root.get("viewBox"), name
        assert root.find("{http://www.w3.org/2000/svg}title").text, name


def test_colours_come_from_variables_alone(drawn):
    for svg in drawn.values():
        assert "var(--ours)" in svg
        assert not any(stand_in in svg for stand_in, *_ in PALETTE.values())


def test_only_a_file_of_its_own_defines_the_variables(drawn):
    assert "--ours:" in drawn["alone"] and "prefers-color-scheme: dark" in drawn["alone"]
    assert "--ours:" not in drawn["gradient"]


def test_equal_data_give_equal_files():
    act = ig.activation("relu2")
    derived = {"name": "relu2", "declares": "gradient", "curves": curves(act)}
    assert figures.gradient_and_function(derived) == figures.gradient_and_function(derived)


def test_ids_of_one_page_do_not_name_different_things(drawn):
    found = chain.from_iterable(
        re.findall(r'<(\w+)[^>]* id="([^"]+)"', drawn[n]) for n in ("gradient", "errors", "loss")
    )
    kinds: dict[str, str] = {}
    for tag, name in found:
        assert kinds.setdefault(name, tag) == tag


def test_curves_are_the_function_and_its_gradient():
    drawn = curves(ig.activation("relu2"), points=7)
    assert drawn["x"] == [-4, -3, -2, -1, 0, 1, 2]
    assert drawn["f"] == [0, 0, 0, 0, 0, 1, 4]
    assert drawn["df"] == [0, 0, 0, 0, 0, 2, 4]


def test_smoothing_keeps_the_mean():
    rows = [[float(i), float(i % 3)] for i in range(90)]
    smooth = figures.smoothed(rows, 30)
    assert len(smooth) == 30
    assert all(loss == 1 for _, loss in smooth)
