"""The page of a search: what it found, whether that holds, how far its proxies can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from integrand.activation import derive
from integrand.report.confirmed_table import confirmed as table
from integrand.report.page import render
from integrand.report.sections import figure
from integrand.report.tables import Cell, Table, number
from integrand.search import figures
from integrand.spec import from_toml
from integrand.train.files import read_json, write_text

Data = Mapping[str, Any]
LISTED = 12
TRACED = 3


def write_page(folder: Path | str) -> Path:
    """Write report.html beside the summary.json of a search; its path."""
    folder = Path(folder)
    return write_text(folder / "report.html", page(read_json(folder / "summary.json")))


def page(summary: Data) -> str:
    """The HTML of a search's summary."""
    confirmed, found = summary["confirmed"], winners(summary)
    facts = [
        (f"{summary['evaluated']:,}", "candidates evaluated"),
        (f"{summary['deduplicated']:,}", "equivalent to an earlier one, not evaluated again"),
        (f"{_held(confirmed)} of {len(confirmed)}", "confirmed better than every reference"),
    ]
    shown = [("confirmed", "Does it hold?", _confirmed(confirmed))]
    if found:
        shown += [
            ("winners", "Winners", _winners(found)),
            ("front", "Pareto front", _front(summary)),
            ("kernels", "Kernels and certificates", _kernels(found)),
        ]
    if references := summary.get("references"):
        shown.append(("references", "Where the references stand", _references(references)))
    shown.append(("ladder", "The ladder of proxies", _ladder(summary["rungs"])))
    if found:
        shown.append(("lineage", "Lineage", _lineage(summary, found[:TRACED])))
    shown.append(("reproduce", "Again", f"<p><code>{escape(summary['command'])}</code></p>"))
    return render("Activations found by search", headline(summary), facts, shown)


def headline(summary: Data) -> str:
    """The answer in a sentence: a winner that was not confirmed is no evidence."""
    if not summary["confirmed"]:
        return (
            "No winner was confirmed on fresh seeds, other text and other sizes: whether any is "
            "better than what is in use, we cannot tell."
        )
    return " ".join(f"{row['name']}: {row['verdict']}." for row in summary["confirmed"])


def winners(summary: Data) -> list[Data]:
    """Those whose confirmation was tried, then the front, then the ranking, each spec once; what
    the search was given as a reference it has not found."""
    rows = [*summary["front"], *summary["ranking"]]
    rows = [row for row in rows if row["operation"] != "reference"]
    tried = {row["name"] for row in summary["confirmed"]}
    # the names of a confirmation end with the beginning of the key
    rows.sort(key=lambda row: f"{row['name']}-{row['key'][:8]}" not in tried)
    return list({row["key"]: row for row in rows}.values())


def _held(confirmed: Sequence[Data]) -> int:
    return sum(row["verdict"] == "better" for row in confirmed)


def _confirmed(confirmed: Sequence[Data]) -> str:
    rule = """<p>Selection is not evidence. A winner is trained again on seeds and text that the
search has not seen, at sizes that it was not at, beside SwiGLU, ReLU² and xIELU at equal parameters
and tokens. It is called better, or worse, where that is the answer of every comparison, corrected
for their number (Holm); else we cannot tell.</p>"""
    if not confirmed:
        return rule + "<p>No confirmation was run: cannot tell.</p>"
    return rule + table(confirmed).html()


def _winners(found: Sequence[Data]) -> str:
    shown = found[: figures.DRAWN]
    lines = "".join(f"<dt>{escape(w['name'])}</dt><dd>{_text(w)}</dd>" for w in shown)
    caption = "At the initial values of their parameters; what training makes of them differs."
    return f"{figure(figures.curves(shown), caption)}{figures.keys(shown)}<dl>{lines}</dl>"


def _text(winner: Data) -> str:
    """The declared text, where its parameters start, and the formula of f where it was derived."""
    spec = from_toml(winner["spec"])
    values = ", ".join(f"{k} = {v:.4g}" for k, v in spec.values().items())
    name = "g" if spec.kind == "gradient" else "f"
    text = f"<code>{name}(x) = {escape(spec.gradient or spec.function or '')}</code>"
    text += f"<br>{escape(values)}" if values else ""
    if spec.kind == "gradient" and "certified" in winner["numbers"]:
        text += f"<br><code>f(x) = {escape(derive(spec).formula)}</code>"
    return text


def _front(summary: Data) -> str:
    names = summary["objectives"]
    head = ["name", *(n.replace("_", " ") for n in names)]
    rows = [
        [Cell(r["name"]), *(Cell(number(r["objectives"][n]), "n") for n in names)]
        for r in summary["front"][:LISTED]
    ]
    drawn = ""
    if len(names) > 1:
        caption = "Candidates of the last rung; on the front those that no other one dominates."
        drawn = figure(figures.front(summary), caption)
    return drawn + Table(head, rows).html()


def standings(references: Sequence[Data]) -> Table:
    """One line per reference: its place at every rung."""
    rungs = list(dict.fromkeys(name for r in references for name in r["places"]))
    rows = []
    for r in references:
        known = {name: f"{place} of {count}" for name, (place, count) in r["places"].items()}
        missing = "refused" if r["refused"] else "–"
        cells = [Cell(known.get(name, missing), "n") for name in rungs]
        rows.append([Cell(r["name"]), *cells, Cell(r.get("gradient") or r["function"])])
    return Table(["reference", *rungs, "text"], rows)


def _references(references: Sequence[Data]) -> str:
    note = """The place by score among all that were scored at a rung, 1 the best. References climb
whatever the rungs below say; most others at a rung were selected by those."""
    return f'{standings(references).html()}<p class="note">{note}</p>'


KERNEL = (
    ("certified", "certified in bf16"), ("max_ulp_f", "f, worst ulp"),
    ("max_ulp_df", "f′, worst ulp"), ("forward_ratio", "forward / F.silu"),
    ("both_ratio", "with backward / F.silu"), ("saved_bytes", "saved B"),
)  # fmt: skip


def _kernels(found: Sequence[Data]) -> str:
    measured = [w for w in found if "certified" in w["numbers"]][:LISTED]
    if not measured:
        return "<p>No rung of this search measured kernels.</p>"
    rows = []
    for winner in measured:
        numbers = winner["numbers"]
        verdict = Cell("yes", "good") if numbers["certified"] else Cell("no", "bad")
        cells = [Cell(number(numbers.get(key)), "n") for key, _ in KERNEL[1:]]
        rows.append([Cell(winner["name"]), verdict, *cells])
    head = ["name", *(title for _, title in KERNEL)]
    note = "Certified: f and f′ checked at every bf16 input, at the initial values of parameters."
    return f'{Table(head, rows).html()}<p class="note">{note}</p>'


def ladder(rungs: Sequence[Data]) -> Table:
    """One line per rung."""
    head = ["rung", "scored", "refused", "goes on", "seconds", "rank correlation with the next",
            "over", "of them by chance"]  # fmt: skip
    rows = [
        [
            Cell(r["name"]), Cell(f"{r['scored']:,}", "n"), Cell(f"{r['refused']:,}", "n"),
            Cell(f"{100 * r['keep']:.3g} %", "n"), Cell(number(r["seconds_median"]), "n"),
            Cell(_signed(r.get("rank_correlation")), "n"),
            Cell(number(r.get("pairs")), "n"), Cell(number(r.get("pairs_by_chance")), "n"),
        ]
        for r in rungs
    ]  # fmt: skip
    return Table(head, rows)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _ladder(rungs: Sequence[Data]) -> str:
    note = """Kendall's τ-b over the candidates scored at both rungs: 1 where the cheap one orders
them as the dear one does, 0 where it says nothing. Most of them were selected by the cheap one,
which lowers it; those taken along by chance were not."""
    return f'{ladder(rungs).html()}<p class="note">{note}</p>'


def ancestry(lineage: Mapping[str, Data], key: str) -> list[tuple[str, Data]]:
    """(key, entry) from a candidate back through first parents to one that came by chance."""
    found: dict[str, Data] = {}
    while key in lineage and key not in found:
        found[key] = lineage[key]
        key = next(iter(lineage[key]["parents"]), "")
    return list(found.items())


def _lineage(summary: Data, found: Sequence[Data]) -> str:
    parts = []
    for winner in found:
        line = ancestry(summary["lineage"], winner["key"])
        steps = "".join(
            f"<li>{escape(entry['operation'])}: "
            f"<code>{escape(entry.get('gradient') or entry.get('function') or '')}</code></li>"
            for _, entry in reversed(line)
        )
        parts.append(f"<p>{escape(winner['name'])}, from first to last:</p><ol>{steps}</ol>")
    return "".join(parts)
