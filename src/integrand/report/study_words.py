"""What a study found, in sentences and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integrand.report.tables import Cell, Table, number

Data = Mapping[str, Any]
_KIND = {"better": "good", "worse": "bad"}


def headline(summary: Data) -> list[str]:
    """Per reference, what the largest rung compared shows; then what the study cannot see."""
    said = []
    for a in dict.fromkeys(r["a"] for r in summary["comparisons"]):
        for at in ("tokens", "wall_clock", "tokens_to_equal_loss"):
            of = [r for r in summary["comparisons"] if (r["a"], r["at"]) == (a, at)]
            measured = [r for r in of if r["difference"] is not None]
            if measured:
                largest = measured[-1]["rung"]
                said.append(_sentence(summary, [r for r in measured if r["rung"] == largest]))
    effect = summary["min_detectable_effect"]
    if effect is not None:
        corrected = max(r["min_detectable_effect_corrected"] or 0 for r in summary["rungs"])
        said.append(
            f"With a chance of {summary['power']:g} every comparison at equal tokens shows a true "
            f"difference of {number(effect, 2)} nats, {number(corrected, 2)} after correction."
        )
    for row in summary["rungs"]:
        needed, wanted = row["seeds_needed"], summary["resolve"]
        if needed and (row["min_detectable_effect_corrected"] or 0) > wanted:
            many = "1,000 seeds or more" if needed >= 1000 else f"about {needed} seeds"
            said.append(f"It cannot resolve {wanted:g} nats at {row['name']}: that takes {many}.")
    for row in summary["variants"]:
        if row["diverged"]:
            seeds = ", ".join(map(str, row["diverged"]))
            said.append(f"Diverged: {row['name']} at {row['rung']}, seed {seeds}.")
    if summary["missing"]:
        main = summary["progress"]["main"]
        said.append(
            f"Not finished: {main['finished']} of {main['planned']} main runs are done; the same "
            "command goes on."
        )
    failed = [c["what"] for c in summary["checks"] if not c["ok"]]
    if failed:
        said.append(f"Not matched: {', '.join(failed)}.")
    return said or ["No pair of variants has finished runs of the same seed yet."]


def _sentence(summary: Data, rows: Sequence[Data]) -> str:
    """Every variant against one reference at one rung, grouped by verdict."""
    a, b, rung, at = (rows[0][k] for k in ("a", "b", "rung", "at"))
    own = next(v for v in summary["variants"] if (v["name"], v["rung"]) == (b, rung))
    size, tokens = (number(own[key] / 1e6) for key in ("parameters", "tokens"))
    where = {
        "tokens": f"Against {a} at {size} million parameters and {tokens} million tokens",
        "wall_clock": f"In the time of {a} at {size} million parameters",
        "tokens_to_equal_loss": f"Tokens to the loss of {a} at {size} million parameters",
    }[at]
    groups = []
    for word in ("better", "worse", "cannot tell"):
        named = [f"{r['b']} {difference(r)}" for r in rows if r["verdict"] == word]
        if named:
            groups.append(f"{word}: {', '.join(named)}")
    seeds = "–".join(map(str, sorted({r["n"] for r in rows})))
    unit = "nats per token, " if at != "tokens_to_equal_loss" else ""
    return f"{where} ({unit}{seeds} {'seed' if seeds == '1' else 'seeds'}), {'; '.join(groups)}."


def difference(row: Data) -> str:
    """A signed difference with its interval; tokens as a percentage."""
    if row["difference"] is None:
        return "–"
    percent = row["unit"] == "share of tokens"

    def signed(value: float) -> str:
        return (f"{100 * value:+.0f} %" if percent else f"{value:+.4f}").replace("-", "−")

    ends = f" [{signed(row['ci'][0])}, {signed(row['ci'][1])}]" if row["ci"] else ""
    return signed(row["difference"]) + ends


def results(summary: Data) -> Table:
    """One line per rung and variant with its loss and the differences from its reference, and one
    for each further reference."""
    head = ["size", "variant", "parameters", "tokens", "seeds", "held-out loss", "bits per byte",
            "against", "equal tokens", "verdict", "equal time", "verdict",
            "tokens to equal loss"]  # fmt: skip
    lines, breaks, before = [], set(), None
    for row in summary["variants"]:
        if before not in (None, row["rung"]):
            breaks.add(len(lines))
        before = row["rung"]
        found: dict[str, dict[str, Data]] = {}
        for r in summary["comparisons"]:
            if (r["rung"], r["b"]) == (row["rung"], row["name"]):
                found.setdefault(r["a"], {})[r["at"]] = r
        own = [
            Cell(row["rung"]),
            Cell(row["name"]),
            Cell(f"{row['parameters']:,}", "n"),
            Cell(f"{row['tokens']:,}", "n"),
            Cell(_seeds(row), "n"),
            Cell(_loss(row), "n"),
            Cell(number(row["bits_per_byte"], 4), "n"),
        ]
        for i, (against, by) in enumerate(found.items() or [("–", {})]):
            lines.append(
                [
                    *(own if i == 0 else [*own[:2], *([Cell("", "n")] * 5)]),
                    Cell(against, "aside"),
                    *_compared(by.get("tokens")),
                    *_compared(by.get("wall_clock")),
                    _compared(by.get("tokens_to_equal_loss"))[0],
                ]
            )
    return Table(head, lines, frozenset(breaks))


def _seeds(row: Data) -> str:
    lost = len(row["diverged"])
    return f"{len(row['seeds'])}" + (f", {lost} diverged" if lost else "")


def _loss(row: Data) -> str:
    if row["loss_mean"] is None:
        return "–"
    if row["loss_ci"] is None:
        return f"{row['loss_mean']:.4f}"
    return f"{row['loss_mean']:.4f} ± {(row['loss_ci'][1] - row['loss_ci'][0]) / 2:.4f}"


def _compared(row: Data | None) -> tuple[Cell, Cell]:
    if row is None:
        return Cell("–", "n aside"), Cell("–", "aside")
    return Cell(difference(row), "n"), Cell(row["verdict"], _KIND.get(row["verdict"], "aside"))


def trends(summary: Data) -> list[str]:
    """Does a difference change with scale, and how does loss fall with compute."""
    said = []
    for row in summary["ladder"]["trends"]:
        if row["change"] is None:
            continue
        text = f"{row['b']} against {row['a']}: {row['verdict']}"
        ends = row["ci"] and " [" + ", ".join(f"{v:+.4f}" for v in row["ci"]) + "]"
        text += f", {row['change']:+.4f}{ends or ''} nats per tenfold compute"
        said.append(text.replace("-", "−") + ".")
    for row in summary["ladder"]["fits"]:
        if row["fit"] is None:
            continue
        ci = row["fit"]["ci"]
        ends = f" (95 % interval {ci['a'][0]:.3f} to {ci['a'][1]:.3f})" if ci else ""
        floor = f"{row['fit']['E']:.3f} + " if row["fit"]["E"] else ""
        said.append(
            f"{row['variant']}: L = {floor}{row['fit']['A']:.3f} · (C/{row['fit']['reference']:.2g}"
            f" FLOPs)^−{row['fit']['a']:.3f}{ends}."
        )
    reasons = dict.fromkeys(r["reason"] for r in summary["ladder"]["fits"] if r.get("reason"))
    return said + [f"Without a fit: {reason}." for reason in reasons]


def depth_table(rows: Sequence[Data]) -> Table:
    """Change over depth of every measure, with its verdict."""
    head = ["size", "variant", "measure", "first layer", "last layer", "change", "95 % interval",
            "corrected p", "verdict"]  # fmt: skip
    lines = [
        [
            Cell(r["rung"]),
            Cell(r["variant"]),
            Cell(r["measure"]),
            *(Cell(number(r["by_layer"][i], 3), "n") for i in (0, -1)),
            Cell(f"{r['change']:+.4f}", "n"),
            Cell(" … ".join(f"{v:+.4f}" for v in r["ci"]) if r["ci"] else "–", "n"),
            Cell(number(r["p_corrected"], 2), "n"),
            Cell(r["verdict"]),
        ]
        for r in rows
        if r["change"] is not None
    ]
    return Table(head, lines)


def outliers_table(summary: Data) -> Table:
    """Of the hidden activation, means over seeds: its worst layer, and errors of fp8 products."""
    head = ["size", "variant", "kurtosis", "largest", "largest / rms", "fp8 error, %",
            "MXFP8 error, %"]  # fmt: skip
    keys = (("kurtosis", 1), ("max", 1), ("max_over_rms", 1), ("fp8_error", 100),
            ("mxfp8_error", 100))  # fmt: skip
    lines = [
        [
            Cell(row["rung"]),
            Cell(row["name"]),
            *(Cell(number(max(row["outliers"][key]) * unit, 3), "n") for key, unit in keys),
        ]
        for row in summary["variants"]
        if row["outliers"]
    ]
    return Table(head, lines)
