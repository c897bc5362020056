"""`search`: activations in a space of gradients or functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from integrand.cli.arguments import keep


def search(
    recipe: Literal["smoke", "gradient", "swish"] = "smoke",
    /,
    data: str = "python-docs",
    out: Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    threads: int = 1,
    evaluations: int | None = None,
    seed: int = 0,
    strategy: Literal["exhaustive", "random", "evolution", "controller"] | None = None,
    space: Path | None = None,
    confirm: int = 0,
    size: tuple[str, ...] = (),
    json: Path | None = None,
) -> int:
    """Search gradients or functions for activations; cheap measurements come first.

    The same command goes on after a stop; several processes or machines that run it share the
    work. The store, summary.json and report.html lie in the folder.

    Args:
        recipe: smoke (seconds, no evidence), gradient (evolution in the space of gradients, hours),
            or swish (all one-unit functions of the Swish paper's space, an hour or two).
        data: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME; the search
            reads one half of the documents.
        out: the folder (default: runs/search/RECIPE).
        storage: URL of a database for many machines, such as postgresql+psycopg2://HOST/NAME
            (default: an SQLite file in the folder).
        workers: evaluations side by side, each in a process of its own.
        threads: of each.
        evaluations: candidates in all (default: the recipe's).
        seed: of the strategy.
        strategy: what proposes candidates (default: the recipe's).
        space: FILE.toml with a space of your own (default: the recipe's).
        confirm: then train so many of the best beside SwiGLU, ReLU2 and xIELU, on fresh seeds and
            sizes and on the other half of the documents.
        size: of a confirmation, two or more, ascending (default: 0.2M and 0.5M); repeatable.
        json: also write the summary as JSON.
    """
    import dataclasses

    from integrand.errors import SpecError
    from integrand.search import read_space
    from integrand.search.board import front_table
    from integrand.search.conclude import conclude
    from integrand.search.confirm import SIZES, check_sizes
    from integrand.search.documents import split_documents
    from integrand.search.engine import search as run
    from integrand.search.page import ladder, standings, write_page
    from integrand.search.recipes import RECIPES
    from integrand.train.files import read_json

    if size and not confirm:
        raise SpecError("--size belongs to a confirmation; add --confirm 3")
    # before a search of hours
    check_sizes(size or SIZES)
    for name, given, least in (
        ("workers", workers, 1), ("threads", threads, 1), ("confirm", confirm, 0),
    ):  # fmt: skip
        if given < least:
            raise SpecError(f"--{name} must be at least {least}, got {given}")
    folder = out or Path("runs/search") / recipe
    options = {
        "evaluations": evaluations,
        "strategy": strategy,
        "space": space and read_space(space),
    }
    changes: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    chosen = dataclasses.replace(RECIPES[recipe](data, folder), seed=seed, **changes)
    summary = run(chosen, folder, storage=storage, workers=workers, threads=threads)
    if confirm:
        unread = split_documents(data, folder / "text").confirm
        conclude(folder, str(unread), confirm, sizes=size or SIZES)
        summary = read_json(folder / "summary.json")
    keep(json, summary)
    tables = [ladder(summary["rungs"]).plain(), front_table(summary)]
    if references := summary["references"]:
        tables.insert(1, standings(references).plain())
    print(*tables, sep="\n\n")
    if left := summary["left_out"]["candidates"]:
        print(f"{left} candidates are no specs, such as: {summary['left_out']['reason']}")
    print(write_page(folder))
    return 0
