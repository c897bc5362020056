"""Inside a branch its condition is known: what a kernel need not select twice.

A piece of a program is evaluated on an argument clamped into its domain, so that autograd through
the branch not taken stays finite. A kernel discards that branch whatever it holds: there, the piece
can run on x itself.
"""

from __future__ import annotations

from dataclasses import replace

from integrand.derivation.program import Op, Program, operands

Facts = frozenset[tuple[int, bool]]
# calls cost about this many sums and products
_COST = {"call": 20, "table": 40, "pow": 40, "div": 5}


def resolved(program: Program) -> Program:
    """The same outputs, with selects decided where an enclosing select has their condition.

    The program itself where an output would become dearer, because a value then differs between
    two branches that shared it.
    """
    writer = _Writer(program)
    outputs = {name: writer.op(i, frozenset()) for name, i in program.outputs.items()}
    result = replace(program, ops=tuple(writer.ops), outputs=outputs)
    groups = [[name for name in program.outputs if (name == "f") == f] for f in (True, False)]
    dearer = any(_cost(result, names) > _cost(program, names) for names in groups)
    return program if dearer else result


def _cost(program: Program, names: list[str]) -> int:
    uniform = program.uniform()
    live = [i for i in program.needed(names) if i not in uniform]
    return sum(_COST.get(program.ops[i][0], 1) for i in live)


class _Writer:
    """New ops, each written once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ops: list[Op] = []
        self._numbers: dict[Op, int] = {}
        self._done: dict[tuple[int, Facts], int] = {}
        # per op, the conditions that selects below it ask for
        self._asked: list[frozenset[int]] = []
        for op in program.ops:
            below = frozenset().union(*(self._asked[j] for j in operands(op)))
            self._asked.append(below | {op[1]} if op[0] == "select" else below)

    def op(self, i: int, facts: Facts) -> int:
        """The number of op i where the facts hold."""
        facts = frozenset(fact for fact in facts if fact[0] in self._asked[i])
        if (i, facts) not in self._done:
            self._done[i, facts] = self._written(self.program.ops[i], facts)
        return self._done[i, facts]

    def _written(self, op: Op, facts: Facts) -> int:
        if op[0] == "select":
            _, c, yes, no = op
            known = dict(facts).get(c)
            if known is not None:
                return self.op(yes if known else no, facts)
            branches = (self.op(yes, facts | {(c, True)}), self.op(no, facts | {(c, False)}))
            if branches[0] == branches[1]:
                return branches[0]
            op = ("select", self.op(c, facts), *branches)
        elif op[0] in ("call", "table"):
            op = (*op[:2], self.op(op[2], facts))
        elif operands(op):
            op = (op[0], *(self.op(j, facts) for j in op[1:]))
        if op not in self._numbers:
            self._numbers[op] = len(self.ops)
            self.ops.append(op)
        return self._numbers[op]
