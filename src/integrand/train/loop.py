"""The training loop, read from top to bottom."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.cache import locked_file
from integrand.errors import BusyError
from integrand.models.decoder import Decoder
from integrand.nn.gated import MakesModule
from integrand.nn.groups import activation_modules
from integrand.train import checkpoint
from integrand.train.activations import chosen
from integrand.train.alarms import Alarms
from integrand.train.batches import Batches, Windows, running_hash
from integrand.train.compute import cost, reset_memory
from integrand.train.config import TrainConfig
from integrand.train.distributed import ALONE, Ranks, check_ranks, join, spread, summing, whole
from integrand.train.evaluate import evaluate, held_out_windows, reading
from integrand.train.files import MetricsLog, read_metrics, write_json
from integrand.train.objective import LEFT_OUT, objective
from integrand.train.optimisers import make_optimizers
from integrand.train.outliers import outliers
from integrand.train.progress import Interruption, ProgressLine
from integrand.train.runs import (
    CHECKPOINTS,
    METRICS,
    RECORD,
    WEIGHTS,
    command,
    environment,
    open_run,
)
from integrand.train.schedule import rate_factor
from integrand.train.sinks import open_sinks
from integrand.train.tokens import TokenData, prepare


def train(
    config: TrainConfig,
    out_dir: Path | str,
    *,
    activation: MakesModule | None = None,
    tokens: TokenData | None = None,
    cache_dir: Path | str | None = None,
    resume: bool = True,
    label: str | None = None,
    steps_after: int = 0,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
    sinks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train one decoder; the run record, also written to out_dir/record.json.

    `activation` replaces the catalogue entry named in `config`. A run that was stopped goes on
    from its last checkpoint, with the losses it would have had (bitwise on a CPU with as many
    threads); a finished one returns its record. `on_step(step, loss)` is called after each step;
    the rows of metrics.jsonl go to the `sinks` as well (tensorboard, trackio, wandb).
    Files: run.json (the config), metrics.jsonl, model.safetensors, record.json. A run whose loss or
    gradient stops being finite ends there: its record has `diverged`, the step, and no loss, and
    there are no weights but those of the last checkpoint.

    Raises:
        BusyError: another process trains in out_dir.
        Error: the ranks that are there do not fit the config.
    """
    out_dir = Path(out_dir)
    activation = chosen(config, activation)
    check_ranks(config)
    # ranks that have joined wait for each other some minutes at most: this may take hours
    tokens = tokens or prepare(config.data, cache_dir)
    ranks, device = join(config)
    with claimed(out_dir, ranks):
        finished = ranks.after_first(
            # what the first rank has made anew is not for the others to clear again
            lambda: open_run(config, activation, tokens, out_dir, resume or not ranks.first)
        )
        return finished or run(
            *(config, out_dir, activation, tokens, ranks, device, label or config.activation),
            *(steps_after, quiet or not ranks.first, on_step, sinks),
        )


@contextmanager
def claimed(out_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Within: this run alone writes to its folder; where files cannot be locked that is hoped."""
    with ExitStack() as stack:

        def claim() -> None:
            out_dir.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(locked_file(out_dir / ".lock", 0.0)) is False:
                raise BusyError(
                    f"one process at a time trains in a folder, got {out_dir} while another one "
                    "does; wait for it, stop it, or choose another folder"
                )

        ranks.after_first(lambda: claim() if ranks.first else None)
        yield


def run(
    config: TrainConfig,
    out_dir: Path,
    activation: MakesModule,
    tokens: TokenData,
    ranks: Ranks,
    device: torch.device,
    label: str,
    steps_after: int,
    quiet: bool,
    on_step: Callable[[int, float], None] | None,
    sinks: Sequence[str],
) -> dict[str, Any]:
    """`train` in a folder that is ready for it."""
    cast = autocast(config, device)
    model = build(config, activation).to(device)
    spread_model = spread(model, config, device)
    optimizers = make_optimizers(config, model)
    # what follows a schedule of its own: a penalty that grows, an activation that switches
    timed: list[Any] = [m for m in model.modules() if hasattr(m, "at_step")]
    step_loss = compiled_loss() if config.compile else summed_loss
    batches = Batches(Windows(tokens.train, config.context), config.batch_size, config.seed)
    held_out = held_out_windows(Windows(tokens.held_out, config.context), config.eval_sequences)
    token_bytes = torch.from_numpy(tokens.token_bytes)
    separator = tokens.separator if config.mask_documents else None
    rows_at_once = config.batch_size // (config.accumulate * ranks.count)  # as in a training step
    alarms = Alarms(model, label, speaks=ranks.first)
    progress = checkpoint.restore(out_dir / CHECKPOINTS, model, optimizers, ranks)
    line = ProgressLine(label, progress.step, config.steps, steps_after, quiet)
    reset_memory(device)
    diverged = None
    at_step = norm_at_step = 0.0
    started = time.monotonic() - progress.seconds

    def observe(metrics: MetricsLog, step: int) -> tuple[float, float] | None:
        """(held-out loss, bits per byte); None where the loss is not finite."""
        loss, bits = evaluate(model, held_out, token_bytes, rows_at_once, cast, separator, ranks)
        if alarms.diverged(metrics, step, loss, norm_at_step):
            return None
        metrics.add("held_out", step, loss=loss, bits_per_byte=bits)
        if values := activation_values(model):
            metrics.add("activation", step, values=values)
        alarms.growth(metrics, step)
        return loss, bits

    first = progress.step
    log = out_dir / METRICS if ranks.first else None
    with (
        open_sinks(sinks if ranks.first else (), out_dir, config.to_dict()) as send,
        MetricsLog(log, first if first else -1, send) as metrics,
        Interruption() as interruption,
    ):
        alarms.recall(metrics.kept)
        if progress.step == 0:
            observe(metrics, 0)
        while progress.step < config.steps:
            step_started = time.monotonic()
            for module in timed:
                module.at_step(progress.step, config.steps)
            batch = batches.at(progress.step)
            rate = set_rate(optimizers, config, progress.step)
            loss, norm, left_out = one_step(
                *(spread_model, optimizers, batch.to(device), config, cast, step_loss),
                *(ranks, tokens.separator),
            )
            progress.left_out += left_out
            progress.batches_sha256 = running_hash(progress.batches_sha256, batch)
            progress.step = step = progress.step + 1
            last = step == config.steps
            logged = step % config.log_every == 0 or last
            evaluated, saved = step % config.eval_every == 0, step % config.checkpoint_every == 0
            asked = ranks.any(interruption.asked, device)
            if logged or evaluated or saved or asked:
                # waits for the device, so that its work counts as training
                at_step, norm_at_step = float(loss), float(norm)
                if alarms.diverged(metrics, step, at_step, norm_at_step):
                    diverged = step
            now = time.monotonic()
            progress.seconds = now - started
            if step > first + 1:  # the first step of a process may compile
                progress.timed_steps += 1
                progress.train_seconds += now - step_started
            if diverged:
                break
            if logged:
                row = {"loss": at_step, "lr": rate, "grad_norm": norm_at_step}
                row["tokens"] = step * config.batch_size * config.context
                metrics.add("train", step, **row, seconds=round(progress.seconds, 3))
                alarms.spike(metrics, step, at_step)
                line.show(step, at_step)
            if on_step is not None:
                on_step(step, float(loss))
            if last:
                break
            if evaluated and observe(metrics, step) is None:
                diverged = step
                break
            # rows up to a checkpoint are written before it: a resumed run keeps exactly those
            if saved or asked:
                checkpoint.save(out_dir / CHECKPOINTS, model, optimizers, progress, ranks)
            if asked:
                raise KeyboardInterrupt(f"stopped after step {step}; the same command goes on")
        measured = None if diverged else observe(metrics, config.steps)
        if measured is None and not diverged:
            diverged = config.steps
    if not diverged:
        checkpoint.save_weights(out_dir / WEIGHTS, model, ranks)
    ranks.wait()  # the record takes from the metrics what the first rank has written
    # enough rows for a stable figure, from all of the split
    some = held_out[:: -(-len(held_out) // 64)].to(device).split(rows_at_once)
    calls = (reading(rows, separator)[0] for rows in some)
    record = {
        **counts(config, model),
        "loss": measured and measured[0],
        "bits_per_byte": measured and measured[1],
        "diverged": diverged,
        **history(out_dir / METRICS),
        "activation_values": None if diverged else activation_values(model),
        "outliers": None if diverged else outliers(model, calls, cast),
        # share of the labels that the loss did not count
        "left_out": progress.left_out / (progress.step * config.batch_size * config.context),
        "wall_s": round(progress.seconds, 3),
        "steps_per_s": round(progress.step / progress.seconds, 3),
        **cost(config, device, progress, ranks.count),
        "batches_sha256": progress.batches_sha256,
        "data_sha256": tokens.sha256,
        "config_sha256": config.sha256(),
        "environment": environment(device),
        "command": command(),
    }
    if ranks.first:
        write_json(out_dir / RECORD, record)
        if not diverged:  # the last good state of the others is all that is left of them
            shutil.rmtree(out_dir / CHECKPOINTS, ignore_errors=True)
    return record


def history(metrics: Path) -> dict[str, list[Any]]:
    """What a study needs of metrics.jsonl, for the record: a resumed run has it all.

    `held_out`: [step, loss, bits per byte]; `activation_history`: [step, values by name and layer].
    """
    rows = list(read_metrics(metrics))
    return {
        "held_out": [
            [row["step"], row["loss"], row["bits_per_byte"]]
            for row in rows
            if row["kind"] == "held_out"
        ],
        "activation_history": [
            [row["step"], row["values"]] for row in rows if row["kind"] == "activation"
        ],
    }


def counts(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """What was trained, and on how much."""
    return {
        "activation": config.activation,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.steps,
        "tokens": config.steps * config.batch_size * config.context,
        "seed": config.seed,
    }


def build(config: TrainConfig, activation: MakesModule) -> Decoder:
    """The decoder of a config with its initial weights."""
    model = Decoder(config.model, activation, config.impl).initialise(config.seed)
    # what an activation asks for around it in training, such as a penalty on the hidden values
    if (attach := getattr(activation, "attach", None)) is not None:
        attach(model, config.accumulate)
    return model


def one_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Tensor,
    config: TrainConfig,
    cast: AbstractContextManager[object],
    step_loss: Callable[..., Tensor] | None = None,
    ranks: Ranks = ALONE,
    separator: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """One update on token ids (B, context + 1): (loss before it, gradient norm, labels left out).

    Each rank takes its rows of the batch; loss and norm are those of the whole on all of them.
    `separator` is the id that ends a document; None: each row is one.
    """
    step_loss = step_loss or summed_loss
    labels, documents = objective(batch, config, separator)
    # gradients are averaged over the ranks, and the loss is a mean over the labels of all of them
    left_out = 0
    if config.goldfish_k or config.mask_documents:
        left_out = int((labels == LEFT_OUT).sum())
    counted = max(1, labels.numel() - left_out) / ranks.count
    given = (batch[:, :-1], labels) if documents is None else (batch[:, :-1], labels, documents)
    parts = zip(*(ranks.part(each).chunk(config.accumulate) for each in given), strict=True)
    loss = torch.zeros((), device=batch.device)
    for place, part_of_each in enumerate(parts, 1):
        with summing(model, place == config.accumulate):
            with cast:
                part = step_loss(model, *part_of_each) / counted
            part.backward()
        loss += part.detach()
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return ranks.mean(loss), norm, left_out


def summed_loss(
    model: nn.Module, inputs: Tensor, labels: Tensor, documents: Tensor | None = None
) -> Tensor:
    """Cross-entropy in nats, summed over the labels (B, T); a label of -100 does not count.

    `documents` (B, T) number the inputs' documents: each is then read by itself.
    """
    logits = model(inputs) if documents is None else model(inputs, documents)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def compiled_loss() -> Callable[..., Tensor]:
    """`summed_loss` under torch.compile."""
    # every kind of model that a process trains is one more entry for this function, and a study
    # has dozens of them; past the limit (8) a model would silently run uncompiled
    torch._dynamo.config.recompile_limit = max(128, torch._dynamo.config.recompile_limit)
    # every shape is compiled by itself: with sizes left open the second shape of a process would
    # change the bits of the next runs
    return torch.compile(summed_loss, dynamic=False)


def set_rate(optimizers: Sequence[torch.optim.Optimizer], config: TrainConfig, step: int) -> float:
    """Set every group's rate for `step`; the rate that groups scale."""
    rate = config.lr * rate_factor(config, step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
    return rate


def activation_values(model: nn.Module) -> dict[str, list[Any]]:
    """Constrained trainable parameters by name, one entry per layer in order of depth."""
    values: dict[str, list[Any]] = {}
    for module in activation_modules(model).values():
        constrained = cast("Callable[[], dict[str, Tensor]]", module.values)()
        for name, _ in module.named_parameters():
            listed = whole(constrained[name].detach()).float().flatten().tolist()
            values.setdefault(name, []).append(listed[0] if len(listed) == 1 else listed)
    return values


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
