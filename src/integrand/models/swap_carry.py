"""The module that takes an activation's place, with the numbers of the old one where it can."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from integrand.activation import Activation
from integrand.errors import SpecError, SwapError
from integrand.models.swap_probe import measured_copy, probe_points, same_function
from integrand.nn.constraints import raw_values
from integrand.nn.pointwise import Pointwise
from integrand.spec.spec import check_values


def successor(
    name: str, activation: Activation, old: Any, device: torch.device, training: bool
) -> tuple[Pointwise, tuple[str, ...]]:
    """A new module of `activation`, and the names of the numbers it took over from `old`.

    Tensors of equal name are copied bit for bit, in their dtype, where both then compute the same
    function. Otherwise the numbers that `old` holds (a slope, an alpha) become parameter values in
    the assignment under which both agree. Failing both, parameters start at their declared values,
    in fp32.

    Raises:
        SwapError: `old` has the tensors of `activation`, yet their numbers cannot be kept.
    """
    # parameters made in inference mode could never be trained
    with torch.inference_mode(False), torch.device("cpu"):
        carried = _same_names(activation, old) or _same_values(activation, old)
        if not carried:
            _check_lost(name, activation, old)
        new, names = carried or (activation.module(device=device), ())
        return new.to(device).train(training), names


def _same_names(activation: Activation, old: Any) -> tuple[Pointwise, tuple[str, ...]] | None:
    if not isinstance(old, nn.Module):
        return None
    held = {**dict(old.named_parameters()), **dict(old.named_buffers())}
    params = [name for name in activation.spec.params if name in held]
    if not params or len(params) < len(activation.spec.params):
        return None
    trained = [held[n] for n in params if activation.spec.params[n].trainable] or [held[params[0]]]
    if any(t.is_meta for t in held.values()) or len({(t.dtype, t.shape) for t in trained}) > 1:
        return None
    ours = isinstance(old, Pointwise)
    # fp32 is what training moves: a later .half() must not round it
    keeps_fp32 = old._keep_fp32 if ours else trained[0].dtype is torch.float32
    new = activation.module(
        dtype=None if keeps_fp32 else trained[0].dtype,
        device=trained[0].device,
        shape=tuple(trained[0].shape) or (1,),
    )
    own = {name: t for name, t in new.state_dict().items() if name in held}
    if any(held[name].numel() != t.numel() for name, t in own.items()):
        return None
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(held[name].reshape(tensor.shape))
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(held[name].requires_grad)
    same = _same_spec(activation, old) or same_function(old, new)
    return (new, tuple(own)) if same else None


def _check_lost(name: str, activation: Activation, old: Any) -> None:
    """Raise `SwapError` where a checkpoint of the activation's own keys would be reset."""
    params = activation.spec.params
    if isinstance(old, Pointwise) or not isinstance(old, nn.Module) or not params:
        return
    held = old.state_dict()
    # xiprelu has the parameters of xielu without its eps, and is another function on purpose
    if set(held) != set(activation.module().state_dict()):
        return
    listed = ", ".join(f"'{key}'" for key in params)
    wrong = next((key for key in params if not held[key].isfinite().all()), "")
    if wrong:
        raise SwapError(
            f"'{name}' has the parameters of '{activation.name}', but its '{wrong}' is not finite,"
            " so its numbers cannot be carried over; mend it first, or leave it out of sites="
        )
    # a single name such as alpha may mean anything
    if len(params) > 1:
        raise SwapError(
            f"'{name}' has the parameters of '{activation.name}' ({listed}), but"
            f" {_difference(old, held, activation)}, so they would be reset; leave it out of"
            " sites=, or put a module of another class there first"
        )


def _difference(old: nn.Module, held: dict[str, Tensor], activation: Activation) -> str:
    params = activation.spec.params
    trained = [held[key] for key in params if params[key].trainable]
    if len({(t.dtype, t.shape) for t in trained}) > 1:
        return "they are of different types or shapes"
    new = activation.module(dtype=torch.float64)
    odd = [
        f"its '{key}' is {held[key].item():.4g}, not {t.item():.4g}"
        for key, t in new.named_buffers()
        if key in held and held[key].numel() == 1
        if not torch.isclose(held[key].double().cpu(), t, rtol=0.01).all()
    ]
    with torch.no_grad():
        for key, tensor in new.state_dict().items():
            if key in held and held[key].numel() == tensor.numel():
                tensor.copy_(held[key].reshape(tensor.shape))
        x = probe_points()
        gap = (measured_copy(old)(x.clone()) - new(x)).abs()
    at = int(gap.nan_to_num(torch.inf).argmax())
    text = f"computes another function, off by {gap[at].item():.3g} at {x[at].item():.4g}"
    return f"{text} ({', '.join(odd)})" if odd else text


def _same_spec(activation: Activation, old: Any) -> bool:
    return isinstance(old, Pointwise) and old.spec.sha256 == activation.spec.sha256


def _same_values(activation: Activation, old: Any) -> tuple[Pointwise, tuple[str, ...]] | None:
    params = activation.spec.params
    numbers = _numbers(old)
    if not params or len(params) > 3 or len(numbers) > 6:
        return None
    for chosen in itertools.permutations(numbers, len(params)):
        values = dict(zip(params, chosen, strict=True))
        try:
            check_values(activation.spec, values)
            new = with_values(activation, values)
        except (SpecError, ValueError, OverflowError):
            continue
        if same_function(old, new):
            return new, tuple(params)
    return None


def with_values(activation: Activation, values: dict[str, float]) -> Pointwise:
    """A module of `activation` whose parameters have these values."""
    new = activation.module()
    raw = {**values, **raw_values(activation.spec.params, values)}
    with torch.no_grad():
        for name in activation.spec.params:
            getattr(new, name).fill_(raw[name])
    return new


def _numbers(old: Any) -> list[float]:
    """The numbers a callable holds: single-element tensors, float attributes, keywords."""
    if isinstance(old, Pointwise):
        held = [v.item() for v in old.values().values() if v.numel() == 1 and not v.is_meta]
    elif isinstance(old, nn.Module):
        tensors = [*old.parameters(), *old.buffers()]
        single = [t for t in tensors if t.numel() == 1 and not t.is_meta]
        held = [*(t.item() for t in single), *vars(old).values()]
    else:
        held = [*getattr(old, "keywords", {}).values(), *getattr(old, "args", ())]
    found = (float(v) for v in held if isinstance(v, int | float) and not isinstance(v, bool))
    return list(dict.fromkeys(found))


def device_around(parent: nn.Module, model: nn.Module) -> torch.device:
    """The device of the tensors nearest to a site: of its module, else of the model."""
    for module in (parent, model):
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            return tensor.device
    return torch.device("cpu")
