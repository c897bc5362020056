import pickle

import numpy as np
import pytest

from integrand.errors import SpecError
from integrand.spec import Param, Spec, check_values, names, read_spec, row, to_toml


def xielu(**changes):
    fields = {
        "name": "xielu",
        "gradient": "2*alpha_p*x + beta if x > 0 else alpha_n*expm1(x) + beta",
        "params": {
            "alpha_p": Param(0.8, above=0),
            "alpha_n": Param(0.8, above="beta"),
            "beta": Param(0.5, trainable=False),
        },
        **changes,
    }
    return Spec(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "No Good"}, "a name must be"),
        ({"function": "x"}, "one of the two"),
        ({"gradient": None}, "one of the two"),
        ({"params": {"alpha_p": Param(0.8, above=0)}}, "not a declared parameter"),
        ({"gradient": "x"}, "does not occur"),
        ({"anchor": (0,)}, "anchor must be"),
        ({"anchor": ("here", 0)}, "anchor must be"),
        ({"anchor": (float("nan"), 0)}, "anchor must be"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        xielu(**changes)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": Param(0.0, above=0)}, "'a' must be above 0, got 0.0"),
        ({"a": Param(2.0, below=1)}, "must be below 1"),
        ({"a": Param(0.4, above="b"), "b": Param(0.5)}, "must be above b = 0.5, got 0.4"),
        ({"a": Param(float("inf"))}, "finite number"),
        ({"a": Param("x")}, "finite number"),
        ({"a": Param(1.0, above="nobody")}, "another parameter's name"),
        ({"a": 1.0}, "must be a Param"),
        ({"exp": Param(1.0)}, "cannot name a parameter"),
        ({"a": Param(1.0, above=[1])}, "must be a number or another"),
        ({"a": Param(1.0, trainable="no")}, "must be true or false"),
    ],
)
def test_parameters_respect_their_bounds(params, message):
    with pytest.raises(SpecError, match=message):
        Spec(name="s", gradient="*".join([*params, "x"]), params=params)


def test_bounds_must_not_form_a_cycle():
    # an initial value above itself is impossible, so a cycle needs two different sides
    params = {"a": Param(1.0, above="b"), "b": Param(0.0, below="a")}
    with pytest.raises(SpecError, match="cycle"):
        Spec(name="s", gradient="a*b*x", params=params)


def test_toml_round_trip_keeps_the_content(tmp_path):
    # text that JSON writes as two halves of a character, one that TOML escapes, NumPy's numbers
    params = {**xielu().params, "beta": Param(np.float64(0.5), below=np.float64(0.8))}
    source = 'arXiv:2411.13010, \U0001d6fc \x7f "\\\n\t'
    spec = xielu(anchor=("-oo", np.float64(0)), source=source, params=params)
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec), encoding="utf-8")
    again = read_spec(path)
    assert again == spec
    assert again.sha256 == spec.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'a'\ngradient = 'x'\ncolour = 1", "unknown field 'colour'"),
        ("gradient = 'x'", "needs a name"),
        ("name = 'a'\ngradient = 3", "must be a text"),
        ("name = 'a'\ngradient = 'a*x'\n[params]\na = 3", "must be tables"),
        ("name = 'a'\ngradient = 'a*x'\n[params.a]\nabove = 3", "init is missing"),
        ("name = ", "is not TOML"),
        (f"name = {'1' * 5000}", "is not TOML"),
        (f"name = {'[' * 3000}", "nested too deeply"),
        (f"name = 'a'\ngradient = 'a*x'\n[params.a]\ninit = {10**400}", "finite number"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_spec(path)


def test_the_hash_follows_the_mathematics_alone():
    assert xielu().sha256 == xielu(name="other", source="elsewhere").sha256
    assert xielu().sha256 != xielu(anchor=(0, 1)).sha256
    longer = "2*alpha_p * x+beta   if x > 0 else alpha_n*expm1(x) + beta"
    assert xielu().sha256 == xielu(gradient=longer).sha256


def test_unknown_names_get_near_ones():
    with pytest.raises(SpecError, match="did you mean xielu"):
        row("xielo")
    assert "xielu" in names()


def test_a_spec_is_immutable_hashable_and_survives_pickling():
    spec = xielu()
    with pytest.raises((TypeError, AttributeError)):
        spec.params["q"] = Param(1.0)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len({spec, xielu(), xielu(name="other")}) == 2


def test_values_outside_their_bounds_are_refused():
    with pytest.raises(SpecError, match=r"'alpha_n' must be above beta = 0\.5, got 0\.1"):
        check_values(xielu(), {"alpha_p": 1.0, "alpha_n": 0.1, "beta": 0.5})
