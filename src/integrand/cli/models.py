"""`inspect` and `sparsity`: a look into models as they are."""

from __future__ import annotations

from pathlib import Path

from integrand.cli.arguments import keep


def inspect(where: str, /, html: Path | None = None, json: Path | None = None) -> int:
    """Show a checkpoint's activation parameters by depth, reading no other tensor.

    Args:
        where: a safetensors or GGUF file, a folder with a checkpoint, or a hub id such as
            swiss-ai/Apertus-8B-2509 or ORG/NAME@REVISION.
        html: also write a page with figures.
        json: also write the layers as JSON.
    """
    from integrand.models import inspect_checkpoint
    from integrand.report.depth import explanations, summary, table, write_page

    found = inspect_checkpoint(where)
    keep(json, found.to_dict())
    print(summary(found), table(found).plain(), *explanations(found), sep="\n")
    if html is not None:
        print(write_page(found, html))
    return 0


def sparsity(
    model: str,
    /,
    data: str | None = None,
    tokens: int = 16_384,
    speeds: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> int:
    """Measure how sparse a model's feed-forward blocks are, and what leaving neurons out costs.

    Args:
        model: a run's folder, a folder of runs, a folder that transformers loads, or a hub id such
            as SparseLLM/relu2-100B.
        data: the text: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME
            (default: the held-out text of a run).
        tokens: of the text; one row of the model's context at least.
        speeds: what benchmarks/decode.py has written on this machine, for the decode speed.
        out: a folder for NAME.json of each model, summary.json and report.html; the same command
            goes on after a stop.
        json: also write the summary as JSON.
    """
    from integrand.report import write_report
    from integrand.report.sparsity_page import left, results
    from integrand.sparsity.measuring import measure

    if tokens < 1:
        from integrand.errors import SpecError

        raise SpecError(f"--tokens must be at least 1, got {tokens}")
    summary = measure(model, out, data, tokens, speeds)
    keep(json, summary)
    print(results(summary).plain(), *left(summary), sep="\n")
    if out is not None:
        print(write_report(out))
    return 0
