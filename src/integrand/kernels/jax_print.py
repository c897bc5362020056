"""The scalar program as a stand-alone JAX module.

The derivative is a `custom_jvp` rule, so that forward mode, reverse mode and higher orders all
start from the declared gradient; `jax.checkpoint` around it keeps x and the parameters alone for
the backward pass, where JAX would store f' and every partial in float32.
"""

from __future__ import annotations

import re

from integrand.kernels.array_trace import TABLE, Functions, Library
from integrand.kernels.export import PYTHON, Export, safe_names

_EXP2 = """def _exp2(n):
    \"\"\"2^n of a whole n, exactly: its exponent bits.\"\"\"
    if n.dtype == jnp.float64:
        return lax.bitcast_convert_type((n.astype(jnp.int64) + 1023) << 52, jnp.float64)
    return lax.bitcast_convert_type((n.astype(jnp.int32) + 127) << 23, jnp.float32)
"""
JAX = Library(
    "jnp",
    {
        "float64": "jnp.float64",
        "full": "jnp.asarray({}, x.dtype)",
        "pow": "jnp.power({}, {})",
        "rint": "jnp.round({})",
        "exp2": "_exp2({})",
    },
    {"exp2": _EXP2},
)
_TABLE = TABLE.format(
    lib="jnp",
    array="np.array",
    lib64="np.float64",
    float64="jnp.float64",
    bits64="lax.bitcast_convert_type(a, jnp.int64)",
    bits32="lax.bitcast_convert_type(a, jnp.int32)",
    number="jnp.clip(number, 0, ((hi - lo) << split) - 1)",
    moved="jnp.asarray(v, u.dtype)",
    side="(u > 0).astype(jnp.int32)",
)
_TAKEN = re.compile(
    rf"x|f|df|jax|jnp|lax|np|v\d+|values|raw_parameters|raw|partial|enable_x64|{PYTHON}"
)

_WIDE = """try:
    from jax import enable_x64
except ImportError:
    from jax.experimental import enable_x64
"""

_RULES = '''@jax.custom_jvp
def _core(x, *params):
    {begin}z = x.astype(_compute(x))
    {more}return f(z, *(p.astype(z.dtype) for p in params)).astype(x.dtype)


@partial(_core.defjvp, symbolic_zeros=True)
def _core_jvp(primals, tangents):
    x, *params = primals
    {begin}z = x.astype(_compute(x))
    {more}slopes = df(z, *(p.astype(z.dtype) for p in params))
    {more}slopes = [s.astype(_tangent(x)) for s in slopes]
    moving = [
        s * t.astype(_tangent(x))
        for s, t in zip(slopes, tangents)
        if not isinstance(t, jax.custom_derivatives.SymbolicZero)
    ]
    dy = sum(moving, jnp.zeros(x.shape, _tangent(x)))
    return _core(*primals), dy.astype(x.dtype)


def _compute(x):
    return {rule}


def _tangent(x):
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32

{single}
def {name}(x{defaults}):
    """f(x), elementwise, in the type of x: computed in {compute}, rounded once.

    Differentiable in x{about}.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
{given}    # keeps x and the parameters alone for the backward pass
    return jax.checkpoint(_core)(x{passed})
'''

_SINGLE = """
def _single(p):
    return p.reshape(()) if p.size == 1 else p

"""


def source(export: Export) -> str:
    """Source text of a module with the activation as a function of x and its parameter values."""
    program = export.program
    functions = Functions(JAX, program.wide)
    names = dict(zip(program.params, safe_names(program.params, _TAKEN), strict=True))
    meaning = ", ".join(["f'(x)", *(f"df/d{p}" for p in program.params)])
    outputs = ["df", *(f"d_{p}" for p in program.params)]
    bodies = [
        functions.scalar("f", program, ["f"], names, "f(x)"),
        functions.scalar("df", program, outputs, names, meaning),
    ]
    tables = [_TABLE, *functions.tables.values()] if functions.tables else []
    code = [*functions.text.values(), *tables, *bodies, _rules(export, names)]
    if names:
        code.append(_parameters(export, names))
    head = ["from functools import partial\n", "import jax", "import jax.numpy as jnp"]
    if functions.tables:
        head.append("import numpy as np")
    if "lax." in "".join(code):
        head.append("from jax import lax")
    parts = ["\n".join(head) + "\n", *code]
    if program.wide:
        parts[0] += "\n" + _WIDE
    note = "Needs jax alone."
    if program.wide:
        note += " Computes in float64 whatever jax_enable_x64 says."
    return export.docstring(note) + "\n\n" + "\n\n".join(parts)


def _rules(export: Export, names: dict[str, str]) -> str:
    wide = export.program.wide
    params = export.spec.params
    [name] = safe_names([export.spec.name], _TAKEN)
    rule = "jnp.float64" + ("" if wide else " if x.dtype == jnp.float64 else jnp.float32")
    convert = "    {n} = _single(jnp.asarray({n}, _tangent(x)))\n"
    return _RULES.format(
        begin="with enable_x64(True):\n        " if wide else "",
        more="    " if wide else "",
        rule=rule,
        name=name,
        compute="float64" if wide else "float32 (float64 for float64)",
        defaults="".join(f", {n}={float(params[p].init)!r}" for p, n in names.items()),
        about=" and in the parameters' values, which broadcast against x" if names else "",
        single=_SINGLE if names else "",
        given="".join(convert.format(n=n) for n in names.values()),
        passed="".join(f", {n}" for n in names.values()),
    )


def _parameters(export: Export, names: dict[str, str]) -> str:
    """`raw_parameters` and `values`: what an optimiser moves, and what f takes."""
    initial = [f'"{n}": jnp.full(shape, {raw!r}, jnp.float32),' for n, raw in export.raw.items()]
    stored = {n: f'raw["{n}"]' for n in export.raw}
    stored |= {n: repr(value) for n, value in export.constants().items()}
    pairs = ", ".join(f'"{n}": {n}' for n in names.values())
    lines = [f"    {line}" for line in export.constraints(names, stored, "jax.nn")]
    return "\n".join(
        [
            "def raw_parameters(shape=(1,)):",
            '    """The trainable parameters, unconstrained, at their initial values."""',
            "    return {",
            *(f"        {line}" for line in initial),
            "    }",
            "",
            "",
            "def values(raw):",
            '    """The constrained values, by the names of the arguments."""',
            *lines,
            f"    return {{{pairs}}}",
            "",
        ]
    )
