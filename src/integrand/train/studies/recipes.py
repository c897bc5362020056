"""Studies as Python functions that return their full plan."""

from integrand.errors import Error
from integrand.models.decoder import DecoderConfig
from integrand.train.config import DataConfig, TrainConfig, Variant
from integrand.train.studies.plan import Plan, Rung

VOCABULARY = 1024
CONTEXT = 128
# name: d_model, gated d_hidden, layers, heads, sequences a step; the vocabulary is in every count
SIZES = {
    "0.1M": (48, 96, 2, 2, 16),
    "0.2M": (64, 128, 3, 2, 16),
    "0.5M": (96, 192, 4, 3, 16),
    "1.2M": (128, 320, 6, 4, 32),
    "6M": (256, 672, 8, 8, 64),
    "20M": (448, 1184, 10, 7, 128),
    "60M": (704, 1888, 12, 11, 256),
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


def ladder(data: str, sizes: tuple[str, ...] = ("0.1M", "0.2M", "0.5M", "1.2M")) -> Plan:
    """SwiGLU, GELU, ReLU^2, xIELU and three siblings at equal parameters, FLOPs and tokens.

    The smallest size has the ablations of xIELU too. Rates are swept at the two smallest sizes.
    """
    if unknown := [name for name in sizes if name not in SIZES]:
        raise Error(f"sizes are {', '.join(SIZES)}, got {unknown[0]}")
    from integrand.train.clamped import Clamped

    return Plan(
        name="ladder",
        rungs=tuple(
            Rung(
                name=name,
                config=size(name, data),
                variants=COMPARED + (() if place else ABLATIONS),
                tuned=place < 2,
                short=place < 2,
            )
            for place, name in enumerate(sizes)
        ),
        rates=(5e-3, 1e-2, 2e-2),
        activations={"xielu-clamped": Clamped()},
    )
