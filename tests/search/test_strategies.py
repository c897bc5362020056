"""Strategies learn, are deterministic, and find a planted gradient."""

import math
import operator
from itertools import islice

import pytest
import torch

from integrand.search.candidate import Candidate, Space
from integrand.search.controller import Controller
from integrand.search.evolution import Evolution
from integrand.search.function_space import function_space
from integrand.search.gradient_space import GradientSpace
from integrand.search.loop import evaluations
from integrand.search.pareto import Archive, dominates, scalar
from integrand.search.planted import planted
from integrand.search.profile import profile
from integrand.search.strategy import Exhaustive, Random, Standing, Strategy
from integrand.search.templates import template_space
from integrand.spec import row

SMALL = template_space(
    {
        "name": "small",
        "gradient": "{a}*x + {b}*tanh({c}*x) + {d}",
        "choices": {
            "a": [0, 1, 2, 3],
            "b": [0, 1, 2, 3],
            "c": [1, 2, 3, 4],
            "d": [0, 0.5, 1, 2],
        },
    }
)


def made(name: str, space: Space, seed: int) -> Strategy:
    match name:
        case "random":
            return Random(space, seed)
        case "exhaustive":
            return Exhaustive(space)
        case "evolution":
            return Evolution(space, seed, population=8, sample=4)
    return Controller(space, seed, batch=5, hidden=8)


def score(candidate: Candidate) -> float | None:
    """A number of the genome alone; some are refused."""
    a, b, c, d = map(float, candidate.genome)
    return None if c == 4 else abs(a - 2) + abs(b - 1) + abs(c - 3) + abs(d - 0.5)


def standing(candidate: Candidate) -> Standing | None:
    found = score(candidate)
    return None if found is None else Standing(0, found)


def proposed(strategy: Strategy, n: int) -> list[tuple]:
    found = []
    for _ in range(n):
        candidate = strategy.ask()
        found.append((candidate.genome, candidate.parents, candidate.operation))
        strategy.tell(candidate, standing(candidate))
    return found


NAMES = ["random", "exhaustive", "evolution", "controller"]


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_by_seed(name: str) -> None:
    assert proposed(made(name, SMALL, 3), 28) == proposed(made(name, SMALL, 3), 28)


@pytest.mark.parametrize("name", ["random", "evolution", "controller"])
def test_seeds_differ(name: str) -> None:
    assert proposed(made(name, SMALL, 0), 20) != proposed(made(name, SMALL, 1), 20)


@pytest.mark.parametrize("name", ["evolution", "controller"])
def test_scores_are_learnt(name: str) -> None:
    def mean(strategy: Strategy) -> float:
        # of 256 in all, which a controller does not repeat
        late = proposed(strategy, 80)[-30:]
        scores = [score(Candidate(SMALL.spec(genome), genome)) for genome, *_ in late]
        return sum(4.0 if s is None else s for s in scores) / len(scores)

    by_chance = mean(Random(SMALL, 0))
    strategy = Controller(SMALL, 0, entropy=0.0, rate=0.02) if name == "controller" else None
    assert mean(strategy or Evolution(SMALL, 0, population=16, sample=6)) < 0.7 * by_chance


def test_scores_in_any_order_and_of_others_are_welcome() -> None:
    for name in NAMES:
        strategy, other = made(name, SMALL, 0), Random(SMALL, 1)
        asked = [strategy.ask() for _ in range(12)] + [other.ask()]
        for candidate in reversed(asked):
            strategy.tell(candidate, standing(candidate))
        assert strategy.ask() is not None


def test_evolution_records_lineage_and_buries_the_oldest() -> None:
    strategy = Evolution(SMALL, 0, population=6, sample=3, crossover=1.0)
    first = [strategy.ask() for _ in range(6)]
    for candidate in first:
        strategy.tell(candidate, Standing(0, 0.0))
    child = strategy.ask()
    assert {*child.parents} <= {c.key for c in first} and len(child.parents) == 2
    assert child.operation.startswith("cross, change")
    strategy.tell(child, Standing(0, 5.0))
    # the newest stays however bad it is, the oldest goes however good
    keys = [key for _, key, _ in strategy.alive]
    assert keys == [c.key for c in [*first[1:], child]]


def test_the_controller_reinforces_who_climbs_later(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Controller(SMALL, 0, batch=8, hidden=8)
    gains: list[list[float]] = []
    monkeypatch.setattr(strategy, "_reinforce", lambda batch, gain: gains.append(gain.tolist()))
    late, *others = (strategy.ask() for _ in range(15))
    strategy.tell(late, Standing(1, 9.0))
    for n, candidate in enumerate(others):
        if n == 7:
            strategy.tell(late, Standing(0, 5.0))
        strategy.tell(candidate, Standing(1, float(n)))
    first, second = gains
    assert first[0] == min(first) < 0
    assert second[0] == max(second) > 0
    # refused where it climbed to, at once
    for found in (Standing(0, 1.0), None, *[Standing(1, 1.0)] * 6):
        strategy.tell(others[0], found)
    assert gains[2][0] == max(gains[2]) and gains[2][1] == min(gains[2])


def test_the_controller_imitates_the_best_it_has_met() -> None:
    def share(imitation: float) -> float:
        strategy = Controller(SMALL, 0, batch=4, hidden=8, best=3, imitation=imitation)
        asked = {c.options: c for c in (strategy.ask() for _ in range(30))}
        best, again, *others = asked.values()
        strategy.tell(best, Standing(0, 1.0))
        for _ in range(2):  # a second one as good does not take a place, a better standing does
            strategy.tell(again, Standing(0, 2.0))
        for candidate in others[:20]:
            strategy.tell(candidate, Standing(0, 3.0))
        assert [*strategy.queue] == [Standing(0, score) for score in (1.0, 2.0, 3.0)]
        strategy.tell(again, Standing(0, 0.5))
        assert [*strategy.queue] == [Standing(0, score) for score in (0.5, 1.0, 3.0)]
        strategy.tell(again, None)  # refused where it climbed to
        assert [*strategy.queue] == [Standing(0, score) for score in (1.0, 3.0)]
        near = lambda c: sum(map(operator.eq, c.options, best.options)) == 3  # noqa: E731
        return sum(near(strategy.ask()) for _ in range(300)) / 300

    assert share(1.0) > 1.3 * share(0.0)


def test_the_controller_proposes_what_it_has_not_tried_however_sure_it_is() -> None:
    strategy = Controller(SMALL, 0, hidden=8)
    best = strategy.ask()
    with torch.no_grad():
        for first, _, option in strategy._decisions(best.options):
            strategy.policy.head.bias[first + option] = 20.0
    assert [strategy.ask().options for _ in range(5)] == [best.options] * 5
    strategy.tell(best, Standing(0, 0.0))
    asked = []
    for _ in range(40):
        asked.append(strategy.ask())
        strategy.tell(asked[-1], Standing(0, 1.0) if len(asked) % 2 else None)
    assert len({best.options, *(c.options for c in asked)}) == 41


def test_a_controller_that_has_tried_everything_goes_by_chance() -> None:
    space = template_space({"name": "two", "gradient": "{a}*x + 1", "choices": {"a": [1, 2]}})
    strategy = Controller(space, 0, hidden=8)
    for _ in range(30):
        strategy.tell(strategy.ask(), Standing(0, 0.0))
    assert len(strategy.known) == 2 and len(strategy.heats) == 1


def test_the_controller_learns_from_order_alone() -> None:
    def asked(scale: float) -> list[tuple[int, ...]]:
        strategy, found = Controller(SMALL, 0, batch=5, hidden=8), []
        for _ in range(20):
            found.append(strategy.ask())
            merit = standing(found[-1])
            strategy.tell(found[-1], merit and Standing(merit.below, math.exp(scale * merit.merit)))
        return [c.options for c in found]

    assert asked(1.0) == asked(50.0)


def test_equivalents_are_evaluated_once() -> None:
    asked: list[str] = []

    def objective(candidate: Candidate) -> float:
        asked.append(candidate.spec.gradient or "")
        return 1.0

    found = list(evaluations(Exhaustive(SMALL), objective, 1000))
    # b = 0 makes c idle; what is left is equal up to scale now and then
    assert len(found) == len(asked) < 256
    assert found[-1].asked <= 256
    assert len(list(islice(evaluations(Exhaustive(SMALL), objective, 5), 10))) <= 5


def test_the_catalogue_target_has_distance_0() -> None:
    spec = row("xielu").spec
    objective = planted(spec)
    assert objective(Candidate(spec, ())) < 1e-7
    ramp = function_space(1).spec(("max(x,0)", "max(x,0)", "a*b"))
    # xIELU's gradient against 2 relu(x): one minus the squared cosine, in closed form
    p = profile(spec)
    inner = p.mean(p.g * (p.x.clip(0) * 2))
    expected = math.sqrt(1 - inner**2 / (p.mean(p.g**2) * 2))
    assert objective(Candidate(ramp, ())) == pytest.approx(expected, rel=1e-12)


def first_within(strategy: Strategy, distance: float, budget: int) -> int:
    """Evaluations until the planted gradient is that near; the budget where it never is."""
    run = evaluations(strategy, planted(row("xielu").spec), 2 * budget)
    for count, e in enumerate(islice(run, budget), 1):
        if e.score is not None and e.score <= distance:
            return count
    return budget


def test_a_planted_gradient_is_found_sooner_than_by_chance() -> None:
    # benchmarks/search_planted.py does it for five seeds and a smaller distance
    space = GradientSpace()
    evolution = first_within(Evolution(space, 4), 0.1, 400)
    controller = first_within(Controller(space, 4), 0.1, 400)
    assert max(evolution, controller) < 400
    assert first_within(Random(space, 4), 0.1, 1 + max(evolution, controller)) > max(
        evolution, controller
    )


def test_pareto() -> None:
    a, b = {"loss": 1.0, "cost": 5.0}, {"loss": 2.0, "cost": 3.0}
    assert not dominates(a, b) and not dominates(b, a) and not dominates(a, a)
    assert dominates(a, {"loss": 1.0, "cost": 6.0})
    archive = Archive()
    assert archive.add("a", a) and archive.add("b", b)
    assert not archive.add("again", a) and not archive.add("nan", {"loss": math.nan, "cost": 0.0})
    assert not archive.add("worse", {"loss": 2.5, "cost": 3.0})
    assert archive.add("c", {"loss": 1.0, "cost": 3.0})
    assert [*archive.front] == ["c"]


def test_the_scalar_rule_reaches_a_dent_of_the_front() -> None:
    # the middle point lies above the line through its neighbours: no weighted sum prefers it
    front = {"left": (0.0, 1.0), "middle": (0.6, 0.6), "right": (1.0, 0.0)}
    scores = {
        name: scalar({"loss": x, "cost": y}, {"loss": 1.0, "cost": 1.0})
        for name, (x, y) in front.items()
    }
    assert min(scores, key=scores.__getitem__) == "middle"
    assert scalar({"loss": 2.0}, {"loss": 2.0}) == pytest.approx(4.2)
    assert scalar({"loss": 1.0}, {"loss": 1.0, "cost": 1.0}) is None
    assert scalar({"loss": math.inf}, {"loss": 1.0}) is None
