"""The sections of the report: data in, HTML out. Each says what was measured, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from integrand.errors import SpecError
from integrand.report import figures, tables
from integrand.report.formula import SLOPE, VALUE, letters, math, partial
from integrand.report.machine import sentence
from integrand.spec import parse

Data = Mapping[str, Any]


def derived(data: Data) -> str:
    """The gradient as written, the function derived from it, and how far it was verified."""
    verified = data["verified"]
    worst = tables.number(max(verified.values(), default=0.0), 2)
    partials = "".join(
        f"<div>{_formula(text, data, partial(name))}</div>"
        for name, text in data["partials"].items()
        if name in data["trainable"]
    )
    left = "f′(x)" if data["declares"] == "gradient" else "f(x)"
    written = f"{left} = {data['text']}".replace(" else ", "\n        else ")
    return f"""
{
        figure(
            figures.gradient_and_function(data),
            "At the initial parameter values: " + tables.values(data["values"], ()) + ".",
        )
    }
<div class="pair">
<div class="panel"><b>you write</b><pre>{escape(written)}</pre>
{_formula(data["df"], data, SLOPE)}</div>
<div class="panel"><b>integrand writes</b>{_formula(data["formula"], data, VALUE)}{partials}</div>
</div>
<p>Integral found by: {escape(", ".join(data["path"]))}. Compared with the declared text in
multi-precision, f by independent quadrature and the parameter derivatives by finite differences:
largest relative deviation {worst}, allowed 10⁻¹². {_properties(data.get("properties"))}</p>"""


def _formula(text: str, data: Data, left: str) -> str:
    try:
        return math(parse(text, data["values"]), left)
    except SpecError:
        # a tabulated integral has no name in the grammar
        named = f'<math display="block">{left}<mo>(</mo><mi>x</mi><mo>)</mo><mo>=</mo></math>'
        return f"{named}<pre>{escape(text)}</pre>"


def _properties(facts: Data | None) -> str:
    if not facts:
        return ""
    low, high = facts["gradient_range"]
    smooth = facts["smoothness"]
    kind = "smooth everywhere" if smooth is None else f"of class C{_raised(smooth)}"
    minima = "; ".join(f"f({x:.4g}) = {y:.4g}" for x, y in facts["minima"])
    return f"The function is {kind}; its gradient lies between {_bound(low)} and {_bound(high)}" + (
        f"; local minimum {minima}." if minima else "."
    )


def _bound(value: float | str) -> str:
    text = f"{float(value):.4g}"
    return text.replace("inf", "∞").replace("-", "−")


def _raised(value: int) -> str:
    return str(value).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def errors(data: Data) -> str:
    """Error by input, for integrand and for the library that has the function today."""
    swept = data["sweep"]
    keys = "".join(
        f'<span class="key" style="background:var(--{shade})"></span>{escape(_who(s))}'
        for s, shade in zip(swept, figures.SHADES, strict=False)
    )
    groups = swept[0]["points"] // len(swept[0]["f"]["worst"])
    text = (
        f"All {swept[0]['points']:,} finite bf16 inputs in ascending order, the worst of each "
        f"{groups} neighbours; drawn up to 10⁵ ulps. Rounding an exact result once costs at "
        "most half an ulp. Every input has the same width here, however rarely it occurs."
    )
    return f"<p>{keys}</p>{figure(figures.error_by_pattern(swept), text)}{_peer(data.get('peer'))}"


def _who(swept: Data) -> str:
    return "integrand" if swept["label"] == "xielu" else f"transformers {swept['label']}"


def _peer(peer: Data | None) -> str:
    if peer is None:
        return (
            '<p class="note">transformers is not installed here, so its implementation was not '
            "measured.</p>"
        )
    at_zero = peer["at_zero"]
    return f"""<p>transformers {escape(peer["version"])} evaluates expm1(min(x, −10⁻⁶)), so on
(−10⁻⁶, 0] automatic differentiation sees a constant: at x = 0 it returns f = {at_zero["f"]:.3g} and
f′ = {at_zero["df"]:.3g}, where the formula has f = 0 and f′ = {at_zero["exact_df"]:.3g}.
Of the bf16 patterns below 100 in size, {tables.share(peer["share_off_f"])} give an f, and
{tables.share(peer["share_off_df"])} an f′, that is off by more than one ulp; weighted by N(0, 1)
pre-activations {tables.share(peer["mass_off_f"])} and {tables.share(peer["mass_off_df"])}, with a
mean error of {peer["mean_ulp_f"]:.2g} and {peer["mean_ulp_df"]:.2g} ulp (integrand
{peer["own_mean_ulp_f"]:.2g} and {peer["own_mean_ulp_df"]:.2g}). Inputs in (−10⁻⁶, 0] are rare in
ordinary training; an exactly zero pre-activation, as after zero initialisation or zero padding, is
one of them. It was measured at the parameter values it really uses, its own rounded to bf16.</p>"""


def certified(data: Data) -> str:
    """The table of certificates."""
    return f"""<p>Every bit pattern of the format is evaluated and compared with the exact value:
f and f′ within 1 ulp, next to a root within 2⁻²² of the largest term; no wrong sign outside that
band; infinities and NaN where they belong. “Off” counts results more than 1 ulp away, by share of
the patterns below 100 and weighted by N(0, 1) pre-activations.</p>
{tables.certificates(data["rows"]).html()}
<p class="note">Certified means checked on every input of the format, for these parameter
values.</p>"""


def speed(data: Data) -> str:
    """The table of speeds, and a sentence for every case that is lost."""
    rows = data["rows"]
    shape = " × ".join(map(str, rows[0]["shape"]))
    slower = tables.losses(rows)
    verdict = (
        "integrand is slower in these cases: " + "; ".join(slower) + "."
        if slower
        else "No baseline measured here was faster by more than 5 %."
    )
    return f"""<p>Shape ({shape}), {rows[0]["threads"]} threads, {data["rounds"]} paired rounds:
every round runs every entry, in alternating order, and a ratio is the median over the rounds of
time ÷ baseline, below 1 is faster. Backward includes the gradients of x and of both parameters.
F.silu is another function, the yardstick of what memory allows. transformers' eager module is timed
in a shorter run of its own beside F.silu: read its ratio, not its milliseconds.</p>
{tables.speeds(rows).html()}
<p>{escape(verdict)}</p>
<p class="note">Times on a machine with other work vary; the ratios vary less. Bytes kept are those
that autograd holds from forward to backward, per element, the input included.</p>"""


def trained(data: Data) -> str:
    """Loss curves of matched runs: a smoke test."""
    variants = data["variants"]
    counts = ", ".join(f"{v['name']} {v['parameters']:,}" for v in variants)
    return f"""<p><strong>A smoke test, not evidence:</strong> one seed, a model of
{variants[0]["parameters"] / 1e6:.1f} million parameters and {variants[0]["tokens"] / 1e6:.2g}
million tokens say that everything works together, and nothing about which activation is better.
</p>
{
        figure(
            figures.loss_curves(data),
            "Left, training loss; right, held-out loss. Seed "
            + ", ".join(map(str, variants[0]["seeds"]))
            + ".",
        )
    }
{tables.study(variants).html()}
<p class="note">Matched: equal parameters ({counts}; the plain blocks are 1.5 times as wide as the
gated ones), {data["shared_initial_tensors"]} shared tensors with bitwise equal initial values, the
same batches in the same order. Text: {escape(data["data"]["source"])}, tokens
<code>{data["data_sha256"][:12]}</code>.</p>"""


def learned(data: Data) -> str:
    """Learned parameters by depth, for each variant that has some."""
    parts = []
    for variant in data["variants"]:
        rows = data["curves"][variant["name"]]["activation"]
        if rows:
            names = list(rows[0]["values"])
            last = rows[-1]["values"]
            final = "; ".join(
                f"{letters(n)}: " + ", ".join(f"{figures.mean(v):.3f}" for v in last[n])
                for n in names
            )
            caption = f"{variant['name']} after training, first layer to last: {final}."
            parts.append(figure(figures.parameters_by_depth(rows, names), caption))
    return "".join(parts)


def reproduce(data: Data) -> str:
    """Command, versions, machine."""
    about = data.get("about", {})
    rows = [("command", f"<code>{escape(about.get('command', 'integrand demo'))}</code>")]
    if "environment" in about:
        rows.append(("machine and versions", escape(sentence(about["environment"]))))
    if "seconds" in about:
        taken = ", ".join(f"{k} {v:.0f} s" for k, v in about["seconds"].items())
        rows.append(("duration", escape(taken)))
    rows.append(("data of this page", "<code>report.json</code>, beside this file"))
    rows.append(("this page again", "<code>integrand report DIR</code> reads the same folder"))
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in rows) + "</dl>"


def figure(svg: str, caption: str) -> str:
    """An inline SVG with a caption."""
    return f'<figure class="tall">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
