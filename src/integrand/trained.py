"""What `integrand train` trains: a recipe's config and one variant per name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from integrand.activation import Activation, activation, derive
from integrand.errors import SpecError
from integrand.nn.gated import MakesModule
from integrand.sparsity.recipes import induced
from integrand.spec import gates, read_spec, row
from integrand.train import TrainConfig, Variant, demo
from integrand.train.published_recipes import apertus_small
from integrand.train.studies.recipes import PUBLISHED, sparsity, sparsity_wide


def recipe(
    variants: Sequence[str],
    data: str | None,
    steps: int | None = None,
    seed: int | None = None,
    name: str = "demo",
    tokenizer: str = "tokenizer.json",
) -> tuple[TrainConfig, list[Variant], Mapping[str, MakesModule]]:
    """The arguments of `matched`: config, variants, and the activations they name.

    `name` is demo, apertus-small, sparsity(-wide, -induced) or a published run, whose data and
    tokenizer.json these replace; no variants and no seed are the recipe's own.

    Raises:
        SpecError: an unknown name, or a gated form whose other branch has an activation too.
    """
    own = {
        "demo": demo, "apertus-small": apertus_small,
        "sparsity": sparsity, "sparsity-wide": sparsity_wide,
    }  # fmt: skip
    made: Mapping[str, MakesModule] = {}
    if name == "sparsity-induced":
        config, its_own, made = induced(data or "python-docs")
    elif name in own:
        config, its_own = own[name](data or "python-docs")
    elif name in PUBLISHED:
        config, its_own = PUBLISHED[name](tokenizer)
        if data is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
    else:
        known = ", ".join([*own, "sparsity-induced", *PUBLISHED])
        raise SpecError(f"recipes are {known}, got '{name}'; see `integrand train --help`")
    if seed is not None:
        config = dataclasses.replace(config, seed=seed)
    if steps is not None:
        warmup, decay = (
            steps * n // config.steps for n in (config.warmup_steps, config.decay_steps)
        )
        config = dataclasses.replace(config, steps=steps, warmup_steps=warmup, decay_steps=decay)
    chosen = [] if variants else list(its_own)
    activations: dict[str, MakesModule] = {
        v.activation: made.get(v.activation) or activation(v.activation) for v in chosen
    }
    for text in variants:
        variant, found = _variant(text)
        chosen.append(variant)
        activations[variant.activation] = found
    return config, chosen, activations


def _variant(text: str) -> tuple[Variant, Activation]:
    if text.endswith(".toml"):
        act = derive(read_spec(text))
        return Variant(name=act.name, activation=act.name), act
    if text in gates():
        gate = gates()[text]
        both = "up" in gate
        if both and gate["up"] != gate["gate"]:
            known = ", ".join(g for g, v in gates().items() if v.get("up") in (None, v["gate"]))
            raise SpecError(
                f"'{text}' has another activation on each branch, which the decoder here has not;"
                f" take one of {known}"
            )
        act = activation(gate["gate"])
        return Variant(name=gate["title"], activation=act.name, gated=True, activate_up=both), act
    found = row(text)
    return Variant(name=found.title, activation=found.spec.name), derive(found.spec)
