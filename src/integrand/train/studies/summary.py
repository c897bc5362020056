"""`summarise`: from the records of a study to its summary.json."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from integrand.errors import Error
from integrand.train.studies import depth, scaling
from integrand.train.studies.comparisons import comparisons, differences, families
from integrand.train.studies.rates import best_rate, sweep
from integrand.train.studies.records import Record, Study, checks, load
from integrand.train.studies.statistics import ALPHA, POWER, Estimate, estimate, holm, seeds_needed

MANY = 1000


def summarise(folder: Path | str) -> dict[str, Any]:
    """The study in a folder as one plain object, with everything that its report shows.

    An unfinished study gives what it has, with `progress` and `missing`.

    Raises:
        DataError: a file is missing, or the runs cannot be compared (see `load`).
    """
    study = load(folder)
    compared = comparisons(study)
    return {
        "kind": "study",
        "name": study.plan.get("name", ""),
        "baseline": study.baseline,
        "rungs": [row for rung in study.rungs if (row := _rung(study, rung, compared))],
        "variants": [row for g in study.rungs for v in study.variants for row in _row(study, g, v)],
        "comparisons": compared,
        "min_detectable_effect": _largest(compared, "min_detectable_effect"),
        "alpha": ALPHA,
        "power": POWER,
        "resolve": study.plan.get("resolve"),
        "ladder": _ladder(study),
        "depth": [row for rung in study.rungs for row in _depth(study, rung)],
        "tuning": [
            row for g in study.rungs for v in study.variants for row in _tuning(study, g, v)
        ],
        "curves": [row for g in study.rungs for v in study.variants for row in _curve(study, g, v)],
        "timing": study.timing,
        "checks": checks(study),
        "progress": study.progress(),
        "missing": study.missing(),
        "data_sha256": study.records[0]["data_sha256"],
        "environment": study.records[0].get("environment"),
        "environments": len({str(r.get("environment")) for r in study.records}),
        "command": study.plan.get("command", ""),
    }


def _row(study: Study, rung: str, variant: str) -> list[dict[str, Any]]:
    every, runs = study.all_runs(rung, variant), list(study.runs(rung, variant).values())
    if not every:
        return []
    first = every[0]
    losses = estimate([r["loss"] for r in runs]) if runs else Estimate(0, math.nan)
    row = {
        "name": variant,
        "rung": rung,
        "parameters": first["parameters"],
        "tokens": first["tokens"],
        "flops": first["flops_per_token"] * first["tokens"],
        "lr": first["lr"],
        "seeds": [r["seed"] for r in runs],
        "diverged": [r["seed"] for r in every if r not in runs],
        "loss_mean": losses.mean if runs else None,
        "loss_sd": losses.sd,
        "loss_ci": losses.ci and list(losses.ci),
    }
    for key in ("bits_per_byte", "wall_s", "tokens_per_s", "mfu"):
        row[key] = _mean([r[key] for r in runs if r.get(key) is not None])
    row["memory_bytes"] = max((r["memory_bytes"] or 0 for r in every), default=0) or None
    row["activation_values"] = _layer_means([r["activation_values"] for r in runs])
    found = [r["outliers"] for r in runs if r.get("outliers")]
    # extremes depend on how many elements were looked at: not to be mixed
    counted = [o for o in found if "elements" in o]
    row["outliers"] = _layer_means(counted or found)
    return [row]


def _rung(study: Study, rung: str, compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the seeds of a rung can show, and how many would show the effect asked for."""
    own = [r for r in compared if r["rung"] == rung and r["at"] == "tokens"]
    sd, resolve = _largest(own, "sd"), study.plan.get("resolve")
    needed = None
    if sd is not None and resolve:
        alpha = ALPHA / max(len(f) for f in families(study.pairs_at(rung)))
        needed = seeds_needed(sd, resolve, at_most=MANY, alpha=alpha)
    return {
        "name": rung,
        "sd": sd,
        "min_detectable_effect": _largest(own, "min_detectable_effect"),
        "min_detectable_effect_corrected": _largest(own, "min_detectable_effect_corrected"),
        "seeds_needed": needed,  # MANY: that many or more
    }


def _ladder(study: Study) -> dict[str, Any]:
    fits = []
    for variant in study.variants:
        rungs = [(g, runs) for g in study.rungs if (runs := study.runs(g, variant))]
        compute = [_flops(next(iter(runs.values()))) for _, runs in rungs]
        losses = [[r["loss"] for r in runs.values()] for _, runs in rungs]
        row: dict[str, Any] = {"variant": variant, "compute": compute}
        row["losses"] = losses
        try:
            found = scaling.fit(compute, losses)
        except Error as reason:
            fits.append({**row, "fit": None, "reason": str(reason)})
            continue
        numbers = {k: getattr(found, k) for k in ("form", "E", "A", "a", "reference")}
        line = np.geomspace(min(compute), max(compute), 40)
        fits.append(
            {**row, "fit": {**numbers, "ci": _listed(found.ci)}, "line": _line(found, line)}
        )
    return {"fits": fits, "trends": _trends(study)}


def _listed(ci: Mapping[str, tuple[float, float]] | None) -> dict[str, list[float]] | None:
    return None if ci is None else {name: list(ends) for name, ends in ci.items()}


def _line(found: scaling.Fit, compute: Any) -> list[list[float]]:
    return [[float(f"{c:.6g}"), float(f"{found.at(c):.6g}")] for c in compute]


def _trends(study: Study) -> list[dict[str, Any]]:
    return [
        row
        for family in families(study.pairs)
        for row in _decided([_trend(study, a, b) for a, b in family])
    ]


def _trend(study: Study, a: str, b: str) -> dict[str, Any]:
    rungs = [(g, d) for g in study.rungs if (d := differences(study, g, a, b))]
    compute = [_flops(next(iter(study.runs(g, b).values()))) for g, _ in rungs]
    row: dict[str, Any] = {"a": a, "b": b, "unit": "nats per tenfold compute"}
    try:
        return {**row, **_plain(scaling.trend(compute, [d for _, d in rungs]))}
    except Error as reason:
        nothing = {"change": None, "p": None, "verdict": "not measured"}
        return {**row, **nothing, "reason": str(reason)}


def _decided(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    words = {True: "more favourable with scale", False: "less favourable with scale"}
    for row, p in zip(rows, holm([r["p"] for r in rows]), strict=True):
        if row["change"] is not None:
            clear = p is not None and p < ALPHA
            row["p_corrected"] = p
            row["verdict"] = words[row["change"] < 0] if clear else "cannot tell"
    return rows


def _depth(study: Study, rung: str) -> list[dict[str, Any]]:
    """Nonlinearity and parameters by layer; variants with one reference decided together."""
    rows: list[dict[str, Any]] = []
    for variant in study.variants:
        runs = [r for r in study.runs(rung, variant).values() if r["activation_values"]]
        if not runs or len(next(iter(runs[0]["activation_values"].values()))) < 2:
            continue
        base: dict[str, Any] = {"rung": rung, "variant": variant}
        try:
            layers = [_nonlinearity(r) for r in runs]
        except Error as reason:
            layers = None
            said = {"measure": "nonlinearity", "change": None, "verdict": "not measured"}
            rows.append({**base, **said, "reason": str(reason)})
        measured = {"nonlinearity": layers} if layers else {}
        for name in runs[0]["activation_values"]:
            measured[name] = [_per_layer(r["activation_values"][name]) for r in runs]
        for name, per_seed in measured.items():
            by_layer = [float(v) for v in np.mean(per_seed, axis=0)]
            change = depth.over_depth(per_seed)
            rows.append({**base, "measure": name, "by_layer": by_layer, **_plain(change)})
    of = {b: a for a, b in study.pairs}
    family: dict[tuple[bool, str | None], list[dict[str, Any]]] = {}
    for row in (r for r in rows if r["change"] is not None):
        family.setdefault((row["measure"] == "nonlinearity", of.get(row["variant"])), []).append(
            row
        )
    for (is_claim, _), together in family.items():
        say = depth.claim if is_claim else depth.direction
        for row, p in zip(together, holm([r["p"] for r in together]), strict=True):
            change = Estimate(row["n"], row["change"], ci=row["ci"] and tuple(row["ci"]))
            row |= {"p_corrected": p, "verdict": say(change, p)}
    return rows


def _nonlinearity(record: Record) -> list[float]:
    from integrand.activation import activation

    name = record["config"]["activation"]
    return depth.nonlinearity_by_layer(activation(name), record["activation_values"])


def _tuning(study: Study, rung: str, variant: str) -> list[dict[str, Any]]:
    tried = sweep(study.records, rung, variant)
    if not tried:
        return []
    row: dict[str, Any] = {"rung": rung, "variant": variant}
    points = [
        {"lr": lr, "losses": [v if math.isfinite(v) else None for v in losses]}
        for lr, losses in tried.items()
    ]
    try:
        best, edge = best_rate(study.records, rung, variant)
    except Error as reason:
        return [{**row, "points": points, "best": None, "at_edge": None, "reason": str(reason)}]
    used = {r["lr"] for r in study.all_runs(rung, variant)}
    return [
        {**row, "points": points, "best": best, "at_edge": edge, "used": used <= {best}},
    ]


def _curve(study: Study, rung: str, variant: str) -> list[dict[str, Any]]:
    """Means over seeds by step, at the steps that all runs have."""
    runs = list(study.runs(rung, variant).values())
    if not runs:
        return []
    held = [{step: loss for step, loss, *_ in r["held_out"]} for r in runs]
    values = [{step: v for step, v in r.get("activation_history") or [] if v} for r in runs]
    return [
        {
            "rung": rung,
            "variant": variant,
            "held_out": [[s, _short(_mean([h[s] for h in held]))] for s in _shared(held)],
            "activation": [
                {"step": s, "values": _layer_means([v[s] for v in values])} for s in _shared(values)
            ],
        }
    ]


def _shared(by_step: Sequence[Mapping[int, Any]]) -> list[int]:
    return sorted(set.intersection(*(set(d) for d in by_step)))


def _layer_means(values: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Means over seeds, and over channels, per layer."""
    if not values:
        return {}
    return {
        name: [_short(v) for v in np.mean([_per_layer(seed[name]) for seed in values], axis=0)]
        for name in values[0]
    }


def _per_layer(layers: Sequence[Any]) -> list[float]:
    return [float(np.mean(v)) for v in layers]


def _plain(found: Estimate) -> dict[str, Any]:
    return {
        "change": found.mean,
        "sd": found.sd,
        "ci": found.ci and list(found.ci),
        "p": found.p,
        "n": found.n,
    }


def _flops(record: Record) -> float:
    return record["flops_per_token"] * record["tokens"]


def _largest(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = [r[key] for r in rows if r["at"] == "tokens" and r.get(key) is not None]
    return max(found, default=None)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _short(value: float | None) -> float:
    return float(f"{value:.6g}")
