"""xIELU's four sources as text, so that a change of generated code is seen in review.

Accept a change: INTEGRAND_ACCEPT=1 python -m pytest tests/nn/test_source_golden.py
"""

import os
from pathlib import Path

import pytest

import integrand as ig

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("target", ["torch", "c", "triton", "jax"])
def test_source_is_the_accepted_text(target):
    path = GOLDEN / f"xielu.{target}.txt"
    text = ig.activation("xielu").source(target)
    if os.environ.get("INTEGRAND_ACCEPT"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"see the first lines of {Path(__file__).name}"
