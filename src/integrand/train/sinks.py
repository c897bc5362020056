"""Other places that the rows of metrics.jsonl go to as well: TensorBoard, trackio, wandb."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from integrand.errors import Error

Row = Mapping[str, Any]
Send = Callable[[Row], None]


@contextlib.contextmanager
def open_sinks(names: Sequence[str], out_dir: Path, config: Row) -> Iterator[Send]:
    """Within: a function that gives a row to every sink named. The record is metrics.jsonl.

    Raises:
        Error: an unknown name, or a library that is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise Error(f"a sink must be one of {', '.join(SINKS)}, got {name!r}")
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(SINKS[name](out_dir, config)) for name in names]

        def send(row: Row) -> None:
            if sinks and (values := numbers(row)):
                for sink in sinks:
                    sink(values, row["step"])

        yield send


def numbers(row: Row) -> dict[str, float]:
    """The numbers of a row as kind/name; of a list by place, such as activation/alpha_p/0."""
    found: dict[str, float] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                collect(f"{name}/{key}", inner)
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                collect(f"{name}/{place}", inner)
        elif isinstance(value, int | float):
            found[name] = float(value)

    for key, value in row.items():
        if key not in ("kind", "step"):
            collect(row["kind"] if key == "values" else f"{row['kind']}/{key}", value)
    return found


Sink = Callable[[dict[str, float], int], None]


@contextlib.contextmanager
def _tensorboard(out_dir: Path, config: Row) -> Iterator[Sink]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None
    with SummaryWriter(out_dir / "tensorboard") as writer:

        def send(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield send


@contextlib.contextmanager
def _session(name: str, out_dir: Path, config: Row) -> Iterator[Sink]:
    """wandb, or trackio, which has the same calls."""
    try:
        library = importlib.import_module(name)
    except ImportError:
        raise _missing(name) from None
    library.init(project="integrand", name=out_dir.name, config=dict(config))
    try:
        yield lambda values, step: library.log(values, step=step)
    finally:
        library.finish()


def _missing(name: str) -> Error:
    return Error(f"the sink {name!r} needs the library {name}; pip install {name}")


SINKS = {
    "tensorboard": _tensorboard,
    "trackio": functools.partial(_session, "trackio"),
    "wandb": functools.partial(_session, "wandb"),
}
