"""The text grammar: a whitelisted walk over Python's `ast`. Nothing is ever evaluated as code.

A node is a tuple:

    ("x",) ("pi",) ("num", "0.1") ("param", NAME)
    ("neg", a) ("add", a, b) sub mul div pow
    ("call", FUNCTION, a, ...)
    ("if", OP, bound, then, else)        OP in lt le gt ge: `then if x OP bound else else`
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from integrand.errors import SpecError

Node = tuple[Any, ...]

_UNARY = (
    "exp", "expm1", "log", "log1p", "sqrt", "abs", "sign", "tanh", "sinh", "cosh", "atan", "asinh",
    "erf", "erfc", "ndtr", "sigmoid", "softplus", "logcosh", "sin", "cos", "softsign", "relu",
    "expm1mx", "xmlog1p", "softplus0", "xmatan",
)  # fmt: skip
FUNCTIONS: dict[str, int] = {**dict.fromkeys(_UNARY, 1), "min": 2, "max": 2}
RESERVED = frozenset(FUNCTIONS) | {"x", "pi", "oo", "raw", "params"}

_BINARY: dict[type, str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
}
_COMPARE: dict[type, str] = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
_MIRROR = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_MAX_TEXT, _MAX_EXPONENT, _MAX_MAGNITUDE = 4000, 64, 1e100


def parse(text: str, params: Collection[str] = ()) -> Node:
    """The node of a text, or a `SpecError` that quotes the part that breaks the grammar."""
    if not isinstance(text, str) or not text.strip():
        raise SpecError("an expression must be a non-empty text such as '2*x if x > 0 else 0'")
    if len(text) > _MAX_TEXT:
        raise SpecError(f"an expression may have {_MAX_TEXT} characters, got {len(text)}")
    source = " ".join(text.split())
    try:
        tree = ast.parse(source, mode="eval")
        node = _Walk(source, params).node(tree.body)
    except SyntaxError as error:
        raise SpecError(f"'{source}' is not an expression: {error.msg}") from None
    except (RecursionError, MemoryError, ValueError):
        raise SpecError(f"'{source[:60]}...' is nested too deeply or malformed") from None
    if _exponentials(node) > 2:
        raise SpecError(f"'{source[:60]}' nests more than two exponentials")
    return node


def _exponentials(node: Node) -> int:
    # three nested ones leave every number format, and the memory of multi-precision too
    inner = max((_exponentials(c) for c in node[1:] if isinstance(c, tuple)), default=0)
    return inner + (node[0] == "call" and node[1] in ("exp", "expm1", "sinh", "cosh", "expm1mx"))


class _Walk:
    def __init__(self, source: str, params: Collection[str]):
        self.source, self.params = source, params

    def quote(self, tree: ast.AST) -> str:
        return ast.get_source_segment(self.source, tree) or ast.unparse(tree)

    def node(self, tree: ast.expr) -> Node:
        match tree:
            case ast.Constant(value=bool() | str() | bytes() | complex() | None):
                pass
            case ast.Constant(value=int() | float()):
                return ("num", self.number(tree))
            case ast.Name(id=name):
                return self.name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return ("neg", self.node(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.node(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self.binary(tree, _BINARY[type(op)], self.node(left), self.node(right))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return ("if", *self.condition(test), self.node(body), self.node(orelse))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if len(args) != FUNCTIONS[name]:
                    raise SpecError(
                        f"{name} takes {FUNCTIONS[name]} argument(s), got '{self.quote(tree)}'"
                    )
                return ("call", name, *map(self.node, args))
            case ast.Call(func=ast.Name(id=name)):
                raise SpecError(
                    f"'{name}' in '{self.quote(tree)}' is not a known function; "
                    f"known: {', '.join(sorted(FUNCTIONS))}"
                )
            case ast.Compare():
                raise SpecError(
                    f"a comparison may stand only in 'a if x > c else b', got '{self.quote(tree)}'"
                )
        raise SpecError(
            f"'{self.quote(tree)}' is outside the grammar; use numbers, x, pi, declared parameters,"
            " + - * / **, 'a if x > c else b' and the listed functions"
        )

    def number(self, tree: ast.Constant) -> str:
        text = self.quote(tree).replace("_", "")
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise SpecError(f"'{text}' must be a decimal number such as 0.5 or 1e-3") from None
        if value and not 1 / Decimal(_MAX_MAGNITUDE) <= abs(value) <= Decimal(_MAX_MAGNITUDE):
            raise SpecError(f"a number must lie within 1e-100 and 1e100 in size, got '{text}'")
        return str(value)

    def name(self, name: str) -> Node:
        if name in ("x", "pi"):
            return (name,)
        if name in self.params:
            return ("param", name)
        if name in FUNCTIONS:
            raise SpecError(f"'{name}' is a function: write {name}(...)")
        declared = f"declared: {', '.join(self.params)}" if self.params else "none is declared"
        raise SpecError(f"'{name}' in '{self.source}' is not a declared parameter ({declared})")

    def binary(self, tree: ast.expr, op: str, a: Node, b: Node) -> Node:
        if op == "pow" and not any(leaf[0] in ("x", "param") for leaf in leaves(b)):
            exponent = constant(b)
            if exponent is None or abs(exponent) > _MAX_EXPONENT:
                raise SpecError(
                    f"an exponent must be a number of at most {_MAX_EXPONENT} in size, "
                    f"got '{self.quote(tree)}'"
                )
        node = (op, a, b)
        if not any(leaf[0] in ("x", "param") for leaf in leaves(node)):
            value = constant(node)
            if value is None or abs(value) > _MAX_MAGNITUDE:
                raise SpecError(f"'{self.quote(tree)}' is not a number below 1e100")
        return node

    def condition(self, tree: ast.expr) -> tuple[str, Node]:
        match tree:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                name = _COMPARE[type(op)]
                if isinstance(right, ast.Name) and right.id == "x":
                    left, right, name = right, left, _MIRROR[name]
                if isinstance(left, ast.Name) and left.id == "x":
                    bound = self.node(right)
                    if not any(leaf == ("x",) for leaf in leaves(bound)):
                        return name, bound
        raise SpecError(
            f"a condition must compare x with an expression free of x, got '{self.quote(tree)}'"
        )


def leaves(node: Node) -> Iterator[Node]:
    """Every leaf of a node."""
    children = [c for c in node[1:] if isinstance(c, tuple)]
    if not children:
        yield node
    for child in children:
        yield from leaves(child)


def constant(node: Node) -> float | None:
    """The value of arithmetic on numbers, None where it has none or calls functions."""
    try:
        match node:
            case ("num", text):
                return float(text)
            case ("pi",):
                return 3.141592653589793
            case ("neg", a):
                return -constant(a)  # type: ignore[operator]
            case ("add", a, b):
                return constant(a) + constant(b)  # type: ignore[operator]
            case ("sub", a, b):
                return constant(a) - constant(b)  # type: ignore[operator]
            case ("mul", a, b):
                return constant(a) * constant(b)  # type: ignore[operator]
            case ("div", a, b):
                return constant(a) / constant(b)  # type: ignore[operator]
            case ("pow", a, b):
                value = constant(a) ** constant(b)  # type: ignore[operator]
                return value if isinstance(value, float) else None
    except (TypeError, ZeroDivisionError, OverflowError):
        return None
    return 0.0  # a function of numbers: its size is checked when it is derived


def evaluate(node: Node, o: Any, x: Any, params: Any) -> Any:
    """The node in a namespace `o` that offers `num pi neg add sub mul div pow call select`.

    `select(op, x, bound, then, otherwise)` gets the branches as functions without arguments, so
    that a namespace of plain numbers evaluates one branch only.
    """
    match node:
        case ("x",):
            return x
        case ("param", name):
            return params[name]
        case ("num", text):
            return o.num(text)
        case ("pi",):
            return o.pi
        case ("call", name, *args):
            return o.call(name, *(evaluate(a, o, x, params) for a in args))
        case ("if", op, bound, then, otherwise):
            later: Callable[[Node], Callable[[], Any]] = lambda n: lambda: evaluate(n, o, x, params)  # noqa: E731
            return o.select(op, x, evaluate(bound, o, x, params), later(then), later(otherwise))
        case (op, *args):
            return getattr(o, op)(*(evaluate(a, o, x, params) for a in args))
    raise AssertionError(node)
