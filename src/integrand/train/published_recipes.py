"""Published pretraining runs as full configs, for more than one machine.

Widths, rates, tokens and schedules are those of the papers and of the configs their authors
published; what is not public is chosen here and named in the docstring. `batch_size` is the whole
step, over all ranks. `d_hidden` is the gated width, as `matched` expects; plain variants get 1.5x.
"""

import dataclasses

from integrand.models.decoder import DecoderConfig, Llama3Rope
from integrand.train.config import DataConfig, TrainConfig, Variant
from integrand.train.recipes import COMPARED, Recipe

SWIGLU, _, XIELU = COMPARED


def fineweb_edu(tokenizer: str, vocab_size: int, sample: str = "sample-100BT") -> DataConfig:
    """FineWeb-Edu from the hub (arXiv:2406.17557), all of `sample`, with a tokenizer.json.

    `vocab_size` is the tokenizer's. One document in 2,000 is held out.
    """
    return DataConfig(
        source=f"hf:HuggingFaceFW/fineweb-edu:{sample}",
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        max_characters=10**12,  # more than the sample has
        held_out=0.0005,
    )


def xielu_1b(tokenizer: str = "tokenizer.json") -> Recipe:
    """SwiGLU, ReLU^2 and xIELU at 1.1 B parameters and 126 B tokens of FineWeb-Edu.

    arXiv:2411.13010 with the authors' configs: 88 ranks of 5 sequences; on fewer, `accumulate`.
    `tokenizer` is the file of Mistral-Nemo-Base-2407, whose 131,072 tokens the model's 147,456
    embeddings exceed. Reported losses: SwiGLU 2.353, ReLU^2 2.337, xIELU 2.323; seeds are not.
    """
    config = TrainConfig(
        model=DecoderConfig(
            vocab_size=147_456,
            d_model=1536,
            d_hidden=6144,
            layers=24,
            heads=16,
            kv_heads=16,
            gated=True,
            tied=True,
            norm_eps=1e-6,
            rope_theta=500_000.0,
            init_std=0.025,
        ),
        activation="silu",
        data=fineweb_edu(tokenizer, 131_072),
        seed=42,
        steps=70_000,
        batch_size=440,
        context=4096,
        lr=8e-4,
        warmup_steps=2000,
        decay_steps=14_500,
        precision="bf16",
        parallel="ddp",
        **OBSERVED,
    )
    return Recipe(config, COMPARED)


def xielu_3b(tokenizer: str = "tokenizer.json") -> Recipe:
    """The same comparison at 3.0 B parameters and 126 B tokens.

    arXiv:2411.13010: 128 data-parallel ranks of 5 sequences. The feed-forward widths (8192 gated,
    12288 plain) are inferred from the parameter count; the losses are not public.
    """
    smaller, variants = xielu_1b(tokenizer)
    model = dataclasses.replace(smaller.model, d_model=2048, d_hidden=8192, layers=36, tied=False)
    config = dataclasses.replace(
        smaller,
        model=model,
        steps=48_000,
        batch_size=640,
        lr=7e-4,
        decay_steps=10_000,
        parallel="fsdp",
    )
    return Recipe(config, variants)


def apertus_8b(tokenizer: str = "tokenizer.json") -> Recipe:
    """The training of Apertus-8B: 15 T tokens with AdEMAMix, Goldfish loss, separate documents.

    arXiv:2509.14233 with the authors' launch script. Left out: the batch was half as large for the
    first 7.0 T tokens (here the final 2048 sequences throughout, and so half the warm-up steps of
    the same 16.8 B tokens); end-of-document labels were masked; raw activation parameters were
    bf16. `lr_first` is the report's, the script leaves it at 0. The corpus is a mixture in five
    stages; FineWeb-Edu stands in for it and is repeated. `tokenizer` is that of Apertus-8B-2509.
    """
    config = TrainConfig(
        model=DecoderConfig(
            vocab_size=131_072,
            d_model=4096,
            d_hidden=14_336,  # 21,504 plain
            layers=32,
            heads=32,
            kv_heads=8,
            gated=True,
            layout="apertus",
            qk_norm=True,
            rope_theta=500_000.0,
            rope_scaling=Llama3Rope(factor=8.0),
            init_std=0.008944,
        ),
        activation="silu",
        data=fineweb_edu(tokenizer, 131_072),
        seed=28,
        steps=1_788_140,
        batch_size=2048,
        context=4096,
        mask_documents=True,
        goldfish_k=50,
        goldfish_context=50,
        optimizer="ademamix",
        lr=1.1e-4,
        lr_first=0.1,
        lr_last=0.1,
        warmup_steps=2000,
        decay_steps=197_220,
        betas=(0.9, 0.999),
        ademamix_beta3=0.9999,
        ademamix_alpha=8.0,
        ademamix_warmup_steps=100_000,
        clip_norm=0.1,
        precision="bf16",
        parallel="fsdp",
        **OBSERVED,
    )
    return Recipe(config, (XIELU, SWIGLU))


def apertus_small(data: str = "python-docs") -> Recipe:
    """Every part of the Apertus recipe in a decoder of 9 M parameters, for one machine.

    Chosen for the size: the widths; the rate; half-lives of AdEMAMix that fit into 2,000 steps
    (beta3 0.999, warm-ups over the run). The initial deviation follows 0.57 / sqrt(d_model).
    """
    vocabulary = 4096
    config = TrainConfig(
        model=DecoderConfig(
            vocab_size=vocabulary,
            d_model=256,
            d_hidden=896,
            layers=8,
            heads=4,
            kv_heads=1,
            gated=True,
            layout="apertus",
            qk_norm=True,
            rope_theta=500_000.0,
            rope_scaling=Llama3Rope(factor=8.0),
            init_std=0.0358,
        ),
        activation="silu",
        data=DataConfig(source=data, vocab_size=vocabulary, max_characters=20_000_000),
        steps=2000,
        batch_size=16,
        context=256,
        mask_documents=True,
        goldfish_k=50,
        goldfish_context=50,
        optimizer="ademamix",
        lr=1e-3,
        lr_first=0.1,
        lr_last=0.1,
        warmup_steps=100,
        decay_steps=400,
        betas=(0.9, 0.999),
        ademamix_beta3=0.999,
        clip_norm=0.1,
        eval_every=100,
    )
    return Recipe(config, (XIELU, SWIGLU))


def relu2_wins_1b(tokenizer: str = "tokenizer.json") -> Recipe:
    """ReLU and ReLU^2 plain, ReGLU and SwiGLU gated, at 1.3 B parameters and 100 B tokens.

    arXiv:2402.03804. Published: the four blocks, sizes, tokens, 4 M tokens per step, cosine,
    rate 3e-4. Chosen here: widths that give 1.3 B parameters (the authors' models differ in
    `intermediate_size` by a rule of their own), a vocabulary of 32,000, a context of 2048, 2,000
    steps of warm-up, a last rate of a tenth, AdamW's other settings, and FineWeb-Edu in place of
    RefinedWeb with SlimPajama.
    """
    config = TrainConfig(
        model=DecoderConfig(
            vocab_size=32_000,
            d_model=2048,
            d_hidden=5376,
            layers=24,
            heads=16,
            kv_heads=16,
            gated=True,
        ),
        activation="silu",
        data=fineweb_edu(tokenizer, 32_000),
        steps=23_842,
        batch_size=2048,
        context=2048,
        schedule="cosine",
        lr=3e-4,
        lr_last=0.1,
        warmup_steps=2000,
        precision="bf16",
        parallel="ddp",
        **OBSERVED,
    )
    variants = (
        Variant(name="ReLU", activation="relu"),
        Variant(name="ReLU2", activation="relu2"),
        Variant(name="ReGLU", activation="relu", gated=True),
        SWIGLU,
    )
    return Recipe(config, variants)


OBSERVED = {"eval_every": 1000, "eval_sequences": 1024, "checkpoint_every": 1000}
