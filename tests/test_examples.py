"""Every example runs to its end and prints what it promises."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
PROMISED = {
    "design_your_own": "within",
    "finetune_apertus": "after:",
    "train_with_xielu": "layer 1",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path, capsys):
    runpy.run_path(str(path))["main"]()
    assert PROMISED[path.stem] in capsys.readouterr().out


def test_there_are_examples():
    assert set(PROMISED) == {p.stem for p in EXAMPLES}
