"""Whether a winner holds outside the search that chose it: a matched study, planned and read.

Selection is not evidence: of many candidates the best is the luckiest as well. A confirmation has
seeds, text and sizes that the search has not seen, and decides by the rules of studies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrand.activation import derive
from integrand.errors import Error
from integrand.search.tiny import SIZE
from integrand.spec import Spec
from integrand.train import TrainConfig, Variant
from integrand.train.studies import Plan, Rung
from integrand.train.studies.comparisons import comparisons
from integrand.train.studies.recipes import SIZES as LADDER
from integrand.train.studies.recipes import size
from integrand.train.studies.records import load

REFERENCES = (
    Variant(name="SwiGLU", activation="silu", gated=True),
    Variant(name="ReLU2", activation="relu2"),
    Variant(name="xIELU", activation="xielu"),
)
SIZES = ("0.2M", "0.5M")
LEAST_SEEDS = 5
UNCLEAR = "cannot tell"


def confirmation(
    winners: Sequence[Spec],
    data: str,
    *,
    sizes: Sequence[str] = SIZES,
    seeds: tuple[int, int] = (5, 10),
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """The study of winners against SwiGLU, ReLU^2 and xIELU, for `run_study`.

    Every winner is compared with every reference at equal tokens; rates are swept at the first
    size. `data` is text that the search has not read (`split_documents`).

    Args:
        sizes: two or more of the ladder's, ascending, none of them the search's own.
        seeds: at least and at most; the spread decides (`Plan`).
        changes: fields of every size's `TrainConfig`.

    Raises:
        Error: a size or a number of seeds that would confirm nothing, equal winners, or one that
            cannot be derived.
    """
    check_sizes(sizes)
    if seeds[0] < LEAST_SEEDS:
        raise Error(f"a confirmation needs {LEAST_SEEDS} paired seeds or more, got {seeds[0]}")
    acts = {label(spec): derive(spec) for spec in winners}
    if len(acts) < len(winners) or not winners:
        raise Error(f"winners must be one or more and differ, got {', '.join(acts) or 'none'}")
    variants = (*REFERENCES, *(Variant(name=name, activation=name) for name in acts))
    return Plan(
        name="confirmation",
        rungs=tuple(
            Rung(
                name=name,
                config=_config(name, data, changes or {}),
                variants=variants,
                tuned=place == 0,
                short=False,
            )
            for place, name in enumerate(sizes)
        ),
        rates=(5e-3, 1e-2, 2e-2),
        seeds_at_least=seeds[0],
        seeds_at_most=seeds[1],
        # besides all with SwiGLU, the first of the variants
        pairs=tuple((r.name, name) for r in REFERENCES[1:] for name in acts),
        activations=acts,
    )


def check_sizes(sizes: Sequence[str]) -> None:
    """Raises `Error` for sizes that would confirm nothing."""
    known = [name for name in LADDER if name != SIZE]
    if len(sizes) < 2 or list(sizes) != [name for name in known if name in sizes]:
        raise Error(
            f"a confirmation needs two or more sizes of {', '.join(known)}, ascending (the search"
            f" is at {SIZE}), got {', '.join(sizes) or 'none'}; {' and '.join(SIZES)} are usual"
        )


def _config(name: str, data: str, changes: Mapping[str, Any]) -> TrainConfig:
    return dataclasses.replace(size(name, data, compiled=False), **changes)


def label(spec: Spec) -> str:
    """A winner's name in the study: names of a space may repeat, what is computed decides."""
    return f"{spec.name}-{spec.sha256[:8]}"


def confirmed(winners: Sequence[Spec], folder: Path | str) -> list[dict[str, Any]]:
    """Rows `name gradient verdict seeds against` from the folder of a confirmation, so far.

    `gradient` (or `function`) is the text. `against` has one row `reference size difference ci
    verdict seeds` per comparison, difference in nats per token, below 0 where the winner is better.
    `verdict` is "better" or "worse" where that is the word of every one of them with five seeds or
    more, else "cannot tell"; `seeds` the fewest of any.

    Raises:
        DataError: the folder holds no study, or one that cannot be compared.
    """
    study = load(folder)
    found = {
        (row["rung"], row["a"], row["b"]): row
        for row in comparisons(study)
        if row["at"] == "tokens"
    }
    places = [(rung, reference.name) for rung in study.rungs for reference in REFERENCES]
    return [
        _row(spec, [_against(*place, found.get((*place, label(spec)), {})) for place in places])
        for spec in winners
    ]


def _against(rung: str, reference: str, compared: Mapping[str, Any]) -> dict[str, Any]:
    seeds = compared.get("n") or 0
    word = compared.get("verdict", UNCLEAR)
    return {
        "reference": reference, "size": rung, "difference": compared.get("difference"),
        "ci": compared.get("ci"), "seeds": seeds,
        "verdict": word if seeds >= LEAST_SEEDS and word in ("better", "worse") else UNCLEAR,
    }  # fmt: skip


def _row(spec: Spec, against: list[dict[str, Any]]) -> dict[str, Any]:
    words = {row["verdict"] for row in against}
    sizes = {row["size"] for row in against}
    return {
        "name": label(spec),
        spec.kind: spec.gradient or spec.function,
        "verdict": words.pop() if len(words) == 1 and len(sizes) > 1 else UNCLEAR,
        "seeds": min((row["seeds"] for row in against), default=0),
        "against": against,
    }
