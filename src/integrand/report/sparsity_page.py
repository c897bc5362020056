"""The page of a sparsity measurement, and the table that a README shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from integrand.report import sparsity_figures as draw
from integrand.report.page import render
from integrand.report.sections import figure
from integrand.report.tables import Cell, Table, number
from integrand.train.files import read_json, write_text

Data = Mapping[str, Any]
PICTURE = "sparsity.svg"
NAMES = {"silu": "SwiGLU", "relu2": "ReLU²", "relu": "ReLU", "drelu": "dReLU", "gelu": "GELU",
         "xielu": "xIELU", "xiprelu": "xIPReLU", "xssslur2": "xSSSLUR2"}  # fmt: skip


def is_sparsity(folder: Path) -> bool:
    """Whether a folder holds the summary of a sparsity measurement."""
    summary = folder / "summary.json"
    found = read_json(summary) if summary.exists() else None
    return isinstance(found, dict) and found.get("kind") == "sparsity"


def write_sparsity(folder: Path) -> Path:
    """Write report.html and sparsity.svg beside summary.json; the page's path."""
    summary = read_json(folder / "summary.json")
    write_text(folder / PICTURE, draw.price(summary, standalone=True))
    return write_text(folder / "report.html", page(summary))


def page(summary: Data) -> str:
    """The HTML of a sparsity summary."""
    models = summary["models"]
    sparsest = max(models, key=lambda m: m["cett_ppl_1"])
    facts = [
        (f"{len(models)}", "models measured"),
        (percent(sparsest["cett_ppl_1"]), f"of {title(sparsest)}'s neurons left out at 1 % of "
         "perplexity, the most"),
    ]  # fmt: skip
    shown = [
        ("table", "Results", _results(summary)),
        ("price", "What leaving neurons out costs", _price(summary)),
        ("layers", "By layer", _layers(summary)),
        ("paper", "The paper's lines beside ours", _paper(summary)),
        ("words", "Words", WORDS),
        ("reproduce", "Again", _reproduce(summary)),
    ]
    return render("Activation sparsity", " ".join(headline(summary)), facts, shown)


def title(model: Data) -> str:
    """The activation's usual name; a gated block says so."""
    act, form = model["activation"], model["form"]
    if form == "gated" and act != "silu":
        return {"relu": "ReGLU", "gelu": "GeGLU"}.get(act, f"gated {NAMES.get(act, act)}")
    if form == "plain" and act == "silu":
        return "SiLU"
    return NAMES.get(act, act)


def results(summary: Data) -> Table:
    """One line per model, the sparsest first; what each was trained on where that differs."""
    models = summary["models"]
    differ = len({m.get("training_tokens") for m in models}) > 1
    head = [
        *("model", "activation", *(["training tokens"] if differ else []), "loss", "perplexity"),
        *("exact zeros", "CETT-PPL-1 %", "CETT there"),
        *("CETT ≤ 0.2", "its cost", "reuse", "co-activation gap", "lift", "hot neurons", "dead"),
        *("predictor recall", "predicted sparsity", "at a cost of", "decode"),
    ]
    rows = sorted(models, key=lambda m: -m["cett_ppl_1"])
    return Table(head, [_row(m, differ) for m in rows])


def _row(m: Data, trained: bool) -> list[Cell]:
    predictor, at_bound = m.get("predictor") or {}, point(m, "cett", 0.2)
    speed, tokens = m["decode_speedup"], m.get("training_tokens")
    on = Cell("–" if tokens is None else f"{tokens / 1e6:.3f} M", "n")
    return [
        Cell(m["name"]),
        Cell(title(m)),
        *([on] if trained else []),
        Cell(f"{m['loss']:.3f}", "n"),
        Cell(number(m["perplexity"], 4), "n"),
        Cell(percent(m["exact_zeros"]), "n"),
        Cell(percent(m["cett_ppl_1"]), "n"),
        Cell(number(m["cett_ppl_1_cett"], 2), "n"),
        Cell(percent(m["sparsity"]["0.2"]), "n"),
        Cell("–" if at_bound is None else cost(at_bound["rise"]), "n"),
        *(Cell(number(m[k], 2), "n") for k in ("reuse", "coactivation_gap", "coactivation_lift")),
        *(Cell(percent(m[k]), "n") for k in ("hot", "dead")),
        Cell(percent(m["predictor_recall"]), "n"),
        Cell(percent(predictor.get("sparsity")), "n"),
        Cell(cost(predictor["rise"], 2) if predictor else "–", "n"),
        Cell("–" if speed is None else f"{speed:.2f} ×", "n"),
    ]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def cost(rise: float, digits: int = 1) -> str:
    """A rise of perplexity."""
    return f"{100 * rise:+.{digits}f} %".replace("-", "−")


def point(model: Data, by: str, value: float) -> Data | None:
    """The measured point nearest to a value, within a tenth of it."""
    found = [p for p in model["points"] if p["by"] == by and abs(p["value"] - value) <= value / 10]
    found.sort(key=lambda p: abs(p["value"] - value))
    return found[0] if found else None


def _predicted(m: Data) -> float | None:
    return (m.get("predictor") or {}).get("sparsity")


# what is ranked, by which number, and how that is shown
ASPECTS: tuple[tuple[str, Callable[[Data], float | None], Callable[[Data], str]], ...] = (
    (
        *("sparsity at 1 % of perplexity", lambda m: m["cett_ppl_1"]),
        lambda m: percent(m["cett_ppl_1"]),
    ),
    (
        # recall is what predictors are calibrated to: they differ in what that costs too
        *("predicted inactive at equal recall, with its cost in perplexity", _predicted),
        lambda m: f"{percent(_predicted(m))} ({cost(m['predictor']['rise'], 2)})",
    ),
    ("reuse", lambda m: m["reuse"], lambda m: percent(m["reuse"])),
    (
        *("co-activation gap", lambda m: m["coactivation_gap"]),
        lambda m: f"{m['coactivation_gap']:.2f}",
    ),
)


def headline(summary: Data) -> list[str]:
    """Which activation is first in each aspect of arXiv:2402.03804."""
    said = []
    for what, of, show in ASPECTS:
        found = [(value, title(m), m) for m in summary["models"] if (value := of(m)) is not None]
        ranked = sorted(found, key=lambda row: row[:2], reverse=True)
        if ranked:
            listed = ", ".join(f"{name} {show(m)}" for _, name, m in ranked[:3])
            place = next((i for i, row in enumerate(ranked, 1) if row[1] == "ReLU²"), None)
            own = f"; ReLU² is {place} of {len(ranked)}" if place and place > 3 else ""
            said.append(f"{what.capitalize()}: {listed}{own}.")
    return said


def _results(summary: Data) -> str:
    return f"""<p>{subjects(summary["models"])} Sparsities are those at a cost of 1 % of a model's
own perplexity. The cost of CETT ≤ 0.2 and the points by sparsity are from the first 4,096 tokens;
everything else, the operating point among it, from all.</p>
{results(summary).html()}{_left(summary)}"""


def left(summary: Data) -> list[str]:
    """A sentence for each block that was not understood and so not measured."""
    return [
        f"{m['name']} without '{name}': {reason}."
        for m in summary["models"]
        for name, reason in m.get("left", {}).items()
    ]


def _left(summary: Data) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in left(summary))


def subjects(models: Sequence[Data]) -> str:
    """What was measured, and how far the losses compare."""
    losses = [m["loss"] for m in models]
    if len(models) == 1:
        return f"One model of {_millions(models)} parameters, with a loss of {losses[0]:.3f} nats."
    said = f"{min(losses):.3f} to {max(losses):.3f} nats"
    batches = {m.get("batches_sha256") for m in models}
    if len(batches) == 1 and None not in batches:
        return f"Runs of {_millions(models)} parameters on the same batches; losses: {said}."
    return (
        f"{len(models)} models of {_millions(models)} parameters, not known to have been trained "
        f"on the same batches; losses: {said}, which compare where text and tokenizer are the same."
    )


def _millions(models: Sequence[Data]) -> str:
    """The number of parameters, or its range where three digits show one."""
    sizes = [m["parameters"] / 1e6 for m in models]
    least, most = number(min(sizes)), number(max(sizes))
    return f"{least} million" if least == most else f"{least} to {most} million"


def _price(summary: Data) -> str:
    caption = (
        "Rise of perplexity with neurons left out by one CETT for all layers; the dashed line is "
        "1 %. The model is run with them left out."
    )
    return (
        figure(draw.price(summary), caption)
        + draw.keys(summary)
        + figure(
            draw.methods(summary),
            "How neurons are chosen: one CETT for all layers, the smallest of each token, or one "
            "threshold on |h| for all layers.",
        )
    )


def _layers(summary: Data) -> str:
    caption = "Share of neurons within the operating threshold (CETT-PPL-1 %), by depth."
    return figure(draw.by_layer(summary), caption) + draw.keys(summary)


def paper(summary: Data) -> Table:
    """Published statements about arXiv:2402.03804 beside what was measured."""
    head = ["the paper, as a digest of it has it", "here"]
    rows = [[Cell(theirs), Cell(ours)] for theirs, ours in _lines(summary["models"])]
    return Table(head, rows)


def _lines(models: Sequence[Data]) -> list[tuple[str, str]]:
    by_name = {title(m): m for m in models}
    lines = []
    bound = [(title(m), p) for m in models if (p := point(m, "cett", 0.2))]
    if bound:
        costs = ", ".join(f"{n} {cost(p['rise'])}" for n, p in bound)
        lines.append(("CETT up to 0.2 leaves performance nearly unchanged", f"perplexity: {costs}"))
    if relu2 := by_name.get("ReLU²"):
        near = [p for p in relu2["points"] if p["by"] == "cett" and 0.85 <= p["sparsity"] <= 0.95]
        said = "no measured point between 85 and 95 %"
        if near:
            p = min(near, key=lambda p: abs(p["sparsity"] - 0.9))
            said = f"perplexity {cost(p['rise'], 2)} at {percent(p['sparsity'])}"
        lines.append(("ReLU² loses less than 0.1 % near 90 % sparsity", said))
    best = max(models, key=lambda m: m["cett_ppl_1"])
    if "ffn_share" in best:
        saved = max((m["cett_ppl_1"] * m["ffn_share"], title(m)) for m in models)
        lines.append(
            ("up to 56 % of compute saved at less than 1 % loss",
             f"{percent(saved[0])} of the model's multiplications with {saved[1]}, were every "
             "inactive neuron known beforehand")
        )  # fmt: skip
    followed = [m for m in models if m["reuse"] is not None]
    if followed:
        io = max((1 - (1 - m["cett_ppl_1"]) * (1 - m["reuse"]), title(m)) for m in followed)
        lines.append(
            ("92 % less I/O in the feed-forward block",
             f"{percent(io[0])} with {io[1]}: the share of neurons that a token neither leaves out "
             "nor shares with the token before")
        )  # fmt: skip
    if found := [m for m in models if m.get("predictor")]:
        said = "; ".join(
            f"{title(m)} {percent(m['predictor_recall'])} of the active found, "
            f"{percent(m['predictor']['sparsity'])} predicted inactive, perplexity "
            f"{cost(m['predictor']['rise'])}"
            for m in found
        )
        lines.append(("a predictor of 6 % of the block's size suffices", said))
    return lines


def _paper(summary: Data) -> str:
    return f"""<p>The full text of arXiv:2402.03804 was not at hand: its lines are those of a
digest, and its models have 1.3 billion parameters and 100 billion tokens. Here:
{_millions(summary["models"])} parameters.</p>{paper(summary).html()}"""


WORDS = """<dl>
<dt>exact zeros</dt><dd>share of the values entering the map back that are 0</dd>
<dt>CETT</dt><dd>mean over tokens of ‖Σ of the neurons left out‖ / ‖Σ of all‖; a neuron is left out
where ‖n<sub>i</sub>‖ = |h<sub>i</sub>| ‖W<sub>d</sub>[:, i]‖ is within its layer's threshold</dd>
<dt>CETT-PPL-1 %</dt><dd>the sparsity at the one CETT that raises perplexity by 1 %</dd>
<dt>reuse</dt><dd>share of a token's active neurons that were active for the token before</dd>
<dt>co-activation gap, lift</dt><dd>how much more often a neuron's best companion is active with
it than the average one; lift takes away how often the companion is active anyway</dd>
<dt>hot, dead</dt><dd>fewest neurons that cover 80 % of activations; neurons active for no
token</dd>
<dt>predictor</dt><dd>low rank, trained, 6 % of the block's size; recall: of the active neurons,
those predicted active. At one recall each costs another share of perplexity, printed beside what it
predicts inactive: that alone ranks no two models</dd>
<dt>decode</dt><dd>speed of one block of 2048 channels and of this form, in bf16 at batch 1, that
reads as many rows, against the fastest dense one, without a predictor; – where no block of the form
was timed. At a cost of 1 % of perplexity at most: of a plain block that of CETT-PPL-1 %, of a gated
one on text that its thresholds were not calibrated on</dd>
</dl>"""


def _reproduce(summary: Data) -> str:
    rows = [
        ("command", f"<code>{escape(summary['command'])}</code>"),
        ("data of this page", "<code>summary.json</code>, beside this file"),
    ]
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in rows) + "</dl>"
