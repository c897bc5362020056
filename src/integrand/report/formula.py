"""A spec's text as mathematics: MathML, which browsers draw without a script or a font."""

from __future__ import annotations

from html import escape

from integrand.spec import Node, Spec

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "mu": "μ", "sigma": "σ"}
_COMPARE = {"lt": "<", "le": "≤", "gt": ">", "ge": "≥"}
VALUE = "<mi>f</mi>"
SLOPE = "<msup><mi>f</mi><mo>′</mo></msup>"
_LEVEL = {"add": 1, "sub": 1, "neg": 2, "mul": 3, "div": 3, "pow": 5}


def declaration(spec: Spec) -> str:
    """MathML of `f'(x) = ...` or of `f(x) = ...`, whichever the spec declares."""
    return math(spec.node, SLOPE if spec.kind == "gradient" else VALUE)


def math(node: Node, left: str) -> str:
    """MathML of `left(x) = node`; `left` is MathML too."""
    head = f"{left}<mo>(</mo><mi>x</mi><mo>)</mo><mo>=</mo>"
    return f'<math display="block">{head}{_mathml(node)}</math>'


def _mathml(node: Node, level: int = 0) -> str:
    match node:
        case ("x",):
            return "<mi>x</mi>"
        case ("pi",):
            return "<mi>π</mi>"
        case ("num", text):
            return f"<mn>{escape(text)}</mn>"
        case ("param", name):
            return symbol(name)
        case ("if", *_):
            return _cases(node)
        case ("call", "exp" | "expm1" | "expm1mx" as name, a):
            power = f"<msup><mi>e</mi><mrow>{_mathml(a)}</mrow></msup>"
            if name == "exp":
                return power
            less = "<mo>−</mo><mn>1</mn>"
            if name == "expm1mx":
                less += f"<mo>−</mo>{_mathml(a, 2)}"
            return f"<mo>(</mo>{power}{less}<mo>)</mo>"
        case ("call", name, *args):
            inner = "<mo>,</mo>".join(_mathml(a) for a in args)
            return f"<mi>{escape(name)}</mi><mo>(</mo>{inner}<mo>)</mo>"
        case ("div", a, b):
            return f"<mfrac><mrow>{_mathml(a)}</mrow><mrow>{_mathml(b)}</mrow></mfrac>"
        case ("pow", a, b):
            return f"<msup><mrow>{_mathml(a, 6)}</mrow><mrow>{_mathml(b)}</mrow></msup>"
        case ("neg", a):
            inner = f"<mo>−</mo>{_mathml(a, 3)}"
        case (op, a, b):
            sign = {"add": "<mo>+</mo>", "sub": "<mo>−</mo>", "mul": "<mo>&#x2062;</mo>"}[op]
            inner = f"{_mathml(a, _LEVEL[op])}{sign}{_mathml(b, _LEVEL[op] + 1)}"
        case _:
            raise AssertionError(node)
    return f"<mo>(</mo>{inner}<mo>)</mo>" if _LEVEL[node[0]] < level else inner


def _cases(node: Node) -> str:
    rows = []
    while node[0] == "if":
        _, op, bound, then, node = node
        condition = f"<mi>x</mi><mo>{escape(_COMPARE[op])}</mo>{_mathml(bound)}"
        rows.append((_mathml(then), condition))
    rows.append((_mathml(node), "<mtext>otherwise</mtext>"))
    cells = "".join(
        f'<mtr><mtd style="text-align:left">{value}</mtd>'
        f'<mtd style="text-align:left">{when}</mtd></mtr>'
        for value, when in rows
    )
    return f"<mrow><mo stretchy='true' form='prefix'>{{</mo><mtable>{cells}</mtable></mrow>"


def partial(name: str) -> str:
    """MathML of ∂f/∂name."""
    by = f"<mrow><mo>∂</mo>{symbol(name)}</mrow>"
    return f"<mfrac><mrow><mo>∂</mo>{VALUE}</mrow>{by}</mfrac>"


def symbol(name: str) -> str:
    """MathML of a parameter: alpha_p is α with index p."""
    base, _, index = name.partition("_")
    letter = f"<mi>{escape(GREEK.get(base, base))}</mi>"
    return f"<msub>{letter}<mi>{escape(index)}</mi></msub>" if index else letter


def letters(name: str) -> str:
    """A parameter's name in Greek letters where it has one: alpha_p is α_p."""
    base, mark, index = name.partition("_")
    return f"{GREEK.get(base, base)}{mark}{index}"
