"""Studies as Python functions that return their full plan."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from integrand.errors import Error
from integrand.models.decoder import DecoderConfig
from integrand.train.config import DataConfig, TrainConfig, Variant
from integrand.train.published_recipes import apertus_8b, relu2_wins_1b, xielu_1b, xielu_3b
from integrand.train.recipes import Recipe
from integrand.train.studies.plan import Plan, Rung

VOCABULARY = 1024
CONTEXT = 128
# name: d_model, gated d_hidden, layers, heads, sequences a step; the vocabulary is in every count
SIZES = {
    "0.05M": (32, 64, 2, 2, 16),
    "0.1M": (48, 96, 2, 2, 16),
    "0.2M": (64, 128, 3, 2, 16),
    "0.5M": (96, 192, 4, 3, 16),
    "1.2M": (128, 320, 6, 4, 32),
    "2M": (160, 416, 6, 5, 32),
    "6M": (256, 672, 8, 8, 64),
    "20M": (416, 1088, 10, 13, 128),
    "60M": (640, 1728, 12, 10, 256),
}
TOKENS_PER_PARAMETER = 20  # arXiv:2203.15556
COMPARED = (
    Variant(name="SwiGLU", activation="silu", gated=True),
    Variant(name="GELU", activation="gelu"),
    Variant(name="ReLU2", activation="relu2"),
    Variant(name="xIELU", activation="xielu"),
    Variant(name="xIPReLU", activation="xiprelu"),
    Variant(name="xIEP", activation="xiep"),
    Variant(name="xSSSLUR2", activation="xssslur2"),
)
# what the design of arXiv:2411.13010 rests on, and what nobody published; each against xIELU
ABLATIONS = tuple(
    Variant(name=f"xIELU {name}", activation=activation, like="xIELU", changes=changes)
    for name, activation, changes in (
        ("fixed alphas", "xielu", {"activation_fixed": ("alpha_p", "alpha_n")}),
        ("alpha_p only", "xielu", {"activation_fixed": ("alpha_n",)}),
        ("alpha_n only", "xielu", {"activation_fixed": ("alpha_p",)}),
        ("trained beta", "xielu", {"activation_trained": ("beta",)}),
        ("bf16 alphas", "xielu", {"activation_dtype": "bf16"}),
        ("decayed alphas", "xielu", {"activation_weight_decay": 0.1}),
        ("per channel", "xielu", {"activation_per_channel": True}),
        ("eps clamp", "xielu-clamped", {}),
    )
)

# besides every variant with SwiGLU and every ablation with xIELU: its exponential against softsign,
# and what each alpha is worth alone
PAIRS = (
    ("xIELU", "xSSSLUR2"),
    ("xIELU fixed alphas", "xIELU alpha_p only"),
    ("xIELU fixed alphas", "xIELU alpha_n only"),
)
SWEPT = 2  # sizes whose rates are swept


def size(name: str, data: str, compiled: bool = True) -> TrainConfig:
    """A decoder of the ladder with a schedule for 20 tokens per parameter.

    Llama shape with QK-norm and tied embeddings, AdamW (0.9, 0.95), decay 0.1, clipping at 1, WSD
    with a warm-up over 5 % and a 1-sqrt decay to 0 over 25 % of the steps.
    """
    d_model, d_hidden, layers, heads, batch = SIZES[name]
    model = DecoderConfig(
        vocab_size=VOCABULARY,
        d_model=d_model,
        d_hidden=d_hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        gated=True,
        layout="apertus",
        qk_norm=True,
        tied=True,
        init_std=0.57 / d_model**0.5,
    )
    steps = -(-TOKENS_PER_PARAMETER * parameters(model) // (batch * CONTEXT))
    return TrainConfig(
        model=model,
        activation="silu",
        data=DataConfig(source=data, vocab_size=VOCABULARY),
        batch_size=batch,
        context=CONTEXT,
        steps=steps,
        warmup_steps=round(0.05 * steps),
        decay_steps=round(0.25 * steps),
        log_every=20,
        eval_every=max(1, steps // 8),
        eval_sequences=512,
        checkpoint_every=max(1, min(steps // 8, 400)),
        compile=compiled,
    )


def parameters(model: DecoderConfig) -> int:
    """How many weights a tied decoder of this shape has, its activation's aside."""
    d, width = model.d_model, model.d_model // model.heads
    attention = 2 * d * d + 2 * d * width * model.kv_heads + 2 * width * model.qk_norm
    block = (3 if model.gated else 2) * d * model.d_hidden
    return model.vocab_size * d + model.layers * (attention + block + 2 * d) + d


def studies(
    name: str,
    *,
    data: str | None = None,
    tokenizer: str | None = None,
    sizes: Sequence[str] = (),
    accumulate: int | None = None,
    resolve: float | None = None,
    seeds: tuple[int, int] | None = None,
) -> Plan:
    """The study of that name; what is not given is as the study has it.

    `data` is a source of text, `tokenizer` the tokenizer.json that a published run's recipe names,
    `accumulate` the micro-batches of a step.
    """
    if name not in {**STUDIES, **PUBLISHED}:
        known = ", ".join({**STUDIES, **PUBLISHED})
        raise Error(f"studies are {known}, got {name!r}; see `integrand study --help`")
    if sizes and name != "ladder":
        raise Error(f"sizes belong to the ladder; leave them out of {name}")
    if tokenizer and name in STUDIES:
        raise Error(f"{name} trains a tokenizer of its own; leave the file out")
    if name in PUBLISHED:
        plan = published(name, tokenizer or "tokenizer.json", data)
    elif sizes:
        plan = ladder(data or "python-docs", tuple(sizes))
    else:
        plan = STUDIES[name](data or "python-docs")
    changes: dict[str, Any] = {} if resolve is None else {"resolve": resolve}
    if accumulate is not None:
        changes["rungs"] = tuple(
            dataclasses.replace(r, config=dataclasses.replace(r.config, accumulate=accumulate))
            for r in plan.rungs
        )
    if seeds is not None:
        changes |= {"seeds_at_least": seeds[0], "seeds_at_most": seeds[1]}
    return dataclasses.replace(plan, **changes)


def published(name: str, tokenizer: str, data: str | None = None) -> Plan:
    """Seeds for a published comparison, at its own learning rate: none of the papers gives any."""
    config, variants = PUBLISHED[name](tokenizer)
    if data is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
    # one process a run here; `integrand train --recipe` spreads a run over ranks
    config = dataclasses.replace(config, parallel="none", compile=True)
    rung = Rung(name=name, config=config, variants=variants, tuned=False, short=False)
    return Plan(name=name, rungs=(rung,), rates=(config.lr / 2, config.lr))


def smoke(data: str) -> Plan:
    """Three variants in a decoder too small to learn much: every part of a study in minutes."""
    config = dataclasses.replace(
        size("0.1M", data, compiled=False),
        **{"steps": 40, "warmup_steps": 4, "decay_steps": 10, "eval_every": 20},
        **{"eval_sequences": 32, "log_every": 1, "batch_size": 8},
    )
    return Plan(
        name="smoke",
        rungs=(Rung(name="0.1M", config=config, variants=(*COMPARED[:1], *COMPARED[2:4])),),
        rates=(5e-3, 1e-2),
        tuning_seeds=(1000,),
        seeds_at_least=2,
        seeds_at_most=2,
        widenings=0,
    )


def ladder(data: str, sizes: tuple[str, ...] = ("0.1M", "0.2M", "0.5M", "1.2M")) -> Plan:
    """SwiGLU, GELU, ReLU^2, xIELU and three siblings at equal parameters, FLOPs and tokens.

    The smallest size has the ablations of xIELU too. Rates are swept at the two smallest sizes.
    """
    if unknown := [name for name in sizes if name not in SIZES]:
        raise Error(f"sizes are {', '.join(SIZES)}, got {unknown[0]}")
    if list(sizes) != sorted(set(sizes), key=list(SIZES).index):
        raise Error(f"sizes must ascend, each once, got {', '.join(sizes)}")
    from integrand.train.clamped import Clamped

    configs = {name: size(name, data) for name in sizes}
    if data.startswith("hf:"):
        most = max(c.steps * c.batch_size * c.context for c in configs.values())
        # a token of this vocabulary is 2.5 characters of English
        text = DataConfig(source=data, vocab_size=VOCABULARY, max_characters=3 * most)
        configs = {name: dataclasses.replace(c, data=text) for name, c in configs.items()}
    swept = [configs[name].model.d_model for name in sizes[:SWEPT]]
    for name in sizes[SWEPT:]:
        # the rule of the rate is about matrices: activation parameters keep their rate
        scale = configs[name].model.d_model / swept[-1]
        configs[name] = dataclasses.replace(configs[name], activation_lr_scale=scale)
    return Plan(
        name="ladder",
        rungs=tuple(
            Rung(
                name=name,
                config=config,
                variants=COMPARED + (() if place else ABLATIONS),
                tuned=place < SWEPT,
                short=place < SWEPT,
            )
            for place, (name, config) in enumerate(configs.items())
        ),
        pairs=PAIRS,
        rates=(5e-3, 1e-2, 2e-2),
        activations={"xielu-clamped": Clamped()},
    )


def sparsity(data: str = "python-docs") -> Recipe:
    """Decoders of 2 M parameters to measure activation sparsity on, gated and plain.

    ReLU, ReLU^2, ReGLU and SwiGLU are those of arXiv:2402.03804, dReLU of arXiv:2406.05955, xIELU
    and its siblings of arXiv:2411.13010. Half a token per parameter: enough for habits of neurons
    to form, far from enough to rank losses. The rate is the best of the ladder at 48 channels,
    scaled by the inverse of the width.
    """
    config = dataclasses.replace(size("2M", data), steps=300, warmup_steps=15, decay_steps=75)
    config = dataclasses.replace(config, lr=1e-2 * 48 / 160, activation_lr_scale=160 / 48)
    return Recipe(
        dataclasses.replace(config, eval_every=100, checkpoint_every=100),
        (
            Variant(name="SwiGLU", activation="silu", gated=True),
            Variant(name="ReLU2", activation="relu2"),
            Variant(name="ReLU", activation="relu"),
            Variant(name="ReGLU", activation="relu", gated=True),
            Variant(name="dReLU", activation="relu", gated=True, activate_up=True),
            Variant(name="xIELU", activation="xielu"),
            Variant(name="GELU", activation="gelu"),
            Variant(name="xIPReLU", activation="xiprelu"),
            Variant(name="xSSSLUR2", activation="xssslur2"),
        ),
    )


def sparsity_wide(data: str = "python-docs") -> Recipe:
    """ReLU^2 in 36 M parameters whose three feed-forwards no cache holds (28 M parameters, 6,144
    neurons): to time generation, which reads them all. As many tokens as half an hour of one core
    allows, 0.3 M; losses say nothing."""
    config = sparsity(data).config
    model = dataclasses.replace(
        config.model, d_model=768, d_hidden=4096, layers=3, heads=12, kv_heads=12,
        init_std=0.57 / 768**0.5,
    )  # fmt: skip
    config = dataclasses.replace(
        config, model=model, batch_size=8, eval_sequences=64, eval_every=150,
        lr=1e-2 * 48 / 768, activation_lr_scale=768 / 48,
    )  # fmt: skip
    return Recipe(config, (Variant(name="ReLU2 wide", activation="relu2"),))


STUDIES: dict[str, Callable[[str], Plan]] = {"ladder": ladder, "smoke": smoke}
PUBLISHED: dict[str, Callable[[str], Recipe]] = {
    "xielu-1b": xielu_1b,
    "xielu-3b": xielu_3b,
    "relu2-wins-1b": relu2_wins_1b,
    "apertus-8b": apertus_8b,
}
