"""Every row has source for every target."""

import ast

import pytest
import torch

import integrand as ig


def functions(text: str) -> set[str]:
    return {f.name for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef)}


# from the end: a process that derives them from the start is met once, not waited for at each
@pytest.mark.parametrize("name", ig.names()[::-1])
def test_a_row_has_source(name: str) -> None:
    act = ig.activation(name)
    for values in (None, {}):
        assert {"f", "df", "backward"} <= functions(act.source("torch", values=values))
        assert {"f", "df", "_core_jvp"} <= functions(act.source("jax", values=values))
        assert f" {name}_backward(" in act.source("c", values=values)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert {"f", "df", "forward", "backward"} <= functions(act.source("triton", dtype))
