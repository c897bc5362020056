"""Every pair of variants at every rung: at equal tokens, at equal time, and to an equal loss."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from integrand.train.studies.budgets import NotMeasured, log_tokens_to, loss_at
from integrand.train.studies.records import Study
from integrand.train.studies.statistics import (
    ALPHA,
    Estimate,
    estimate,
    holm,
    min_detectable_effect,
    paired,
    verdict,
)


def comparisons(study: Study) -> list[dict[str, Any]]:
    """Rows `rung a b at unit difference ci p p_corrected verdict n sd`; below 0 b is better.

    Decided together (Holm) are the pairs of one rung with the same a, at one way of comparing. A
    row that cannot be had says "not measured" and why.
    """
    return [
        row
        for rung in study.rungs
        for at in MEASURES
        for family in families(study.pairs_at(rung))
        for row in _decided([_row(study, rung, a, b, at, len(family)) for a, b in family])
    ]


def families(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Pairs that answer one question: those with the same a."""
    found: dict[str, list[tuple[str, str]]] = {}
    for a, b in pairs:
        found.setdefault(a, []).append((a, b))
    return list(found.values())


def _row(study: Study, rung: str, a: str, b: str, at: str, pairs: int) -> dict[str, Any]:
    measure, unit = MEASURES[at]
    row: dict[str, Any] = {"rung": rung, "a": a, "b": b, "at": at, "unit": unit}
    try:
        found = measure(study, rung, a, b)
    except NotMeasured as reason:
        nothing = dict.fromkeys(("difference", "ci", "p", "p_corrected", "n", "sd"))
        return {**row, **nothing, "verdict": "not measured", "reason": str(reason)}
    scale: Callable[[float], float] = math.expm1 if at == "tokens_to_equal_loss" else float
    row |= {"difference": scale(found.mean), "ci": found.ci and [scale(v) for v in found.ci]}
    row |= {"p": found.p, "n": found.n, "sd": found.sd}
    if lost := {v: s for v in (a, b) if (s := study.diverged(rung, v))}:
        # those that are left were chosen by their luck
        row |= {"diverged": lost, "reason": f"{', '.join(lost)} diverged at {rung}"}
    if unit == "nats":
        row |= detectable(found, pairs)
    return row


def _decided(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    corrected = holm([row["p"] for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        if row["difference"] is not None:
            word = "cannot tell" if "diverged" in row else verdict(row["difference"], p)
            row |= {"p_corrected": p, "verdict": word}
    return rows


def detectable(found: Estimate, pairs: int) -> dict[str, float | None]:
    """What this many seeds with this spread show with power 0.8: alone, and if `pairs` decide
    together, the first of them at ALPHA / pairs."""
    if found.sd is None:
        return {"min_detectable_effect": None, "min_detectable_effect_corrected": None}
    return {
        "min_detectable_effect": min_detectable_effect(found.sd, found.n),
        "min_detectable_effect_corrected": min_detectable_effect(found.sd, found.n, ALPHA / pairs),
    }


def differences(study: Study, rung: str, a: str, b: str) -> dict[int, float]:
    """Loss of b less that of a by seed, at equal tokens."""
    first, second = study.runs(rung, a), study.runs(rung, b)
    return {s: second[s]["loss"] - first[s]["loss"] for s in sorted(first.keys() & second.keys())}


def _tokens(study: Study, rung: str, a: str, b: str) -> Estimate:
    first, second = study.runs(rung, a), study.runs(rung, b)
    shared = _some(first.keys() & second.keys(), f"{a} and {b} at {rung} share no finished seed")
    return paired([first[s]["loss"] for s in shared], [second[s]["loss"] for s in shared])


def _wall_clock(study: Study, rung: str, a: str, b: str) -> Estimate:
    """b after as much time as a's whole run takes; the interval spans that of the step times."""
    ratio, *ends = study.time_ratio(rung, a, b)
    first, short, main, shared = _with_short(study, rung, a, b)
    middle, *others = (
        estimate([loss_at(short[s], main[s], 1 / r) - first[s]["loss"] for s in shared])
        for r in (ratio, *ends)
    )
    if middle.ci is None or middle.p is None:
        return middle
    cis = [e.ci for e in (middle, *others) if e.ci is not None]
    ci = (min(c[0] for c in cis), max(c[1] for c in cis))
    agree = all(e.mean * middle.mean > 0 for e in others)
    p = max(e.p for e in (middle, *others) if e.p is not None) if agree else 1.0
    return Estimate(middle.n, middle.mean, middle.sd, ci, p)


def _tokens_to_equal_loss(study: Study, rung: str, a: str, b: str) -> Estimate:
    """ln of the share of a's tokens that b needs for a's loss: a mean of logs."""
    first, short, main, shared = _with_short(study, rung, a, b)
    return estimate([log_tokens_to(short[s], main[s], first[s]["loss"]) for s in shared])


def _with_short(study: Study, rung: str, a: str, b: str) -> tuple[Any, Any, Any, list[int]]:
    first, main, short = (
        study.runs(rung, a),
        study.runs(rung, b),
        study.runs(rung, b, "short"),
    )
    shared = _some(
        first.keys() & main.keys() & short.keys(),
        f"{b} at {rung} has no short run of a seed that {a} was trained with",
    )
    return first, short, main, shared


def _some(seeds: Iterable[int], otherwise: str) -> list[int]:
    found = sorted(seeds)
    if not found:
        raise NotMeasured(otherwise)
    return found


MEASURES: dict[str, tuple[Callable[[Study, str, str, str], Estimate], str]] = {
    "tokens": (_tokens, "nats"),
    "wall_clock": (_wall_clock, "nats"),
    "tokens_to_equal_loss": (_tokens_to_equal_loss, "share of tokens"),
}
