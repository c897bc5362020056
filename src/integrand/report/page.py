"""`write_report`: one self-contained HTML file, and the same data as JSON beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.report import sections, tables
from integrand.report.collect import collect
from integrand.report.ink import variables
from integrand.train.files import write_json

LEAD = (
    "You write the gradient. integrand writes the activation: derived, verified, certified on "
    "every half-precision input, timed, and trained."
)
Data = Mapping[str, Any]
Body = Callable[[Data], str]

# part of the data, anchor, heading, body
SECTIONS: tuple[tuple[str, str, str, Body], ...] = (
    ("derive", "derive", "From the gradient to the activation", sections.derived),
    ("certify", "errors", "Error at every bf16 input", sections.errors),
    ("certify", "certificate", "Certificates", sections.certified),
    ("bench", "speed", "Speed", sections.speed),
    ("study", "training", "Matched training", sections.trained),
    ("study", "learned", "What the activation learned", sections.learned),
)


def write_report(folder: Path | str) -> Path:
    """Write report.html and report.json into a folder from the results that lie there.

    Of a study, report.html, summary.json and study.svg (`study_page`); of a sparsity measurement
    report.html and sparsity.svg (`sparsity_page`).

    Raises:
        DataError: the folder holds no results, or jinja2 or matplotlib is missing.
    """
    from integrand.report.sparsity_page import is_sparsity, write_sparsity
    from integrand.report.study_page import is_study, write_study

    folder = Path(folder)
    if is_sparsity(folder):
        return write_sparsity(folder)
    if is_study(folder):
        return write_study(folder)
    data = collect(folder)
    text = page(data)
    write_json(folder / "report.json", data)
    scratch = folder / ".report.html"
    scratch.write_text(text, encoding="utf-8")
    return scratch.replace(folder / "report.html")


def page(data: Data) -> str:
    """The HTML of collected results; parts that are absent are left out."""
    shown = [
        (anchor, title, body(data[part])) for part, anchor, title, body in SECTIONS if part in data
    ]
    shown.append(("reproduce", "Again", sections.reproduce(data)))
    name = data["derive"]["title"] if "derive" in data else "Matched training"
    title = f"{name}, from its gradient to a trained model" if "derive" in data else name
    return render(title, LEAD, facts(data), shown)


def render(
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[tuple[str, str, str]],
) -> str:
    """A self-contained page: facts are (number, what it is), sections (anchor, heading, HTML)."""
    try:
        import jinja2
    except ImportError as error:
        raise DataError(f"a report needs {error.name}; pip install 'integrand[demo]'") from None
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (files("integrand.report") / "template.html").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        lead=lead,
        facts=facts,
        sections=[{"id": i, "title": heading, "body": body} for i, heading, body in sections],
        light=variables(dark=False),
        dark=variables(dark=True),
    )


def facts(data: Data) -> list[tuple[str, str]]:
    """The figures at the head of the page: a number and what it is."""
    found = []
    if "derive" in data:
        worst = max(data["derive"]["verified"].values(), default=0.0)
        found.append((tables.number(worst, 2), "largest deviation from ∫ f′, in multi-precision"))
    if "certify" in data:
        rows = [r for r in data["certify"]["rows"] if r["subject"] == r["name"]]
        worst = max(max(r["max_ulp_f"], r["max_ulp_df"]) for r in rows)
        passed = sum(r["ok"] for r in rows)
        found.append(
            (
                f"{worst:.2f} ulp",
                f"worst error of f and f′, {passed} of {len(rows)} certificates hold",
            )
        )
    if "bench" in data:
        own = [r for r in data["bench"]["rows"] if tables.baseline_of(r) is None]
        both = [r for r in own if r["direction"] == "forward+backward"]
        for row in both or own:
            compiled = tables.against_compile(row)
            ratio, against = compiled, "the fastest torch.compile"
            if compiled is None:
                ratio, against = row["ratio_silu"], "F.silu"
            dtype = tables.SHORT.get(row["dtype"], row["dtype"])
            found.append((f"{ratio:.2f} ×", f"the time of {against}, {row['direction']}, {dtype}"))
    return found
