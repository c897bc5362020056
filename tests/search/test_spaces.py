"""Every space proposes specs; the gradient space reaches xIELU; nothing is evaluated as code."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import integrand as ig
from integrand.errors import SpecError
from integrand.search.candidate import Candidate, Space, by_chance, frozen
from integrand.search.equivalence import Seen, signature
from integrand.search.function_space import BEST, BINARY, UNARY, function_space
from integrand.search.gradient_space import GradientSpace
from integrand.search.profile import profile
from integrand.search.strategy import Exhaustive, first_admitted
from integrand.search.templates import read_space, template_space
from integrand.spec import Param, Spec, row

XIELU = (
    (0.5, "const"),
    ((0.0, "const"),),
    (
        (((0.8, "over"), "expm1", (1.0, "const"), (0.0, "const")),),
        (((1.6, "signed"), "x", (1.0, "const"), (0.0, "const")),),
    ),
)
MINE = {
    "name": "mine",
    "gradient": "{right} if x > 0 else {left}",
    "choices": {
        "right": ["2*a*x + b", "softplus(x)"],
        "left": ["b*expm1(x) + b", "{tail}*tanh(x)"],
        "tail": [0.1, "a", "c"],
    },
    "params": {"a": {"init": 0.8, "above": 0}, "b": {"init": 0.5}, "c": {"init": 1, "above": "a"}},
}
SPACES = [GradientSpace(), function_space(1), function_space(2), template_space(MINE)]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_proposals_are_specs_that_survive_json(space: Space) -> None:
    rng = np.random.default_rng(0)
    genomes = [space.build(by_chance(rng)) for _ in range(30)]
    admitted = 0
    for _ in range(60):
        a, b = (genomes[i] for i in rng.integers(len(genomes), size=2))
        operation, child = space.mutate(space.cross(a, b, rng), rng)
        assert operation
        assert frozen(json.loads(json.dumps(child))) == child
        try:
            spec = space.spec(child)
        except SpecError:
            continue
        admitted += 1
        genomes.append(child)
        candidate = Candidate(spec, child, ("p",), operation)
        again = Candidate.of(space, json.loads(json.dumps(candidate.to_dict())))
        assert again == candidate and again.key == candidate.key
    assert admitted >= 40


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_build_is_decided_from_outside_alone(space: Space) -> None:
    kinds: dict[str, int] = {}

    def choose(kind: str, options: int) -> int:
        kinds[kind] = options
        return options - 1

    assert space.build(choose) == space.build(choose)
    assert kinds.items() <= space.kinds.items()


def test_the_gradient_space_reaches_xielu_exactly() -> None:
    spec = GradientSpace().spec(XIELU)
    assert spec.gradient == "0.5 + a2*x if x > 0 else 0.5 + a1*expm1(x)"
    bounds = {(p.init, p.above) for p in spec.params.values()}
    assert bounds == {(1.6, 0), (0.8, 0.5)}
    found, true = profile(spec), profile(row("xielu").spec)
    assert np.array_equal(found.g, true.g) and np.array_equal(found.f, true.f)


def test_xielu_is_built_by_decisions() -> None:
    wanted = iter([1, 4, 0, 1, 4, 4, 2, 0, 0, 1, 0, 6, 1])
    assert GradientSpace().build(lambda *_: next(wanted)) == XIELU


def test_every_operation_happens_and_changes_the_genome() -> None:
    space, rng = GradientSpace(), np.random.default_rng(1)
    changed: Counter[str] = Counter()
    for _ in range(300):
        operation, child = space.mutate(XIELU, rng)
        changed[operation] += child != XIELU
    assert set(changed) == {
        "insert", "remove", "change", "regenerate", "perturb", "add parameter", "remove parameter",
    }  # fmt: skip
    assert min(changed.values()) >= 15


def test_trainable_cuts_keep_their_order() -> None:
    cuts = ((-1.0, "free"), (0.0, "free"), (2.0, "const"))
    genome = (
        (0.5, "free"),
        cuts,
        tuple(((c, "x", *XIELU[2][0][0][2:]),) for c in XIELU_COEFFICIENTS),
    )
    params = GradientSpace(pieces=4).spec(genome).params
    assert (params["cut1"].below, params["cut2"].above, params["cut2"].below) == (None, "cut1", 2.0)
    with pytest.raises(SpecError, match="increase"):
        GradientSpace().spec(((0.5, "const"), ((0.0, "const"),) * 2, ((), (), ())))


XIELU_COEFFICIENTS = ((0.1, "const"), (0.7, "over"), (0.2, "over"), (-1.0, "signed"))


def test_a_coefficient_over_a_trained_level_is_bounded_by_it() -> None:
    genome = ((0.5, "free"), (), (((XIELU_COEFFICIENTS[1], *XIELU[2][0][0][1:]),)))
    params = GradientSpace().spec((*genome[:2], (genome[2],))).params
    assert [p.above for p in params.values()] == [None, "level"]


def test_one_core_unit_is_enumerated_and_holds_swish() -> None:
    space = function_space(1)
    assert [*space.kinds.values()] == [len(UNARY), len(UNARY), len(BINARY)] == [25, 25, 10]
    swish = space.spec(("beta x", "x", "gate"))
    assert swish.function == "sigmoid(beta1*x)*(x)"
    seen = Seen()
    seen.add("swish", signature(swish))
    same = Spec(name="s", function="x*sigmoid(b*x)", params={"b": Param(1.0)})
    assert seen.find(signature(same)) == "swish"
    p = profile(space.spec(("sinc", "x", "a*b")))
    assert np.abs(p.f - np.sin(p.x)).max() <= 1.1e-6 / 6 * np.abs(p.x).max()


def test_what_the_paper_holds_for_the_best_is_in_the_space() -> None:
    genomes = {
        "max_x_sigmoid": ("x", "sigmoid", "max"), "max_x_tanh": ("x", "tanh", "max"),
        "min_x_sin": ("x", "sin", "min"), "cos_minus_x": ("cos", "x", "a-b"),
        "sinc_plus_x": ("sinc", "x", "a+b"),
    }  # fmt: skip
    for name, text in BEST.items():
        seen = Seen()
        seen.add(name, signature(Spec(name=name, function=text)))
        assert seen.find(signature(function_space().spec(genomes[name]))) == name


def test_a_constant_drops_the_parameters_inside() -> None:
    spec = function_space(2).spec(("beta x", "x", "a+b", "unit and x", "beta", "x", "a*b"))
    assert spec.function == "(beta2)*(x)" and list(spec.params) == ["beta2"]


def test_exhaustive_visits_every_genome_once() -> None:
    space = template_space(MINE)
    strategy, found = Exhaustive(space), []
    while (candidate := strategy.ask()) is not None:
        found.append(candidate.genome)
    assert len(found) == len(set(found)) == 2 * 2 * 3
    assert strategy.ask() is None


def test_exhaustive_counts_what_is_no_spec() -> None:
    options = [1, "1." + "0" * 2400, 2]
    space = template_space({"name": "m", "gradient": "{a} + {a}", "choices": {"a": options}})
    strategy = Exhaustive(space)
    assert [c and c.genome for c in (strategy.ask(), strategy.ask(), strategy.ask())] == [
        ("1",), ("2",), None
    ]  # fmt: skip
    assert strategy.left_out == 1 and "longer" in strategy.reason


@pytest.mark.parametrize("option", ["1" * 5000, "[" * 3000 + "]" * 3000], ids=["long", "deep"])
def test_files_that_python_cannot_read_are_refused(option: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "m"\ngradient = "{{s}}*x"\n[choices]\ns = [{option}]\n')
    with pytest.raises(SpecError, match="cannot read the space"):
        read_space(path)


def test_templates_keep_the_parameters_in_use(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ngradient = "{right} if x > 0 else c*x"\n[choices]\nright = ["x", "a*x"]\n'
        '[params.a]\ninit = 0.8\n[params.b]\ninit = 1\n[params.c]\ninit = 2\nabove = "b"\n'
    )
    space = read_space(path)
    assert list(space.spec(("x",)).params) == ["b", "c"]
    spec = space.spec(("a*x",))
    assert list(spec.params) == ["a", "b", "c"] and spec.gradient == "(a*x) if x > 0 else c*x"
    assert ig.derive(space.spec(("x",))).spec.kind == "gradient"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": {"right": []}}, "non-empty"),
        ({"choices": MINE["choices"] | {"tail": [None]}}, "text or a number"),
        ({"gradient": "{right} + {lft}"}, "'lft' is used but has no options; .choices. has "),
        ({"gradient": "{right}"}, "'left' is never used"),
        ({"choices": MINE["choices"] | {"tail": ["{left}"]}}, "cycle"),
        ({"gradient": 3}, "a text"),
    ],
)
def test_broken_templates_are_refused(change: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        template_space(MINE | change)


def test_what_no_candidate_can_be_is_named_at_once() -> None:
    with pytest.raises(SpecError, match=r"the option 'd\*x' of 'left'.*'d'"):
        template_space(MINE | {"choices": MINE["choices"] | {"left": ["d*x", "{tail}*x"]}})
    misspelt = {"gradiant" if key == "gradient" else key: value for key, value in MINE.items()}
    with pytest.raises(SpecError, match="unknown field 'gradiant'"):
        template_space(misspelt)


def test_options_are_never_evaluated() -> None:
    evil = [
        "__import__('os').system('true')",
        "x.__class__",
        "(lambda: 1)()",
        "1) + (x",
        "a if a else x",
    ]
    for option in evil:
        with pytest.raises(SpecError, match="of 'right'"):
            template_space(MINE | {"choices": MINE["choices"] | {"right": ["x", option]}})


def test_a_space_without_specs_says_so() -> None:
    choices = MINE["choices"] | {"right": ["1." + "0" * 2400]}
    space = template_space(MINE | {"gradient": "{right} + {right} + {left}", "choices": choices})
    with pytest.raises(ig.Error, match="longer"):
        first_admitted(space, lambda: ((*choices["right"], "{tail}*tanh(x)", "a"), (), "new"))
