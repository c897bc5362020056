"""The scalar program as one stand-alone C file: f and f' as functions, and two array loops."""

from __future__ import annotations

import re

import torch

from integrand.derivation.fold import folded
from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels.branches import resolved
from integrand.kernels.c_core import Functions
from integrand.kernels.c_print import (
    STORAGE,
    WORDS,
    assignments,
    compute_bits,
    hoisted_names,
    included,
    shared_values,
)
from integrand.kernels.export import Export, safe_names, used

_DEFINITION = re.compile(r"^INLINE [^\n]*?(\w+)\([^\n]*\{(?:[^\n]*\}|\n.*?^\})$", re.M | re.S)
_TAKEN = re.compile(
    r"x|u|v\d+|c\d+|number|f?abs|fabsf?|rintf?|sqrtf?|pow|\w+_(32|64)|bits\d+|float\d+|scale\d+|"
    + WORDS
)


def source(export: Export, dtype: torch.dtype) -> str:
    """One C11 file for a storage type: NAME_f, NAME_df, NAME_forward and NAME_backward.

    The expressions are those of integrand's own kernels; the loops are plain ones.
    """
    if dtype not in STORAGE:
        names = ", ".join(str(d).removeprefix("torch.") for d in STORAGE)
        raise BackendError(f"C source stores {names}, got {dtype}")
    # without parameters nothing is left to prepare
    program = export.program if export.program.params else folded(export.program, {})
    program = resolved(program)
    bits = compute_bits(program, dtype)
    functions = Functions(rounded=dtype != torch.float64).exact()
    real = "float" if bits == 32 else "double"
    hoisted = hoisted_names(program)
    given = [_prepare(export, program, hoisted, functions, real)] if program.params else []
    body = [
        *given,
        _scalar(export, program, hoisted, functions, bits, ["f"]),
        _scalar(export, program, hoisted, functions, bits, ["df", *_partials(program)]),
        _loops(export, program, dtype, real, bits),
    ]
    body = [*functions.text.values(), *body]
    helpers = used(_definitions(), "\n".join(body))
    return "\n\n".join([_head(export, dtype, real), *helpers, *body]) + "\n"


def _partials(program: Program) -> list[str]:
    return [f"d_{name}" for name in program.params]


def _definitions() -> dict[str, str]:
    """The functions that kernels are built on, by name."""
    text = included("storage.h") + "\n" + included("scale.h")
    return {m[1]: m[0] for m in _DEFINITION.finditer(text)}


def _head(export: Export, dtype: torch.dtype, real: str) -> str:
    name = export.spec.name
    stored = str(dtype).removeprefix("torch.")
    half = " (uint16_t)" if STORAGE[dtype][0] == "uint16_t" else ""
    lines = export.head(
        f"Arrays are {stored}{half}, computed in {real}, rounded once.",
        f"cc -O2 -std=c11 -c {name}.c; link with -lm. Never -ffast-math: the digits matter.",
    )
    comment = "\n   ".join(lines).replace("*/", "* /").replace("   \n", "\n")
    includes = [
        f"#include <{h}.h>" for h in ("float", "math", "stdbool", "stddef", "stdint", "string")
    ]
    return "\n".join([f"/* {comment} */", "", *includes, "", "#define INLINE static inline"])


def _prepare(
    export: Export, program: Program, hoisted: dict[int, str], functions: Functions, real: str
) -> str:
    name = export.spec.name
    arguments = safe_names(program.params, _TAKEN)
    given = {p: f"number({a})" for p, a in zip(program.params, arguments, strict=True)}
    fields, lines = shared_values(program, hoisted, functions, given, real)
    initial = ", ".join(f"{p} = {float(export.spec.params[p].init)!r}" for p in program.params)
    return "\n".join(
        [
            "/* what f needs of the parameter values */",
            "typedef struct {",
            *(f"  {field}" for field in fields),
            f"}} {name}_params;",
            "",
            "/* from the values, computed in double; they start at",
            f"   {initial} */",
            f"void {name}_prepare(",
            f"    {name}_params *u,",
            ",\n".join(f"    double {a}" for a in arguments) + ") {",
            *(f"  {line}" for line in lines),
            "}",
        ]
    )


def _scalar(
    export: Export,
    program: Program,
    hoisted: dict[int, str],
    functions: Functions,
    bits: int,
    outputs: list[str],
) -> str:
    trace, lines, values = assignments(program, hoisted, bits, functions, outputs)
    name, texts = export.spec.name, [trace.text(v) for v in values]
    shared = f", const {name}_params *u" if program.params else ""
    unused = ["(void)u;"] if program.params and not hoisted else []
    if outputs == ["f"]:
        head = ["/* f(x) */", f"{trace.type} {name}_f({trace.type} x{shared}) {{"]
    else:
        said = "f'(x)" + ("; partials: df/d" + ", df/d".join(program.params) if shared else "")
        partials = f", {trace.type} *partials" if shared else ""
        head = [f"/* {said} */", f"{trace.type} {name}_df({trace.type} x{shared}{partials}) {{"]
        lines += [
            f"partials[{k}] = {text};  /* {p} */"
            for k, (p, text) in enumerate(zip(program.params, texts[1:], strict=True))
        ]
    if not any("x" in re.findall(r"\w+", line) for line in [*lines, texts[0]]):
        unused.append("(void)x;")
    return "\n".join([*head, *(f"  {s}" for s in [*unused, *lines, f"return {texts[0]};"]), "}"])


def _loops(export: Export, program: Program, dtype: torch.dtype, real: str, bits: int) -> str:
    """y = f(x), and the backward pass, over n elements."""
    name, count = export.spec.name, len(program.params)
    storage, load, store = STORAGE[dtype]
    narrow = "narrow({})" if storage == "uint16_t" and bits == 64 else "{}"

    x = load.format("x[i]")

    def stored(text: str) -> str:
        converted = narrow.format(text)
        plain = storage in (real, "uint16_t")
        return store.format(converted) if plain else f"({storage})({converted})"

    shared = f", const {name}_params *u" if count else ""
    pass_u, pass_partials = (", u", ", partials") if count else ("", "")
    said = (
        f", and adds the sums of dout df/d{{{', '.join(program.params)}}} to dparams"
        if count
        else ""
    )
    sums = [f"    for (int k = 0; k < {count}; k++) dparams[k] += (double)(g * partials[k]);"]
    return "\n".join(
        [
            "/* y = f(x), n elements; y may be x */",
            f"void {name}_forward(",
            f"    const {storage} *x, {storage} *y, size_t n{shared}) {{",
            "  for (size_t i = 0; i < n; i++)",
            f"    y[i] = {stored(f'{name}_f({x}{pass_u})')};",
            "}",
            "",
            f"/* dx = dout f'(x){said} */",
            f"void {name}_backward(",
            f"    const {storage} *x, const {storage} *dout, {storage} *dx,",
            f"    size_t n{shared}{', double *dparams' if count else ''}) {{",
            "  for (size_t i = 0; i < n; i++) {",
            *([f"    {real} partials[{count}];"] if count else []),
            f"    const {real} g = {load.format('dout[i]')};",
            f"    const {real} slope = {name}_df({x}{pass_u}{pass_partials});",
            f"    dx[i] = {stored('g * slope')};",
            *(sums if count else []),
            "  }",
            "}",
        ]
    )
