"""The scalar program: straight-line SSA over a closed list of primitives, one per activation.

Every backend is a printer (or an interpreter) for it. An op is a tuple `(name, *args)` whose
integer arguments are the numbers of earlier ops:

    ("x",)  ("param", NAME)  ("const", "0.5")            leaves; constants are exact decimals
    ("add", i, j) sub mul div pow min max                arithmetic
    ("lt", i, j) ("le", i, j) ("and", i, j)              booleans
    ("select", c, i, j)                                  i where c else j
    ("call", NAME, i)                                    a unary primitive of `primitives.py`
    ("table", k, i)                                      certified table k at op i
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from integrand.derivation.table import Table

Op = tuple[Any, ...]

BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "lt": operator.lt,
    "le": operator.le,
    "and": operator.and_,
}


@dataclass(frozen=True)
class Program:
    """Outputs `f`, `df` and, per parameter, its partial `d_NAME`, as numbers of ops.

    `wide` programs are evaluated in fp64 whatever the storage type: their fp32 evaluation was
    measured to lose too much. `digest` identifies the content.
    """

    params: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: Mapping[str, int]
    tables: tuple[Table, ...] = ()
    wide: bool = False
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        content = (self.params, self.ops, sorted(self.outputs.items()), self.tables, self.wide)
        object.__setattr__(self, "digest", hashlib.sha256(repr(content).encode()).hexdigest())

    def needed(self, outputs: Iterable[str]) -> list[int]:
        """Numbers of the ops the outputs depend on, in order."""
        live: set[int] = set()
        stack = [self.outputs[name] for name in outputs]
        while stack:
            i = stack.pop()
            if i not in live:
                live.add(i)
                stack.extend(operands(self.ops[i]))
        return sorted(live)

    def uniform(self) -> frozenset[int]:
        """Numbers of the ops that do not depend on x."""
        result: set[int] = set()
        for i, op in enumerate(self.ops):
            if op[0] != "x" and all(j in result for j in operands(op)):
                result.add(i)
        return frozenset(result)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back unchanged."""
        return {
            "params": list(self.params),
            "ops": [list(op) for op in self.ops],
            "outputs": dict(self.outputs),
            "tables": [asdict(t) for t in self.tables],
            "wide": self.wide,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        """The program written by `to_json`."""
        return cls(
            params=tuple(data["params"]),
            ops=tuple(tuple(op) for op in data["ops"]),
            outputs=dict(data["outputs"]),
            tables=tuple(Table.from_json(t) for t in data["tables"]),
            wide=data["wide"],
        )


def without(program: Program, holds: Callable[[Sequence[Op], Op], bool]) -> Program:
    """The program whose selects never take the branch of a condition that `holds` picks out."""
    ops = list(program.ops)
    for i, op in enumerate(ops):
        if op[0] == "select" and holds(ops, ops[op[1]]):
            # min(a, a) is a, exactly
            ops[i] = ("min", op[3], op[3])
    return replace(program, ops=tuple(ops))


def operands(op: Op) -> tuple[int, ...]:
    """The op numbers an op reads."""
    match op[0]:
        case "x" | "param" | "const":
            return ()
        case "call" | "table":
            return (op[2],)
        case _:
            return op[1:]


def evaluate(
    program: Program, o: Any, x: Any, params: Mapping[str, Any], outputs: Iterable[str]
) -> list[Any]:
    """Run the program on the arrays of a namespace `o` (numpy, torch or a tracer).

    `o` offers `const minimum maximum where pow table` and, through `primitives.call`, the unary
    primitives; arithmetic and comparisons are the arrays' own operators.
    """
    from integrand.derivation.primitives import call

    outputs = list(outputs)
    env: dict[int, Any] = {}
    for i in program.needed(outputs):
        op = program.ops[i]
        match op[0]:
            case "x":
                env[i] = x
            case "param":
                env[i] = params[op[1]]
            case "const":
                env[i] = o.const(op[1])
            case "call":
                env[i] = call(o, op[1], env[op[2]])
            case "table":
                env[i] = o.table(program.tables[op[1]], env[op[2]])
            case "select":
                env[i] = o.where(env[op[1]], env[op[2]], env[op[3]])
            case "min":
                env[i] = o.minimum(env[op[1]], env[op[2]])
            case "max":
                env[i] = o.maximum(env[op[1]], env[op[2]])
            case "pow":
                env[i] = o.pow(env[op[1]], env[op[2]])
            case name:
                env[i] = BINARY[name](env[op[1]], env[op[2]])
    return [env[program.outputs[name]] for name in outputs]
