"""A scalar program as readable C: functions, the two scalar functions, the loops."""

from __future__ import annotations

import re
import sys
import textwrap
from dataclasses import replace
from importlib.resources import files
from typing import Any

import torch

from integrand.derivation.program import Program, evaluate, operands
from integrand.kernels.branches import resolved
from integrand.kernels.c_core import Functions
from integrand.kernels.c_trace import Trace, Value
from integrand.kernels.export import safe_names

# storage type: C type, and how it is loaded as and stored from float
STORAGE = {
    torch.float32: ("float", "{}", "{}"),
    torch.float64: ("double", "{}", "{}"),
    torch.bfloat16: ("uint16_t", "load_bf16({})", "store_bf16({})"),
    torch.float16: ("uint16_t", "load_fp16({})", "store_fp16({})"),
}
KEYWORDS = frozenset(
    re.findall(
        "[a-z]+",
        "auto bool break case char const continue default do double else enum extern float for "
        "goto if inline int long register restrict return short signed sizeof static struct switch "
        "typedef union unsigned void volatile while true false asm typeof alignas alignof "
        "constexpr nullptr linux unix",
    )
)
# a pattern of what is no name in C: its words, and macros
WORDS = "|".join([*sorted(KEYWORDS), "I", "[A-Z][A-Z0-9_]*[A-Z0-9]"])
_FIELDS = re.compile(rf"u\d+|{WORDS}")
SINGLE = [
    "typedef uniform shared;",
    "#define HOLD(s) const uniform own = *(s)",
    "#define AT(s, j) own",
]
INCLUDES = ("float", "math", "stdbool", "stdint", "stdlib", "string")


def compute_bits(program: Program, dtype: torch.dtype) -> int:
    """32 or 64: the precision in which values of a storage type are computed."""
    return 64 if program.wide or dtype == torch.float64 else 32


def source(program: Program, dtype: torch.dtype, formula: str = "", form: str = "plain") -> str:
    """The C translation unit of a program for one storage type.

    It exports `forward` and `backward` for a form: "plain"; "channels", where parameters have one
    value per channel; "gated", f(gate) * up in one pass. `formula` is a line for the reader.
    """
    bits = compute_bits(program, dtype)
    program = resolved(program)
    functions = Functions(rounded=dtype != torch.float64)
    if form == "gated":
        # its blocks have no second pass, which the fast sin and cos need
        functions = functions.exact()
    hoisted = hoisted_names(program)
    backward = ["df", *_partials(program)]
    body = [
        _uniform(program, hoisted, functions, form == "channels"),
        _scalar(program, hoisted, bits, functions, ["f"]),
        _scalar(program, hoisted, bits, functions, backward),
    ]
    if functions.periodic:
        exact = functions.exact()
        body += [
            "#define PERIODIC",
            _scalar(program, hoisted, bits, exact, ["f"], "f_exact"),
            _scalar(program, hoisted, bits, exact, backward, "backward_exact"),
        ]
    # channels and a second pass need the elements one by one
    pairs = dtype == torch.bfloat16 and bits == 32 and sys.byteorder == "little"
    pairs = pairs and form == "plain" and not functions.periodic
    blocks = "pairs.h" if pairs else "gates.h" if form == "gated" else "blocks.h"
    return "\n\n".join(
        [
            _header(program, dtype, formula),
            prelude(),
            _types(program, dtype, bits, inputs=2 if form == "gated" else 1),
            *functions.text.values(),
            *body,
            included(blocks),
            included("channels.h" if form == "channels" else "loops.h"),
        ]
    )


def prelude() -> str:
    """What every unit begins with: includes, storage formats, powers of two."""
    includes = [f"#include <{name}.h>" for name in INCLUDES]
    includes += ["#ifdef __linux__", "#include <sys/mman.h>", "#endif"]
    includes += ["", "#define INLINE static inline __attribute__((always_inline))"]
    return "\n\n".join(["\n".join(includes), included("storage.h"), included("scale.h")])


def included(name: str) -> str:
    return files("integrand.kernels").joinpath(name).read_text(encoding="utf-8").strip()


def _partials(program: Program) -> list[str]:
    return [f"d_{name}" for name in program.params]


def _header(program: Program, dtype: torch.dtype, formula: str) -> str:
    lines = textwrap.wrap(formula.replace("*/", "* /"), 92)
    precision = "double" if compute_bits(program, dtype) == 64 else "float"
    lines.append(f"stored as {str(dtype).removeprefix('torch.')}, computed in {precision};")
    lines.append("written by integrand from the activation's scalar program")
    return "/* " + "\n   ".join(lines) + " */"


def _types(program: Program, dtype: torch.dtype, bits: int, inputs: int) -> str:
    storage, load, store = STORAGE[dtype]
    real = "float" if bits == 32 else "double"
    half = dtype in (torch.bfloat16, torch.float16)
    narrowed = "narrow(x)" if half and bits == 64 else "x"
    count = len(program.params)
    return "\n".join(
        [
            f"typedef {real} real;",
            f"typedef {storage} storage;",
            f"INLINE real load(storage s) {{ return (real){load.format('s')}; }}",
            f"INLINE storage store(real x) {{ return (storage){store.format(narrowed)}; }}",
            f"#define INPUTS {inputs}",
            f"enum {{ BLOCK = 64, PARAMS = {count}, TERMS = {max(1, count)} }};",
        ]
    )


def hoisted_names(program: Program) -> dict[int, str]:
    """C names of the ops that do not depend on x and that an op which does, or an output, reads."""
    uniform = {i for i in program.uniform() if program.ops[i][0] != "const"}
    needed = program.needed(program.outputs)
    read = {j for i in needed if i not in program.uniform() for j in operands(program.ops[i])}
    read |= set(program.outputs.values())
    fields = dict(zip(program.params, safe_names(program.params, _FIELDS), strict=True))
    names: dict[int, str] = {}
    for i in sorted(uniform & read):
        op = program.ops[i]
        names[i] = f"u{i}"
        if op[0] == "param":
            names[i] = fields[op[1]]
    return names


def _by_channel(fields: list[str]) -> list[str]:
    """The struct of 64 channels' values, and its access: contiguous loads for the inner loop."""
    names = [field.rstrip(";").split()[1] for field in fields]
    return [
        "",
        "typedef struct {",
        *(f"  {field.rstrip(';')}[BLOCK];" for field in fields),
        "} shared;",
        "",
        "INLINE uniform at(const shared *b, int j) {",
        f"  const uniform u = {{{', '.join(f'b->{name}[j]' for name in names)}}};",
        "  return u;",
        "}",
        "",
        "static inline void put(shared *b, int j, uniform u) {",
        *(f"  b->{name}[j] = u.{name};" for name in names),
        "}",
        "#define HOLD(s)",
        "#define AT(s, j) at(s, j)",
    ]


def _uniform(
    program: Program,
    hoisted: dict[int, str],
    functions: Functions,
    per_channel: bool,
) -> str:
    """The struct of what does not depend on x, and the function that fills it."""
    given = {name: f"number(params[{k}])" for k, name in enumerate(program.params)}
    fields, lines = shared_values(program, hoisted, functions, given, "real")
    fields = fields or ["char nothing;"]
    lines = lines or ["(void)params, (void)u;"]
    return "\n".join(
        [
            "/* what does not depend on x: computed once, in double */",
            "typedef struct {",
            *(f"  {field}" for field in fields),
            "} uniform;",
            "",
            "static inline void prepare(const double *params, uniform *u) {",
            *(f"  {line}" for line in lines),
            "}",
            *(_by_channel(fields) if per_channel else SINGLE),
        ]
    )


def shared_values(
    program: Program,
    hoisted: dict[int, str],
    functions: Functions,
    given: dict[str, str],
    real: str,
) -> tuple[list[str], list[str]]:
    """The fields of what does not depend on x, and the lines that set them in `u`."""
    trace = Trace(64, functions.exact())
    params = {name: Value(trace, text) for name, text in given.items()}
    only = replace(program, outputs={name: i for i, name in hoisted.items()})
    values = evaluate(only, trace, None, params, only.outputs)
    lines = trace.lines(*values)
    types = ["bool" if isinstance(v, Value) and v.kind == "bool" else real for v in values]
    fields = [f"{t} {name};" for t, name in zip(types, only.outputs, strict=True)]
    lines += [
        f"u->{name} = ({t}){trace.text(value)};"
        for name, value, t in zip(only.outputs, values, types, strict=True)
    ]
    return fields, lines


def _scalar(
    program: Program,
    hoisted: dict[int, str],
    bits: int,
    functions: Functions,
    outputs: list[str],
    title: str = "",
) -> str:
    trace, lines, values = assignments(program, hoisted, bits, functions, outputs)
    if outputs == ["f"]:
        head = f"INLINE {trace.type} {title or 'f'}({trace.type} x, const uniform *u) {{"
        tail = [f"return {trace.text(values[0])};"]
    else:
        head = (
            f"INLINE {trace.type} {title or 'backward_one'}(\n"
            f"    {trace.type} x, {trace.type} dout, const uniform *u, {trace.type} *terms) {{"
        )
        tail = [
            f"terms[{k}] = dout * {trace.text(value)};  /* d {name} */"
            for k, (name, value) in enumerate(zip(program.params, values[1:], strict=True))
        ]
        tail = [*(tail or ["(void)terms;"]), f"return dout * {trace.text(values[0])};"]
    unused = ["(void)u;"] if not hoisted else []
    return "\n".join([head, *(f"  {line}" for line in [*unused, *lines, *tail]), "}"])


def assignments(
    program: Program,
    hoisted: dict[int, str],
    bits: int,
    functions: Functions,
    outputs: list[str],
) -> tuple[Trace, list[str], list[Any]]:
    """The lines that compute outputs from x and `u`, what does not depend on x, and the outputs."""
    trace = Trace(bits, functions)
    ops = list(program.ops)
    given: dict[str, Any] = {}
    booleans = _booleans(program)
    for i, name in hoisted.items():
        ops[i] = ("param", f"u->{name}")
        given[f"u->{name}"] = Value(trace, f"u->{name}", "bool" if i in booleans else "real")
    main = replace(program, ops=tuple(ops))
    values = evaluate(main, trace, Value(trace, "x"), given, outputs)
    return trace, trace.lines(*values), values


def _booleans(program: Program) -> frozenset[int]:
    tests = ("isnan", "isinf")
    return frozenset(
        i
        for i, op in enumerate(program.ops)
        if op[0] in ("lt", "le", "and") or (op[0] == "call" and op[1] in tests)
    )
