"""What a folder holds, as one plain object: the data of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.train.files import read_json, read_metrics

PARTS = ("derive", "certify", "bench", "study")


def collect(folder: Path | str) -> dict[str, Any]:
    """The parts found in a folder: `derive.json`, `certify.json`, `bench.json`, `study.json` and
    `about.json` of a demo, or the `summary.json` of a matched training.

    Raises:
        DataError: the folder is missing, or holds none of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; `integrand demo` makes runs/demo, and `integrand report`"
            " takes such a folder"
        )
    found = {p: read_json(folder / f"{p}.json") for p in PARTS if (folder / f"{p}.json").exists()}
    if not found and (folder / "summary.json").exists():
        found["study"] = with_curves(read_json(folder / "summary.json"), folder)
    if not found:
        names = ", ".join(f"{p}.json" for p in PARTS)
        raise DataError(
            f"{folder} holds none of {names} and summary.json; `integrand demo` and"
            " `integrand train` make them"
        )
    if (folder / "about.json").exists():
        found["about"] = read_json(folder / "about.json")
    return found


def with_curves(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A study's summary with `curves` by variant: `train` and `held_out` as [step, loss], and
    `activation` as values by step."""
    if summary.get("kind") != "study":
        raise DataError(f"{folder / 'summary.json'} must be of kind 'study'")
    curves = {}
    for variant in summary["variants"]:
        rows = list(read_metrics(folder / variant["metrics"]))
        curves[variant["name"]] = {
            "train": [[r["step"], r["loss"]] for r in rows if r["kind"] == "train"],
            "held_out": [[r["step"], r["loss"]] for r in rows if r["kind"] == "held_out"],
            "activation": [
                {"step": r["step"], "values": r["values"]}
                for r in rows
                if r["kind"] == "activation"
            ],
        }
    return {**summary, "curves": curves}
