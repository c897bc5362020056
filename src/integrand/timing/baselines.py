"""What an activation is timed against: functions of x with the parameters autograd sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from integrand.errors import SpecError
from integrand.timing.naive import naive

logger = logging.getLogger(__name__)
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Entry:
    """Something to time. `computes` is False for a yardstick that is another function;
    `values` are the parameter values it really uses, None for those asked for.

    `forward_into(x, out)` and `backward_into(x, dout, dx)` write where they are told, None where
    there is no such call; `both(x, dout)` stands for forward+backward of what is no function.
    """

    name: str
    impl: str
    call: Function
    params: tuple[Tensor, ...] = ()
    compiled: bool = False
    computes: bool = True
    values: Mapping[str, float] | None = None
    forward_into: Callable[[Tensor, Tensor], Any] | None = None
    backward_into: Callable[[Tensor, Tensor, Tensor], Any] | None = None
    both: Callable[[Tensor, Tensor], Any] | None = None


def own(
    act: Any, impl: str, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> Entry:
    """The activation's module at its initial values, or its function at the given ones."""
    if params is None:
        layer = act.module(impl=impl, device=device)
        entry = Entry(act.name, impl, layer, tuple(layer.parameters()))
        with torch.no_grad():
            values = layer.values()
    else:
        values = _tensors(act.spec, params, dtype, device)
        leaves = tuple(t for t in values.values() if t.requires_grad)
        entry = Entry(act.name, impl, lambda x: act(x, impl=impl, **values), leaves)
    if device != "cpu" or impl not in ("auto", "c"):
        return entry
    return _with_kernel(entry, act.program, dtype, values)


def _tensors(
    spec: Any, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        k: torch.tensor([v], dtype=wide, device=device, requires_grad=spec.params[k].trainable)
        for k, v in {**spec.values(), **(params or {})}.items()
    }


def _with_kernel(
    entry: Entry, program: Any, dtype: torch.dtype, values: Mapping[str, Tensor]
) -> Entry:
    from integrand.errors import BackendError
    from integrand.kernels import c

    try:
        kernel = c.load(program, dtype)
    except BackendError:
        if entry.impl == "c":
            raise
        return entry
    ordered = [values[name].detach() for name in program.params]
    constants = c.doubles(ordered)
    return replace(
        entry,
        forward_into=lambda x, out: kernel.forward(x, ordered, out=out, constants=constants),
        backward_into=lambda x, dout, dx: kernel.backward(x, dout, ordered, True, dx=dx),
    )


def compiled(entry: Entry) -> Entry:
    """The same under `torch.compile`."""
    call = torch.compile(entry.call, dynamic=False)
    return replace(entry, call=call, compiled=True, forward_into=None, backward_into=None)


aten = torch.ops.aten
_YARDSTICKS = {
    "copy": Entry(
        "copy", "torch", torch.clone, computes=False,
        forward_into=lambda x, out: out.copy_(x),
        backward_into=lambda x, dout, dx: torch.add(x, dout, out=dx),
        both=lambda x, dout: (x.clone(), torch.add(x, dout)),
    ),
    "silu": Entry(
        "F.silu", "torch", F.silu, computes=False,
        forward_into=lambda x, out: aten.silu.out(x, out=out),
        backward_into=lambda x, dout, dx: aten.silu_backward.grad_input(dout, x, grad_input=dx),
    ),
    "gelu": Entry(
        "F.gelu", "torch", F.gelu, computes=False,
        forward_into=lambda x, out: aten.gelu.out(x, out=out),
        backward_into=lambda x, dout, dx: aten.gelu_backward.grad_input(dout, x, grad_input=dx),
    ),
}  # fmt: skip
DEFAULT = ("copy", "silu", "gelu", "compiled", "formula_compiled", "transformers",
           "transformers_compiled")  # fmt: skip
BASELINES = (*DEFAULT, "reference", "formula")
# transformers' names of the same functions at the declared initial values
_PEERS = {
    "identity": "linear", "relu": "relu", "relu2": "relu2", "relu6": "relu6", "silu": "silu",
    "leaky_relu": "leaky_relu", "gelu": "gelu_python", "gelu_tanh": "gelu_new", "mish": "mish",
    "gelu_quick": "quick_gelu", "laplace": "laplace", "hardswish": "hardswish", "tanh": "tanh",
    "sigmoid": "sigmoid",
}  # fmt: skip


def check_names(names: Sequence[str]) -> None:
    """SpecError for a baseline that is not known."""
    if unknown := sorted(set(names) - set(BASELINES)):
        raise SpecError(f"a baseline must be one of {', '.join(BASELINES)}; got '{unknown[0]}'")


def baselines(
    act: Any,
    params: Mapping[str, float] | None,
    dtype: torch.dtype,
    device: str,
    names: Sequence[str] = DEFAULT,
) -> dict[str, Entry]:
    """By name, those of `names` that there are for `act`.

    - `copy`: the limit: `copy_` forward, two reads and one write backward.
    - `silu`, `gelu`: torch's own kernels, yardsticks that are other functions.
    - `reference`, `compiled`: our traceable formula, eager and under torch.compile.
    - `formula`, `formula_compiled`: the text of a declared function as plain torch operations.
    - `transformers`, `transformers_compiled`: that library's module where it has the function: for
      xIELU, declared by its gradient, the plain formula.

    Raises:
        SpecError: an unknown name.
    """
    check_names(names)
    wanted = set(names)
    found = {name: entry for name, entry in _YARDSTICKS.items() if name in wanted}
    plain: dict[str, Entry | None] = {}
    if wanted & {"reference", "compiled"}:
        plain["reference"] = own(act, "reference", params, dtype, device)
    if wanted & {"formula", "formula_compiled"}:
        plain["formula"] = _formula(act, params, dtype, device)
    if wanted & {"transformers", "transformers_compiled"}:
        plain["transformers"] = _transformers(act, params, dtype, device)
    for name, entry in plain.items():
        under = "compiled" if name == "reference" else f"{name}_compiled"
        if entry and name in wanted:
            found[name] = entry
        if entry and under in wanted:
            found[under] = compiled(entry)
    return {name: found[name] for name in names if name in found}


def _formula(
    act: Any, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> Entry | None:
    formula = naive(act.spec)
    if formula is None:
        return None
    values = _tensors(act.spec, params, dtype, device)
    leaves = tuple(t for t in values.values() if t.requires_grad)
    return Entry(act.name, "formula", lambda x: formula(x, values), leaves)


def _transformers(
    act: Any, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> Entry | None:
    if act.name != "xielu" and (act.name not in _PEERS or params):
        return None
    try:
        from transformers import activations
    except ImportError:
        logger.info("transformers is not installed: its functions are not among the baselines")
        return None
    if act.name != "xielu":
        module = activations.get_activation(_PEERS[act.name])
        return Entry(type(module).__name__, "transformers", module)
    from integrand.certificate import transformers_xielu, xielu_values

    init = {k if k == "beta" else f"{k}_init": v for k, v in (params or {}).items()}
    # without the library's own CUDA kernel its module says so
    noise = logging.getLogger("transformers")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        module = transformers_xielu(dtype, **init).to(device)
    finally:
        noise.setLevel(level)
    leaves = tuple(module.parameters())
    return Entry("XIELUActivation", "transformers", module, leaves, values=xielu_values(module))
