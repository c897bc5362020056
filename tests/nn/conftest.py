"""Stand-alone source as a module of its own."""

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_NUMBER = itertools.count()


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[str], ModuleType]:
    """The module of a source text; from a file, as Triton reads its functions from there."""

    def load(text: str) -> ModuleType:
        name = f"written{next(_NUMBER)}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
