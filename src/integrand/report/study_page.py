"""The page of a study, and the picture and the table that a README shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from integrand.report import study_figures as draw
from integrand.report.figures import parameters_by_depth
from integrand.report.page import render
from integrand.report.sections import figure
from integrand.report.study_words import depth_table, headline, outliers_table, results, trends
from integrand.report.tables import number
from integrand.train.files import read_json, write_json, write_text
from integrand.train.studies import summarise

Data = Mapping[str, Any]
PICTURE = "study.svg"


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study's records, or the summary made of them."""
    if (folder / "records").is_dir():
        return True
    summary = folder / "summary.json"
    found = read_json(summary) if summary.exists() else None
    return isinstance(found, dict) and found.get("kind") == "study" and "ladder" in found


def write_study(folder: Path) -> Path:
    """Write summary.json (where there are records), study.svg and report.html; the page's path."""
    if (folder / "records").is_dir():
        summary = summarise(folder)
        write_json(folder / "summary.json", summary)
    else:
        summary = read_json(folder / "summary.json")
    text = page(summary)
    write_text(folder / PICTURE, draw.overview(summary, standalone=True))
    return write_text(folder / "report.html", text)


def page(summary: Data) -> str:
    """The HTML of a study's summary."""
    title = f"Study: {summary['name']}" if summary["name"] else "A matched study"
    shown = [
        ("results", "Results", _results(summary)),
        ("differences", "Differences", _differences(summary)),
        ("compute", "Loss against compute", _compute(summary)),
    ]
    if summary["tuning"]:
        shown.append(("rates", "Learning rates", _rates(summary)))
    if summary["curves"]:
        shown.append(("curves", "Held-out loss over training", _curves(summary)))
    if summary["depth"]:
        shown.append(("depth", "What the activations learned", _depth(summary)))
    if any(row["outliers"] for row in summary["variants"]):
        shown.append(("outliers", "Outliers and low precision", _outliers(summary)))
    shown.append(("reproduce", "Again", _reproduce(summary)))
    return render(title, " ".join(headline(summary)), _facts(summary), shown)


def _facts(summary: Data) -> list[tuple[str, str]]:
    main = summary["progress"]["main"]
    found = [(f"{main['finished']} of {main['planned']}", "main runs finished")]
    if summary["min_detectable_effect"] is not None:
        effect = number(summary["min_detectable_effect"], 2)
        found.append((f"{effect} nats", "smallest difference every comparison can show"))
    return found


def _results(summary: Data) -> str:
    missing = len(summary["missing"])
    left = f" {missing} planned main runs are missing." if missing else ""
    matched = (
        "All variants of a size have equal parameters and FLOPs within 0.1 %, and the same tokens."
        if all(c["ok"] for c in summary["checks"])
        else "Not matched: " + ", ".join(c["what"] for c in summary["checks"] if not c["ok"]) + "."
    )
    return f"""<p>{escape(matched)} Runs of one seed share their batches in their order (checked by
hash), so that differences are taken within seeds. Intervals are 95 %, by Student's t over seeds.
Verdicts are corrected (Holm) for the pairs of a size with the same reference; a dash is not
measured.{left}</p>
{results(summary).html()}"""


def _differences(summary: Data) -> str:
    reasons = dict.fromkeys(r["reason"] for r in summary["comparisons"] if r.get("reason"))
    notes = "".join(f'<p class="note">Not measured: {escape(r)}.</p>' for r in reasons)
    caption = (
        "Point: mean difference within seeds; line: 95 % interval, uncorrected; grey: differences "
        "that this many seeds with this spread miss with a chance above "
        f"{1 - summary['power']:.1g}, at p < {summary['alpha']:g} before correction."
    )
    return f"""{figure(draw.differences(summary), caption)}
<p>Equal time: the variant stops when the other's whole run would be over; its loss there is read
off the line in log tokens between its short and its main run of the same seed, both with complete
schedules, never more than 1.5 times beyond them. Step times were measured in a run of their
own.</p>{notes}"""


def _compute(summary: Data) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in trends(summary))
    caption = "Points: means over seeds; lines: the fits below, intervals by resampled seeds."
    return f"{figure(draw.loss_against_compute(summary), caption)}<ul>{lines}</ul>"


def _rates(summary: Data) -> str:
    edge = [r for r in summary["tuning"] if r["at_edge"]]
    other = [r for r in summary["tuning"] if r.get("used") is False]
    lost = [r for r in summary["tuning"] if r["best"] is None]
    notes = (
        ("The best rate lies at the end of those tried, so a better one may lie beyond: ", edge),
        ("Main runs used another rate than the best here: ", other),
        ("Every rate diverged: ", lost),
    )
    said = "".join(
        f'<p class="bad">{text}{escape(", ".join(_place(r) for r in rows))}.</p>'
        for text, rows in notes
        if rows
    )
    caption = "Mean loss of the tuning runs, on seeds of their own; ringed: the rate chosen."
    return figure(draw.rate_sweeps(summary), caption) + _keys(summary) + said


def _place(row: Data) -> str:
    return f"{row['variant']} at {row['rung']}"


def _curves(summary: Data) -> str:
    return figure(draw.held_out(summary), "Means over the seeds of the main runs.") + _keys(summary)


def _keys(summary: Data) -> str:
    keys = (
        f'<span class="key" style="background:var(--{shade})"></span>{escape(name)}'
        for name, shade in draw.shades(summary).items()
    )
    return f"<p>{''.join(keys)}</p>"


def _depth(summary: Data) -> str:
    parts = [
        """<p>The claim of arXiv:2411.13010, less nonlinearity deeper in the network, as a
number: the share of the variance of f(x), x ~ N(0, 1), that the best straight line leaves. Change
is from the first layer to the last along a straight line, per seed. Real pre-activations are not
N(0, 1): this compares the functions, not what layers do with their inputs.</p>"""
    ]
    # ablations have their lines in the table
    for variant in draw.variants(summary):
        rows = [r for r in summary["depth"] if r["variant"] == variant]
        if any(r["change"] is not None for r in rows):
            parts.append(
                figure(
                    draw.by_depth(rows),
                    f"{variant}: means over seeds by layer, larger sizes darker.",
                )
            )
        curves = [c for c in summary["curves"] if c["variant"] == variant and c["activation"]]
        if curves and len(curves[-1]["activation"]) > 1:
            steps = curves[-1]["activation"]
            over_time = parameters_by_depth(steps, list(steps[0]["values"]))
            caption = f"{variant} at {curves[-1]['rung']} over training, means over seeds."
            parts.append(figure(over_time, caption))
    parts.append(depth_table(summary["depth"]).html())
    return "".join(parts)


def _outliers(summary: Data) -> str:
    return f"""<p>The hidden activation that enters down_proj, on held-out text after training, in
its worst layer, means over seeds. Kurtosis is 3 for a normal distribution. Errors are of the
product with down_proj, relative to its norm, when its input is rounded to fp8 (e4m3, one scale a
tensor) or to MXFP8 (a power of two for every 32 values).</p>
{outliers_table(summary).html()}"""


def _reproduce(summary: Data) -> str:
    made = summary["environment"] or {}
    rows = [
        ("command", f"<code>{escape(summary['command'])}</code>"),
        ("tokens", f"<code>{escape(summary['data_sha256'][:12])}</code>"),
        ("machine and versions", escape(", ".join(f"{k} {v}" for k, v in made.items()))),
        ("data of this page", "<code>summary.json</code>, beside this file"),
    ]
    if summary["environments"] > 1:
        rows.append(("note", f"runs come from {summary['environments']} different environments"))
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in rows) + "</dl>"
