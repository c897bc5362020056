"""The scalar program as a stand-alone torch module: f, f' and an `nn.Module`."""

from __future__ import annotations

import re

from integrand.kernels.array_trace import TABLE, Functions, Library
from integrand.kernels.export import PYTHON, Export, safe_names

TORCH = Library(
    "torch",
    {
        "float64": "torch.float64",
        "copy": "{}.clone()",
        "full": "torch.full((), {}, dtype=x.dtype, device=x.device)",
        "pow": "torch.pow({}, {})",
        "rint": "torch.round({})",
    },
    {},
)
_TABLE = TABLE.format(
    lib="torch",
    array="torch.tensor",
    lib64="torch.float64",
    float64="torch.float64",
    bits64="a.detach().view(torch.int64)",
    bits32="a.detach().view(torch.int32)",
    number="number.clamp(0, ((hi - lo) << split) - 1).long()",
    moved="v.to(u.device, u.dtype)",
    side="(u > 0).long()",
)
_TAKEN = re.compile(rf"x|f|df|self|torch|nn|F|v\d+|{PYTHON}")

_FUNCTION = '''class _Function(torch.autograd.Function):
    """Computes in {compute}, rounds once.

    Backward keeps x and the parameter values.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, *params):
        z = x.to(_compute(x))
        return f(z, *_numbers_of(params, z)).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dout):
        x, *params = ctx.saved_tensors
        z, g = x.to(_compute(x)), dout.to(_compute(x))
        slope, *partials = df(z, *_numbers_of(params, z))
        needed = ctx.needs_input_grad[1:]
        sums = (_summed(g * d, p) if n else None for d, p, n in zip(partials, params, needed))
        return (g * slope).to(x.dtype), *sums


def _compute(x):
    return {rule}


def _numbers_of(params, z):
    single = (p.reshape(()) if p.numel() == 1 else p for p in params)
    return [p.to(z.dtype) for p in single]


def _summed(terms, p):
    total = terms.sum().reshape(p.shape) if p.numel() == 1 else terms.sum_to_size(p.shape)
    return total.to(p.dtype)
'''

_LAYER = '''class {cls}(nn.Module):
    """y = f(x), elementwise on tensors of any shape.{about}"""
{init}
    def forward(self, x):
        {tensors}
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        # an exported graph cannot hold an autograd function
        if recorded and not torch.compiler.is_exporting():
            return _Function.apply(*tensors)
        return _Function.forward(*tensors)
'''

_KEPT = """
    def _apply(self, fn, recurse=True):
        # raw parameters stay float32 in a half-precision model, where they would stop moving
        def kept(t):
            moved = fn(t)
            half = moved.dtype in (torch.float16, torch.bfloat16)
            return t.to(moved.device) if half else moved

        return super()._apply(kept, recurse)
"""


def source(export: Export) -> str:
    """Source text of a module with f, its exact backward and the activation's parameters.

    State dicts of integrand's own module load into it and back: keys, shapes and values are equal.
    """
    program = export.program
    functions = Functions(TORCH, program.wide)
    names = dict(zip(program.params, safe_names(program.params, _TAKEN), strict=True))
    meaning = ", ".join(["f'(x)", *(f"df/d{p}" for p in program.params)])
    outputs = ["df", *(f"d_{p}" for p in program.params)]
    bodies = [
        functions.scalar("f", program, ["f"], names, "f(x)"),
        functions.scalar("df", program, outputs, names, meaning),
    ]
    tables = [_TABLE, *functions.tables.values()] if functions.tables else []
    written = layer(export, names)
    parts = [
        imports(written),
        *functions.text.values(),
        *tables,
        *bodies,
        _function(export),
        written,
    ]
    return export.docstring("Needs torch alone.") + "\n\n" + "\n\n".join(parts)


def imports(code: str) -> str:
    """The imports of a module with a layer."""
    functional = ["import torch.nn.functional as F"] if "F." in code else []
    return "\n".join(["import torch", *functional, "from torch import nn", ""])


def _function(export: Export) -> str:
    wide = export.program.wide
    rule = "torch.float64"
    if not wide:
        rule += " if x.dtype == torch.float64 else torch.float32"
    return _FUNCTION.format(
        compute="float64" if wide else "float32 (float64 for float64)", rule=rule
    )


def layer(export: Export, names: dict[str, str], channels: bool = True) -> str:
    """The `nn.Module` over `_Function`, its parameters as integrand's own module has them."""
    given = "*self.values().values()" if names else ""
    return _LAYER.format(
        cls=export.class_name,
        about=_about(channels) if names else "",
        init=_init(export, names, channels) if names else "",
        tensors=f"tensors = (x, {given})".replace(", )", ",)"),
    )


def _about(channels: bool) -> str:
    shapes = "shape: (1,), or (C,) for one value per channel of the last dim of x.\n    "
    about = "Trainable parameters are stored unconstrained (raw); `values` are what f takes."
    return f"\n\n    {about}\n    {shapes if channels else ''}"


def _init(export: Export, names: dict[str, str], channels: bool) -> str:
    """`__init__`, `values` and `_apply`."""
    shape = "shape=(1,), " if channels else ""
    lines = ["", f"    def __init__(self, {shape}device=None):", "        super().__init__()"]
    lines.append('        like = {"dtype": torch.float32, "device": device}')
    size = "shape" if channels else "(1,)"
    for name, raw in export.raw.items():
        value = float(export.spec.params[name].init)
        lines.append(f"        # {name} = {value!r}")
        lines.append(f"        self.{name} = nn.Parameter(torch.full({size}, {raw!r}, **like))")
    for name, value in {**export.constants(), **export.buffers}.items():
        unused = "  # kept for checkpoints, not used" if name in export.buffers else ""
        lines.append(
            f'        self.register_buffer("{name}", torch.tensor({value!r}, **like)){unused}'
        )
    lines += ["", "    def values(self):", '        """The parameter values by name."""']
    stored = {p: f"self.{p}" for p in names}
    lines += [f"        {line}" for line in export.constraints(names, stored, "F")]
    pairs = ", ".join(f'"{p}": {n}' for p, n in names.items())
    lines += [f"        return {{{pairs}}}", *_KEPT.splitlines(), ""]
    return "\n".join(lines)
