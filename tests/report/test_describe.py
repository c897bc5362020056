"""A derivation in words and as data."""

import json

import integrand as ig
from integrand.report.describe import plain, to_data, to_terminal


def test_description_is_json_and_its_toml_is_the_same_spec(tmp_path):
    act = ig.activation("xielu")
    data = json.loads(json.dumps(to_data(act), allow_nan=False))
    path = tmp_path / "again.toml"
    path.write_text(data["toml"])
    assert ig.read_spec(path).sha256 == act.spec.sha256
    assert data["properties"]["limits"] == ["inf", "inf"]


def test_terminal_text_says_which_of_the_two_was_declared():
    assert "declared       f'(x) = 2*x" in to_terminal(to_data(ig.activation("relu2")))
    spec = ig.Spec(name="half", function="x*abs(x)")
    said = to_terminal(to_data(ig.derive(spec)))
    assert "declared       f(x) = x*abs(x)" in said and "anchor" not in said


def test_infinite_numbers_become_text():
    assert plain({1: [float("-inf"), 2.0]}) == {"1": ["-inf", 2.0]}
