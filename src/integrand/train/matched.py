"""Runs that differ in one thing: equal parameters, equal initial values, equal batches."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from integrand.errors import Error
from integrand.models.width import plain_width, relative_difference
from integrand.nn.gated import MakesModule
from integrand.nn.groups import activation_modules
from integrand.train.activations import chosen
from integrand.train.config import TrainConfig, Variant
from integrand.train.files import write_json
from integrand.train.loop import build, train
from integrand.train.runs import command
from integrand.train.tokenizer import load_tokenizer
from integrand.train.tokens import prepare

LARGEST_DIFFERENCE = 1e-3  # of parameters, relative to the first variant


def variant_config(config: TrainConfig, variant: Variant) -> TrainConfig:
    """`config` with the variant's block: d_hidden is the gated width, a plain block gets 1.5x."""
    d_hidden = config.model.d_hidden
    if not variant.gated:
        d_hidden = plain_width(d_hidden)
    model = dataclasses.replace(
        config.model, gated=variant.gated, activate_up=variant.activate_up, d_hidden=d_hidden
    )
    return dataclasses.replace(
        config, model=model, activation=variant.activation, **variant.changes
    )


def matched(
    config: TrainConfig,
    variants: Sequence[Variant],
    out_dir: Path | str,
    *,
    activations: Mapping[str, MakesModule] | None = None,
    cache_dir: Path | str | None = None,
    resume: bool = True,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
    sinks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the variants one after the other; the summary, also written to out_dir/summary.json.

    Checked before the first step: weights, the activations' own aside, within 0.1 % of the first
    variant's, and every tensor
    that two variants share by name and shape equal bit by bit. Checked after: the same batches in
    the same order. `activations` gives activations that are not in the catalogue by the names that
    variants use. Each variant's run lies in out_dir/FOLDER (see `train`).
    """
    out_dir = Path(out_dir)
    activations = activations or {}
    if len({variant.folder for variant in variants}) < len(variants) or not variants:
        raise Error("variants must have distinct names, got " + ", ".join(v.name for v in variants))
    if config.data.tokenizer is not None:
        load_tokenizer(config.data.tokenizer)  # missing, it would be missed after building models
    configs = [variant_config(config, variant) for variant in variants]
    given = [activations.get(variant.activation) for variant in variants]
    shared = check_matched(
        variants, configs, [chosen(c, a) for c, a in zip(configs, given, strict=True)]
    )
    tokens = prepare(config.data, cache_dir)
    there = sum(map(len, tokens.train))
    if (passes := config.steps * config.batch_size * config.context / there) > 1 and not quiet:
        text = f"{passes:.1f} passes over {there:,} tokens; more text is better"
        print(text, file=sys.stderr, flush=True)
    records = []
    for place, (variant, own, activation) in enumerate(zip(variants, configs, given, strict=True)):
        records.append(
            train(
                own,
                out_dir / variant.folder,
                activation=activation,
                tokens=tokens,
                resume=resume,
                label=f"{variant.name} ({place + 1} of {len(variants)})",
                steps_after=config.steps * (len(variants) - place - 1),
                quiet=quiet,
                on_step=on_step,
                sinks=sinks,
            )
        )
    whole = [record for record in records if not record.get("diverged")]
    if len({record["batches_sha256"] for record in whole}) > 1:
        raise Error(
            f"variants must see the same batches, and the hashes in {out_dir} differ; "
            "start the runs anew with resume=False"
        )
    summary = {
        "kind": "study",
        "variants": [
            {
                "name": variant.name,
                "activation": variant.activation,
                "gated": variant.gated,
                "d_hidden": own.model.d_hidden,
                "parameters": record["parameters"],
                "tokens": record["tokens"],
                "seeds": [config.seed],
                "loss_mean": record["loss"],
                "loss_ci": None,
                "bits_per_byte": record["bits_per_byte"],
                "diverged": record.get("diverged"),
                "wall_s": record["wall_s"],
                "steps_per_s": record["steps_per_s"],
                "activation_values": record["activation_values"],
                "metrics": f"{variant.folder}/metrics.jsonl",
            }
            for variant, own, record in zip(variants, configs, records, strict=True)
        ],
        "comparisons": [],
        "min_detectable_effect": None,
        "evidence": "one seed: a smoke test, not evidence",
        "shared_initial_tensors": shared,
        "batches_sha256": (whole or records)[0]["batches_sha256"],
        "data_sha256": tokens.sha256,
        "data": {k: tokens.header[k] for k in ("source", "documents", "characters")},
        "config": config.to_dict(),
        "environment": records[0]["environment"],
        "command": command(),
    }
    write_json(out_dir / "summary.json", summary)
    return summary


def check_matched(
    variants: Sequence[Variant],
    configs: Sequence[TrainConfig],
    activations: Sequence[MakesModule],
) -> int:
    """How many tensors all variants share bit by bit; raises where a comparison would be unfair."""
    first_count = 0
    digests: list[dict[str, str]] = []
    for variant, config, activation in zip(variants, configs, activations, strict=True):
        model = build(config, activation)
        own = {id(p) for m in activation_modules(model).values() for p in m.parameters()}
        # an activation's own parameters may be what a comparison is about
        count = sum(p.numel() for p in model.parameters() if id(p) not in own)
        first_count = first_count or count
        difference = relative_difference(count, first_count)
        if difference > LARGEST_DIFFERENCE:
            raise Error(
                f"variants must have equal weights within 0.1 %, got {count} for "
                f"{variant.name} and {first_count} for {variants[0].name} "
                f"({difference:.2%}); choose an even d_hidden"
            )
        digests.append(
            {
                f"{name} {tuple(p.shape)}": hashlib.sha256(p.detach().numpy().tobytes()).hexdigest()
                for name, p in model.named_parameters()
                if id(p) not in own
            }
        )
    for variant, digest in zip(variants, digests, strict=True):
        for name in digest.keys() & digests[0].keys():
            if digest[name] != digests[0][name]:
                raise Error(f"{name} starts differently in {variant.name} and {variants[0].name}")
    return len(set.intersection(*(set(digest) for digest in digests)))
