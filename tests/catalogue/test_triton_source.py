"""Every row has Triton source."""

import ast

import pytest
import torch

import integrand as ig


@pytest.mark.parametrize("name", ig.names())
def test_a_row_has_triton_source(name: str) -> None:
    act = ig.activation(name)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        text = act.source("triton", dtype)
        functions = {f.name for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
        assert {"f", "df", "forward", "backward", "finish"} <= functions
