"""The command line: every command is a few lines over the public Python API."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from integrand.cli.arguments import fail
from integrand.cli.certifying import certify
from integrand.cli.declaring import derive, list_, show
from integrand.cli.models import inspect, sparsity
from integrand.cli.pages import demo, report
from integrand.cli.searching import search
from integrand.cli.timing import bench
from integrand.cli.training import evaluate, export, study, train

COMMANDS: dict[str, Callable[..., int]] = {
    "derive": derive,
    "show": show,
    "certify": certify,
    "bench": bench,
    "list": list_,
    "train": train,
    "study": study,
    "export": export,
    "evaluate": evaluate,
    "inspect": inspect,
    "sparsity": sparsity,
    "report": report,
    "search": search,
    "demo": demo,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 a check failed, 2 bad input, 130 stopped."""
    # threads that spin while they wait take the core from the one they wait for as soon as
    # anything else runs; OpenMP reads this when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from integrand.errors import CertificationError, Error

    try:
        return _parse(list(sys.argv[1:] if args is None else args))()
    except CertificationError as error:
        return fail(str(error), 1)
    except Error as error:
        return fail(str(error), 2)
    except BrokenPipeError:
        # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt as stop:
        return fail(str(stop) or "stopped", 130)


def _parse(args: list[str]) -> Callable[[], int]:
    """The command with its arguments, not yet run."""
    import tyro

    from integrand.errors import SpecError

    def deferred(command: Callable[..., int]) -> Callable[..., Any]:
        @functools.wraps(command)
        def keep(*values: Any, **options: Any) -> Callable[[], int]:
            return lambda: command(*values, **options)

        return keep

    # a text or an anchor may begin with a minus; options have two
    args = [f" {a}" if a[:1] == "-" and a[:2] != "--" and a != "-h" else a for a in args]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {name: deferred(command) for name, command in COMMANDS.items()},
                prog="integrand",
                description="You write the gradient. integrand writes the activation.",
                args=args,
                config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        command = args[0] if args and args[0] in COMMANDS else ""
        raise SpecError(
            f"{_first_words(said.getvalue())}; see `integrand {command + ' ' if command else ''}"
            "--help`"
        ) from None


def _first_words(box: str) -> str:
    """The message inside a drawn box, without its frame."""
    lines = [line.strip("╭╮╰╯│─━┃┏┓┗┛+-| ") for line in box.splitlines()[1:]]
    message = []
    for line in lines:
        if not line and message:
            break
        message += [line] if line else []
    return " ".join(message).rstrip(".:") or "the command line cannot be read"
