"""What a model's config says of its activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def activations(config: Mapping[str, Any]) -> list[str]:
    """What the config calls its activations: hidden_act, activation_function and the like."""
    keys = {key for part in _nested(config) for key in part if "act" in key}
    return list(dict.fromkeys(v for v in fields(config, *keys) if isinstance(v, str)))


def fields(config: Mapping[str, Any], *names: str) -> Iterator[Any]:
    """The values of these fields, in the config and in its parts."""
    for part in _nested(config):
        yield from (part[name] for name in names if name in part)


def _nested(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config, and those of its parts (text_config and the like)."""
    # a list, not recursion: a stranger's config may be nested as deeply as JSON can be
    waiting = [config]
    while waiting:
        yield (part := waiting.pop())
        inner = [v for k, v in part.items() if k.endswith("_config") and isinstance(v, dict)]
        waiting += reversed(inner)
