"""A derived activation as text for a terminal, and as data."""

from __future__ import annotations

from typing import Any

from integrand.spec import to_toml


def to_data(act: Any) -> dict[str, Any]:
    """Spec, formulas, path, verification and properties as plain data."""
    from integrand.derivation.text import to_text

    spec = act.spec
    return {
        "kind": "derive",
        "name": spec.name,
        "declares": spec.kind,
        "text": spec.gradient or spec.function,
        "anchor": list(spec.anchor),
        "toml": to_toml(spec),
        "sha256": spec.sha256,
        "values": spec.values(),
        "formula": act.formula,
        "df": to_text(act.df),
        "partials": {name: to_text(act.partials[name]) for name in spec.params},
        "path": list(act.path),
        "verified": dict(act.verified),
        "properties": plain(act.properties.to_dict()),
    }


def to_terminal(data: dict[str, Any]) -> str:
    """What `integrand derive` prints."""
    declared = "f'(x)" if data["declares"] == "gradient" else "f(x)"
    lines = [f"{data['name']}", f"  declared       {declared} = {data['text']}"]
    point, value = data["anchor"]
    if data["declares"] == "gradient":
        lines.append(f"  anchor         f({point:g}) = {value:g}" if not isinstance(point, str)
                     else f"  anchor         f({point}) = {value:g}")  # fmt: skip
    if data["values"]:
        values = ", ".join(f"{k} = {v:g}" for k, v in data["values"].items())
        lines.append(f"  initial values {values}")
    lines += ["", f"  f(x)           {data['formula']}", f"  f'(x)          {data['df']}"]
    width = max([13, *(len(k) + 4 for k in data["partials"])])
    lines += [f"  {'df/d' + k:<{width}}  {v}" for k, v in data["partials"].items()]
    worst = max(data["verified"].values(), default=0.0)
    lines += [
        "",
        f"  integral by    {', '.join(data['path'])}",
        f"  verified       within {worst:.1e} of the declared text, in multi-precision",
        *_properties(data["properties"]),
    ]
    return "\n".join(lines)


def _properties(p: dict[str, Any]) -> list[str]:
    smooth = p["smoothness"]
    low, high = p["gradient_range"]
    lines = [
        f"  smoothness     {'smooth everywhere' if smooth is None else f'C^{smooth}'}",
        f"  gradient range {_number(low)} to {_number(high)}"
        f"{', monotone' if p['monotone'] else ''}",
        f"  limits         f: {_number(p['limits'][0])} at -oo, {_number(p['limits'][1])} at oo;"
        f" f': {_number(p['slope_limits'][0])}, {_number(p['slope_limits'][1])}",
    ]
    if p["roots"]:
        lines.append("  roots          " + ", ".join(_number(r) for r in p["roots"]))
    if p["minima"]:
        minima = ", ".join(f"f({_number(x)}) = {_number(y)}" for x, y in p["minima"])
        lines.append(f"  minima         {minima}")
    lines.append(
        f"  under N(0,1)   E f = {_number(p['mean'])}, E f^2 = {_number(p['second_moment'])},"
        f" E f'^2 = {_number(p['gradient_second_moment'])}"
    )
    found = p["criticality"]
    lines.append(f"  universality   {found['universality']}" + _critical(found))
    return lines


def _critical(found: dict[str, Any]) -> str:
    """The initialisation at which signals keep their size, if there is one."""
    if found["weight"] is None:
        return ": no initialisation keeps both signals and their differences"
    at = "" if not found["variance"] else f" at variance {_number(found['variance'])}"
    bias = f", biases N(0, {_number(found['bias'])})" if found["bias"] else ""
    return f": critical{at} with weights N(0, {_number(found['weight'])} / fan_in){bias}"


def _number(value: float | str) -> str:
    return f"{float(value):.5g}"


def plain(value: Any) -> Any:
    """Numbers JSON knows, keys as text: an infinity becomes "inf"."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
