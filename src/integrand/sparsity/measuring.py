"""Models by name measured: what a run, an exported folder or a hub id is, and the results kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import DataError
from integrand.models.checkpoints.places import Folder, is_hub_id, place
from integrand.models.checkpoints.ranges import read_json as read_config
from integrand.sparsity.analysis import analyze
from integrand.sparsity.aspects import decode, decode_speedup, predictivity
from integrand.sparsity.feed_forward import feed_forwards, matrix, understood
from integrand.sparsity.published import is_published, load_published
from integrand.sparsity.thresholds import fingerprint, linear_widths
from integrand.spec import Spec
from integrand.train.batches import Windows
from integrand.train.config import TrainConfig
from integrand.train.evaluate import held_out_windows
from integrand.train.files import read_json, write_json
from integrand.train.runs import IDENTITY, RECORD, TOKENIZER, WEIGHTS, command, load_run
from integrand.train.text import Documents
from integrand.train.tokenizer import load_tokenizer
from integrand.train.tokenizer import separator as separator_of
from integrand.train.tokens import prepare

FORMAT = 3  # of what a result file holds
TOKENS = 16_384
CONTEXT = 512  # of a model that is no run of ours
log = logging.getLogger("integrand")


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model with the tokens it is measured on."""

    name: str
    activation: str
    model: nn.Module
    rows: Tensor  # (N, T + 1)
    training: Tensor | None  # of the same kind, for a predictor; None: there are none
    separator: int | None  # of a model trained with documents apart
    batches: str | None = None  # hash of what a run was trained on
    trained_on: int | None = None  # tokens


def measure(
    where: str,
    out: Path | None = None,
    data: str | None = None,
    tokens: int = TOKENS,
    speeds: Path | None = None,
) -> dict[str, Any]:
    """Analyses of one model, or of every finished run in a folder: {"kind": "sparsity", "models"}.

    With `out` each result is written to out/NAME.json as it is there, and out/summary.json holds
    all that lie there, those of earlier calls too; a call finds what an earlier one has measured on
    the same weights and tokens.

    Args:
        where: a run's folder (measured on its own held-out text), a folder of runs, a folder that
            transformers or `load_published` loads, or a hub id.
        data: a text in its place, as `integrand train --data` takes it.
        tokens: how many are read, rounded to whole rows.
        speeds: results of `benchmarks/decode.py` on this machine; without, no decode speed but one
            that an earlier call has found.

    Raises:
        DataError: no such model, or no text.
    """
    if out is not None and (there := [p for p in (out, *out.parents) if p.is_file()]):
        raise DataError(
            f"out must be a folder, got {out}, where {there[0]} is a file; name another"
        )
    rows, (table, grid) = [], _tables(speeds)
    for subject in _subjects(where, data, tokens):
        kept = out / f"{subject.name}.json" if out is not None else None
        identity = _identity(subject)
        row: Any = _known(kept, identity)
        if row is None:
            analysis = analyze(
                subject.model,
                subject.rows,
                separator=subject.separator,
                label=f"analysis of {subject.name}",
            )
            row = {
                "name": subject.name,
                "activation": subject.activation,
                "form": analysis.layers[0].form,
                "parameters": sum(p.numel() for p in subject.model.parameters()),
                "ffn_share": _share(subject.model),
                "batches_sha256": subject.batches,
                "training_tokens": subject.trained_on,
                "identity": identity,
                **analysis.to_dict(),
            }
            if subject.training is not None:
                given = subject.model, subject.training, subject.rows, row
                row |= predictivity(*given, subject.separator)
        if table:
            # without its tokens it is one of a version that calibrated and priced on the same rows
            if "tokens" not in row.get("decode", {}):
                row["decode"] = decode(subject.model, subject.rows, row, subject.separator)
            read = row["decode"]["rows_read"]
            row["decode_speedup"] = decode_speedup(row["form"], read, table, grid)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, row)
        rows.append(row)
    if out is not None:
        rows = sorted([*rows, *_others(out, rows)], key=lambda row: row["name"])
    summary = {"kind": "sparsity", "models": rows, "command": command()}
    if out is not None:
        write_json(out / "summary.json", summary)
    return summary


def _tables(speeds: Path | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a measurement of decoding, and those of its sweep."""
    if speeds is None:
        return [], []
    found = read_json(speeds)
    if not isinstance(found, dict) or found.get("kind") != "sparsity_decode":
        raise DataError(f"{speeds} must be what benchmarks/decode.py --json has written")
    rows = found.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{speeds} must hold a list of rows, got {type(rows).__name__}; run "
            "benchmarks/decode.py --json again"
        )
    if wrong := [row for row in rows if not _is_speed(row)]:
        raise DataError(
            f"each row of {speeds} must have a case, a sparsity from 0 to 1 and a speedup above 0, "
            f"got {str(wrong[0])[:80]}; run benchmarks/decode.py --json again"
        )
    grid = found.get("grid", [])
    if not isinstance(grid, list) or not all(map(_is_choice, grid)):
        raise DataError(
            f"each row of the grid of {speeds} must have a case, a batch, and a sparsity and a "
            "share dense_chosen from 0 to 1; run benchmarks/decode.py --grid --json again"
        )
    return rows, grid


def _is_choice(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("case"), str)
        and type(row.get("batch")) is int
        and all(map(_is_share, (row.get("dense_chosen"), row.get("sparsity"))))
        and _is_share(row.get("rows_read", 0))
    )


def _is_speed(row: dict[str, Any]) -> bool:
    speed = row.get("speedup")
    return (
        isinstance(row.get("case"), str)
        and all(map(_is_share, (row.get("sparsity"), row.get("rows_read", 0))))
        and isinstance(speed, int | float)
        and 0 < speed < inf
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _share(model: nn.Module) -> float:
    """The feed-forward blocks' part of a token's multiplications with weights."""
    maps = [matrix(model.get_submodule(name)) for name in linear_widths(model)]
    inside = [m for b in feed_forwards(model) for m in b.matrices() if m]
    return sum(m.weight.numel() for m in inside) / sum(m.weight.numel() for m in maps)


def _known(path: Path | None, identity: dict[str, Any]) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        found = read_json(path)
    except DataError as error:
        log.warning("measuring again: %s", error)
        return None
    return found if isinstance(found, dict) and found.get("identity") == identity else None


def _others(out: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What earlier calls have measured of other models."""
    measured = {row["name"] for row in rows}
    for path in sorted(out.glob("*.json")):
        try:
            found = read_json(path)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        # a summary and the results of benchmarks may lie there too
        identity = found.get("identity") if isinstance(found, dict) else None
        if not isinstance(identity, dict) or found["name"] in measured:
            continue
        if identity.get("format") == FORMAT:
            yield found
        else:
            log.warning("left out %s: it is of another version; measure it again", path)


def _identity(subject: Subject) -> dict[str, Any]:
    """What a result depends on."""
    # the same weights compute something else with another activation or in another form
    found, left = understood(subject.model)
    blocks = [*((b.name, b.form, _declaration(b.act)) for b in found), *left.items()]
    return {
        "weights": fingerprint(subject.model),
        "activation": subject.activation,
        "blocks": hashlib.sha256(repr(blocks).encode()).hexdigest(),
        "rows": _tokens_sha256(subject.rows),
        "training": None if subject.training is None else _tokens_sha256(subject.training),
        "separator": subject.separator,
        "format": FORMAT,
    }


def _declaration(act: Any) -> str:
    """What says which function an activation is, its trained values apart."""
    spec = getattr(act, "spec", None)
    # a function's repr would hold its address
    return spec.sha256 if isinstance(spec, Spec) else getattr(act, "__qualname__", repr(act))


def _tokens_sha256(rows: Tensor) -> str:
    return hashlib.sha256(repr(tuple(rows.shape)).encode() + rows.numpy().tobytes()).hexdigest()


def _subjects(where: str, data: str | None, tokens: int) -> Iterator[Subject]:
    folder = Path(where).expanduser()
    if (folder / IDENTITY).exists():
        yield _run(folder, data, tokens)
        return
    runs = sorted(p.parent for p in folder.glob(f"*/{IDENTITY}"))
    if runs:
        finished = [r for r in runs if (r / WEIGHTS).exists()]
        if not finished:
            raise DataError(f"{where} must hold a finished run, got {len(runs)} unfinished ones")
        for run in runs:
            if run in finished:
                yield _run(run, data, tokens)
            else:
                log.warning("left out %s: it has no %s yet", run, WEIGHTS)
        return
    yield _checkpoint(where, data, tokens)


def _run(folder: Path, data: str | None, tokens: int) -> Subject:
    if not (folder / WEIGHTS).exists():
        raise DataError(f"{folder} must hold a finished run, got no {WEIGHTS}; train it to its end")
    model = load_run(folder)  # checks what run.json holds
    config = TrainConfig.from_dict(read_json(folder / IDENTITY)["config"])
    count = _rows(tokens, config.context)
    if data is None:
        known = prepare(config.data)
        rows = held_out_windows(Windows(known.held_out, config.context), count)
        training = held_out_windows(Windows(known.train, config.context), 2 * count)
        end = known.separator
    else:
        rows, end = _encoded(data, folder / TOKENIZER, config.context, 3 * count)
        rows, training = rows[:count], rows[count:]
    name = "drelu" if config.model.activate_up else config.activation
    apart = end if config.mask_documents else None
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    trained = record.get("batches_sha256"), record.get("tokens")
    return Subject(folder.resolve().name, name, model, rows, training, apart, *trained)


def _checkpoint(where: str, data: str | None, tokens: int) -> Subject:
    folder = Path(where).expanduser()
    local = folder.is_dir()
    if not folder.exists() and not is_hub_id(where):
        raise _no_model(where, "no such path")
    if not local and isinstance(place(where)[0], Folder):
        raise DataError(f"{where} must be a folder with a config.json, got a file; pass its folder")
    if local and not (folder / "config.json").exists():
        raise _no_model(where, "a folder with none of these")
    if data is None:
        kind = "is no run with" if local else "is no path here, and a hub's model has no"
        raise DataError(f"{where} {kind} text of its own; pass --data, such as python-docs")
    name = folder.resolve().name if local else where.partition("@")[0]
    if not local:
        folder = _fetched(where)
    config = read_config(Folder(folder), "config.json")
    if config is None:
        raise _no_model(where, "none of these")
    published = is_published(folder)
    model = load_published(folder, name) if published else _transformers(folder)
    most = config.get("max_position_embeddings")
    context = min(CONTEXT, most) if isinstance(most, int) and most > 0 else CONTEXT
    rows, _ = _encoded(data, folder / TOKENIZER, context, _rows(tokens, context))
    act = config.get("hidden_act") or config.get("activation_function") or "unknown"
    if published:  # what config says is not what they compute
        spec = getattr(model.get_submodule("model.layers.0.mlp.act_fn"), "spec", None)
        act = spec.name if spec is not None else "fatrelu"
    return Subject(name.replace("/", "--"), act.removeprefix("integrand/"), model, rows, None, None)


def _rows(tokens: int, context: int) -> int:
    if tokens < context:
        raise DataError(
            f"tokens must fill one row of this model's context of {context} at least, got {tokens};"
            f" pass --tokens {context}"
        )
    return tokens // context


def _no_model(where: str, got: str) -> DataError:
    return DataError(
        f"{where} must be a run, a folder of runs, a folder with a config.json or a hub id such as "
        f"SparseLLM/relu2-100B, got {got}; check the path"
    )


def _fetched(where: str) -> Path:
    """A hub id's files without pickled weights, in the hub's own cache."""
    from huggingface_hub import snapshot_download

    name, _, revision = where.partition("@")
    patterns = ["*.json", "*.safetensors"]
    folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    lacking = [p for p in ("*.safetensors", TOKENIZER) if not any(folder.glob(p))]
    if lacking:
        raise DataError(
            f"{where} must have safetensors and a {TOKENIZER} on the hub, got no "
            f"{' and no '.join(lacking)}; make them with transformers' save_pretrained and pass "
            "the folder"
        )
    return folder


def _transformers(folder: Path) -> nn.Module:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise DataError(
            f"loading {folder} needs transformers; pip install 'integrand[demo]'"
        ) from None
    try:
        model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # a config can be wrong in as many ways as there are models
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder} must hold a causal language model that transformers loads, got "
            f"{type(error).__name__}: {said}; compare its config.json with the one it came with"
        ) from None
    # transformers draws at random what is not there, and would have it measured
    if missing := sorted(told["missing_keys"]):
        raise DataError(
            f"{folder} must hold every tensor of the model that its config names, got none for "
            f"'{missing[0]}' and {len(missing) - 1} others; where its blocks are plain, convert "
            "it to safetensors"
        )
    return model


def _encoded(data: str, tokenizer: Path, context: int, count: int) -> tuple[Tensor, int]:
    """The first `count` rows of context + 1 tokens of a text, and the id between documents."""
    if not tokenizer.exists():
        raise DataError(
            f"{tokenizer.parent} must hold a tokenizer.json to read a text, got none; save one "
            "there, or pass token ids to integrand.sparsity.analyze"
        )
    known = load_tokenizer(tokenizer)
    end, wanted = separator_of(known), count * context + 1
    ids: list[int] = []
    for text in Documents(data, 100 * wanted):
        ids += [*known.encode(text).ids, end]
        if len(ids) >= wanted:
            break
    rows = min(count, (len(ids) - 1) // context)
    if rows < 1:
        raise DataError(
            f"{data} must hold {context + 1} tokens at least, got {len(ids)}; pass a longer text"
        )
    found = torch.tensor(ids[: rows * context + 1])
    return found.unfold(0, context + 1, context).contiguous(), end
