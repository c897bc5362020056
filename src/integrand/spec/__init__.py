"""What a person writes: a gradient or a function, its parameters, their constraints."""

from integrand.spec.catalogue import Row, gates, names, row, saved_buffers
from integrand.spec.grammar import FUNCTIONS, Node, evaluate, parse
from integrand.spec.spec import Param, Spec, check_values, dependency_order
from integrand.spec.toml import from_toml, read_spec, spec_from_mapping, to_toml

__all__ = [
    "FUNCTIONS",
    "Node",
    "Param",
    "Row",
    "Spec",
    "check_values",
    "dependency_order",
    "evaluate",
    "from_toml",
    "gates",
    "names",
    "parse",
    "read_spec",
    "row",
    "saved_buffers",
    "spec_from_mapping",
    "to_toml",
]
