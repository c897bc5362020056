"""What `accelerate` may touch: which blocks it can take, and which thresholds belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import DataError, Error
from integrand.kernels.triton import available
from integrand.models.swap_calls import ACTIVATION_CALLS
from integrand.nn.jump import FATReLULayer
from integrand.nn.pointwise import Pointwise
from integrand.sparsity import row_skip, triton_skip
from integrand.sparsity.block_weights import is_plain, is_untouched
from integrand.sparsity.feed_forward import SCALES, FeedForward, cannot_run, same, tokens
from integrand.sparsity.frozen import frozen
from integrand.sparsity.thresholds import Thresholds, check_values, fingerprint
from integrand.spec import names, row


def why_not(block: FeedForward, impl: str) -> str:
    """Why a block is left as it is; empty where it is not."""
    maps = (*block.inner, block.down)
    if not all(_standard(m) and is_plain(m) for m in maps):
        return "has linear maps that are not plain ones with a parameter"
    if reason := _surroundings(block):
        return reason
    if not all(p.is_contiguous() for m in maps for p in m.parameters() if p.ndim == 1):
        return "has a bias that is not one stretch of memory"
    dtypes = {p.dtype for m in maps for p in m.parameters()}
    known = row_skip.DTYPES if impl == "c" else triton_skip.DTYPES
    if len(dtypes) > 1 or not dtypes <= set(known):
        names = ", ".join(str(d).removeprefix("torch.") for d in known)
        return f"must have weights of one type of {names}"
    devices = {p.device for m in maps for p in m.parameters()}
    reasons = {available(d) if impl == "triton" else _not_cpu(d) for d in devices}
    if len(devices) > 1 or reasons != {None}:
        return next(filter(None, reasons), "is spread over devices")
    if block.form == "both" and not _grows_slowly(block.act):
        return "has act(up x) with an activation whose growth is not known: it might overflow"
    return _does_more(block)


def has_zeros(block: FeedForward) -> bool:
    """Whether act is 0 for any x but 0: SiLU and GELU are small where ReLU is zero."""
    x = torch.linspace(-4, 4, 64).unsqueeze(1).expand(-1, block.d_hidden)
    with frozen(block.module):
        return bool((block.act(x.to(block.matrices()[1].weight)) == 0).any())


def _grows_slowly(act: Any) -> bool:
    """Whether act is the catalogue's, torch's or transformers', whose |act| is largest at an end.

    None of those grows faster than a square; values held as tensors could, and change unseen.
    """
    if isinstance(act, nn.Module) and act.state_dict():
        return False
    if isinstance(act, Pointwise):
        name = act.spec.name
        return name in names() and row(name).spec.sha256 == act.spec.sha256
    if isinstance(act, nn.Module):
        known = ("torch.nn.modules.activation", "transformers.activations")
        return type(act) is FATReLULayer or type(act).__module__ in known
    of_torch = getattr(act, "__module__", None) in ("torch.nn.functional", "torch._C._nn", None)
    return of_torch and getattr(act, "__name__", "") in ACTIVATION_CALLS


def _surroundings(block: FeedForward) -> str:
    """What is in the block beside its maps and its activation and would be passed over."""
    if "forward" in vars(block.module):
        return "has a forward function that replaces its own"
    for name, module in block.module.named_modules():
        if module is not block.module and not is_untouched(module):
            return (
                f"has a hook or a forward function of its own on '{name}', which skipping would "
                "not run: take it away first (`remove_penalty`, if it is that)"
            )
    held = [key for _, m in block.beside() for key in (*m._parameters, *m._buffers)]
    return f"holds '{held[0]}' beside its maps, which may come to mean something" if held else ""


def _does_more(block: FeedForward) -> str:
    # one token at a time, as it decodes; two of each size, since a weight may not be finite
    x = tokens(2 * len(SCALES), block.matrices()[1].weight).unsqueeze(1)
    try:
        with frozen(block.module):
            expected, got = block.module(x), block.down(block.hidden(x))
    except Error:
        raise
    # whatever a stranger's forward function raises
    except Exception as error:
        return cannot_run(error)
    if not isinstance(expected, Tensor) or expected.shape != got.shape or got.dtype != x.dtype:
        return "gives something else than its map back"
    if not bool((expected.isfinite() & got.isfinite()).any()):
        return "gives nothing finite, by which it could be known"
    return "" if same(expected, got) else "does something after its map back"


def _not_cpu(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f'impl="c" runs on the CPU, the block is on {device}'


def _standard(module: nn.Module) -> bool:
    return type(module).forward is nn.Linear.forward or type(module).__name__ == "Conv1D"


def thresholds_of(
    given: Any, model: nn.Module, blocks: list[FeedForward], left: Mapping[str, str]
) -> dict[str, Tensor]:
    """(H,) by block name; in a plain block, where h is the activation, `hidden/` does as `gate/`.

    Raises:
        DataError: no thresholds, those of another model, for no block or one that is left, or out
            of range.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping | Thresholds):
        raise DataError(
            "thresholds must be Thresholds or tensors by name ({'gate/BLOCK': (H,)}), got "
            f"{given!r}; read a file with load_thresholds(path, model)"
        )
    wanted = getattr(given, "model", None)
    if wanted is not None and (own := fingerprint(model)) != wanted:
        raise DataError(
            "thresholds must be those of this model, got the ones of the model with sha256 "
            f"{wanted[:12]} for one with {own[:12]}; calibrate them anew"
        )
    values = given if isinstance(given, Mapping) else given.values
    by_name = {block.name: block for block in blocks}
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        section, _, place = name.partition("/")
        block = by_name.get(place)
        _check(name, section, value, block)
        if place in left:
            raise DataError(
                f"thresholds must be for blocks that can be accelerated, got '{name}' for one that "
                f"{left[place]}; apply them with `applying`, or leave them out"
            )
        # what is at most one of two is at most the larger
        found[place] = torch.maximum(value, found[place]) if place in found else value
    return found


def _check(name: str, section: str, value: Any, block: FeedForward | None) -> None:
    if section == "hidden" and block is not None and block.form != "plain":
        raise DataError(
            f"thresholds '{name}' are compared with |act(gate) up|, which a {block.form} block "
            "knows after it has read up: nothing could be skipped; calibrate by the gate "
            "(CATS, CHESS), or use `applying`"
        )
    if section not in ("gate", "hidden") or block is None:
        raise DataError(
            "thresholds of accelerate must be 'gate/BLOCK', or 'hidden/BLOCK' of a plain one, for "
            f"a block of this model, got '{name}'; calibrate by the gate (CATS, CHESS)"
        )
    check_values(name, value, block.d_hidden)
