"""Results as tables: built once, written as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from integrand.report.formula import letters

Row = Mapping[str, Any]

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
# a ratio within this of 1 is a draw on a machine with other work
DRAW = 0.05


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is a number (right-aligned), good, bad, or aside."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A heading per column, cells by row; `breaks` are rows that begin a new group."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    breaks: frozenset[int] = field(default=frozenset())

    def html(self) -> str:
        """A `<table>` inside a box that scrolls on a narrow screen."""
        numeric = [any(r[i].kind.startswith("n") for r in self.rows) for i in range(len(self.head))]
        head = "".join(
            f"<th{' class=n' if n else ''}>{escape(h)}</th>"
            for h, n in zip(self.head, numeric, strict=True)
        )
        body = []
        for place, row in enumerate(self.rows):
            cells = "".join(f'<td class="{c.kind}">{escape(c.text)}</td>' for c in row)
            group = ' class="group"' if place in self.breaks else ""
            body.append(f"<tr{group}>{cells}</tr>")
        return (
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def plain(self) -> str:
        """Aligned columns for a terminal."""
        lines = [list(self.head), *([c.text for c in row] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        numeric = [any(r[i].kind.startswith("n") for r in self.rows) for i in range(len(self.head))]
        return "\n".join(
            "  ".join(
                text.rjust(w) if n else text.ljust(w)
                for text, w, n in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """A GitHub table."""
        numeric = [any(r[i].kind.startswith("n") for r in self.rows) for i in range(len(self.head))]
        lines = ["| " + " | ".join(self.head) + " |"]
        lines.append("|" + "|".join("---:" if n else "---" for n in numeric) + "|")
        for row in self.rows:
            lines.append("| " + " | ".join(c.text.replace("|", "\\|") for c in row) + " |")
        return "\n".join(lines) + "\n"


def number(value: float | str | None, digits: int = 3) -> str:
    """A number in few characters; `–` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A share in percent: exactly 0 % only where it is 0."""
    if value is None:
        return "–"
    return "0 %" if value == 0 else f"{100 * value:.2g} %"


def values(params: Mapping[str, Any], fixed: Sequence[str] = ("beta",)) -> str:
    """Parameter values in one text, without those that never change."""
    shown = {k: v for k, v in params.items() if k not in fixed or len(params) == 1}
    return ", ".join(f"{letters(k)} = {_value(v)}" for k, v in shown.items()) or "none"


def _value(v: float | Sequence[float]) -> str:
    return f"{v:.4g}" if isinstance(v, float | int) else f"{v[0]:.4g} … {v[1]:.4g}"


def certificates(rows: Sequence[Row]) -> Table:
    """One line per certificate: worst error, shares off by more than 1 ulp, verdict."""
    head = [
        "implementation", "parameters", "dtype", "f, worst ulp", "f′, worst ulp",
        "f off, patterns", "f′ off, patterns", "f off, N(0,1)", "f′ off, N(0,1)",
        "wrong signs", "wrong inf/nan", "verdict",
    ]  # fmt: skip
    lines, breaks, before = [], set(), None
    for place, row in enumerate(rows):
        if before is not None and row["subject"] != before:
            breaks.add(place)
        before = row["subject"]
        how = " compiled" if row["compiled"] else ""
        name = f"integrand{how}" if row["subject"] == row["name"] else f"{row['subject']}{how}"
        if len({r["name"] for r in rows}) > 1:
            name = f"{row['name']}{how}"
        verdict = "certified" if row["exhaustive"] else "within bounds, sampled"
        if row.get("points"):
            verdict += f" at {row['points']} points"
        lines.append(
            [
                Cell(name),
                Cell(values(row["params"])),
                Cell(SHORT.get(row["dtype"], row["dtype"])),
                *(Cell(number(row[f"max_ulp_{k}"]), "n") for k in ("f", "df")),
                *(Cell(share(row[f"share_off_{k}"]), "n") for k in ("f", "df")),
                *(Cell(share(row[f"mass_off_{k}"]), "n") for k in ("f", "df")),
                Cell(f"{row['wrong_signs']:,}", "n"),
                Cell(f"{row['nonfinite']:,}", "n"),
                Cell(verdict, "good") if row["ok"] else Cell("fails", "bad"),
            ]
        )
    return Table(head, lines, frozenset(breaks))


def exhaustive(rows: Sequence[Row]) -> Table:
    """One line per certificate over all fp32 inputs: worst error, where, inputs off by > 1 ulp."""
    head = [
        "implementation", "parameters", "f, worst ulp", "between", "f′, worst ulp", "between",
        "f off by > 1 ulp", "f′ off by > 1 ulp", "inputs", "verdict",
    ]  # fmt: skip
    lines = []
    for row in rows:
        worst = {o["output"]: o for o in reversed(row["worst_octaves"])}
        cells = [
            cell
            for key in ("f", "df")
            for cell in (
                Cell(number(row[f"max_ulp_{key}"]), "n"),
                Cell(" … ".join(number(worst[key][end], 6) for end in ("low", "high"))),
            )
        ]
        lines.append(
            [
                Cell(row["subject"]),
                Cell(values(row["params"])),
                *cells,
                *(Cell(f"{row[f'beyond_{key}']:,}", "n") for key in ("f", "df")),
                Cell(f"{row['checked']:,}", "n"),
                Cell("certified", "good") if row["ok"] else Cell("fails", "bad"),
            ]
        )
    return Table(head, lines)


SPEED_NAMES = {
    "compiled": "torch.compile of the formula",
    "formula_compiled": "torch.compile of the declared text",
    "silu": "F.silu (another function)",
    "gelu": "F.gelu (another function)",
    "copy": "copy (the limit)",
    "reference": "eager formula",
    "transformers": "transformers, eager",
    "transformers_compiled": "transformers, compiled",
}


def baseline_of(row: Row) -> str | None:
    """Which baseline a row of `bench` is; None for integrand's own implementations."""
    if row["impl"] == "torch":
        return {"F.silu": "silu", "F.gelu": "gelu"}.get(row["name"], "copy")
    if row["impl"] == "formula":
        return "formula_compiled" if row["compiled"] else "formula"
    if row["impl"] == "transformers":
        return "transformers_compiled" if row["compiled"] else "transformers"
    if row["impl"] == "reference":
        return "compiled" if row["compiled"] else "reference"
    return None


def speeds(rows: Sequence[Row]) -> Table:
    """Times by dtype and direction; ratios of each time to those of the compiled formulas and of
    F.silu, which only rows timed beside them have."""
    titles = {"compiled": "÷ compiled formula", "transformers_compiled": "÷ compiled transformers",
              "silu": "÷ F.silu"}  # fmt: skip
    columns = [key for key in titles if any(f"ratio_{key}" in row for row in rows)]
    head = ["implementation", "dtype", "direction", "ms", *(titles[key] for key in columns),
            "bytes kept", "certificate"]  # fmt: skip
    lines, breaks, before = [], set(), None
    for row in rows:
        group = (row["dtype"], row["direction"])
        if before is not None and group != before:
            breaks.add(len(lines))
        before = group
        certified = {True: Cell("holds", "good"), False: Cell("fails", "bad")}
        lines.append(
            [
                Cell(SPEED_NAMES.get(baseline_of(row) or "", "integrand")),
                Cell(SHORT.get(row["dtype"], row["dtype"])),
                Cell(row["direction"]),
                Cell(number(1e3 * row["median_s"]), "n"),
                *(ratio_cell(row, key) for key in columns),
                Cell(number(row["saved_bytes"]), "n"),
                certified.get(row["certified"], Cell("–", "aside")),
            ]
        )
    return Table(head, lines, frozenset(breaks))


def ratio_cell(row: Row, baseline: str) -> Cell:
    value = row.get(f"ratio_{baseline}")
    if value is None or baseline_of(row) == baseline:
        return Cell("–" if value is None else "1", "n aside")
    mark = "" if baseline_of(row) or abs(value - 1) <= DRAW else "good" if value < 1 else "bad"
    return Cell(f"{value:.2f}", f"n {mark}".strip())


def against_compile(row: Row) -> float | None:
    """Time relative to the fastest compiled formula there is: the hardest baseline to beat."""
    found = [
        row.get(f"ratio_{key}") for key in ("compiled", "formula_compiled", "transformers_compiled")
    ]
    return max((r for r in found if r is not None), default=None)


def losses(rows: Sequence[Row]) -> list[str]:
    """A sentence for every baseline that is faster than integrand."""
    found = []
    for row in rows:
        if baseline_of(row):
            continue
        for key, name in SPEED_NAMES.items():
            value = row.get(f"ratio_{key}")
            if value is not None and value > 1 + DRAW:
                dtype = SHORT.get(row["dtype"], row["dtype"])
                found.append(f"{dtype} {row['direction']}: {value:.2f} times as long as {name}")
    return found


def study(rows: Sequence[Row]) -> Table:
    """One line per variant of a matched training."""
    head = ["variant", "parameters", "tokens", "held-out loss", "bits per byte", "wall time"]
    return Table(
        head,
        [
            [
                Cell(r["name"]),
                Cell(f"{r['parameters']:,}", "n"),
                Cell(f"{r['tokens']:,}", "n"),
                Cell(_to_three(r["loss_mean"]), "n"),
                Cell(_to_three(r["bits_per_byte"]), "n"),
                Cell(f"{r['wall_s']:.0f} s", "n"),
            ]
            for r in rows
        ],
    )


def _to_three(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


def output_only(rows: Sequence[Row]) -> Table:
    """One line per activation and dtype with df from y; those without, once, with the reason."""
    head = ["activation", "dtype", "f′ from y", "worst ulp", "off, N(0,1)", "largest error, N(0,1)",
            "within 1 ulp where abs(x) in", "parameter terms", "offered"]  # fmt: skip
    lines = []
    for row in rows:
        if row["offered"] == "refused":
            continue
        good = row["offered"] == "exact"
        lines.append(
            [
                Cell(row["name"]),
                Cell(SHORT.get(row["dtype"], row["dtype"])),
                Cell(f"`{row['gradient']}`"),
                Cell(number(row["max_ulp"]), "n"),
                Cell(share(row["share_off"]), "n"),
                Cell(number(row["max_error"], 2), "n"),
                Cell(_range(row)),
                Cell(number(row["max_param_error"], 2), "n"),
                Cell(row["offered"], "good" if good else "bad"),
            ]
        )
    return Table(head, lines)


def _range(row: Row) -> str:
    if row["offered"] == "exact":
        return "all"
    wide = row["low"] < 0.01 and float(row["high"]) > 100
    return f"{number(row['low'], 2)} … {number(row['high'])}" if wide else "–"
