import importlib
import sys

import pytest

from integrand.models.on_import import on_import


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "some_library.py").write_text("table = {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_library"
    sys.modules.pop("some_library", None)


def test_the_action_runs_after_the_import_and_not_before(package):
    seen = []
    on_import(package, lambda module: seen.append(dict(module.table, done=True)))
    assert seen == []
    assert package not in sys.modules
    module = importlib.import_module(package)
    assert seen == [{"done": True}]
    importlib.import_module(package)
    assert len(seen) == 1
    importlib.reload(module)
    assert len(seen) == 2


def test_the_action_runs_at_once_on_what_is_imported(package):
    module = importlib.import_module(package)
    on_import(package, lambda found: found.table.update(here=found is module))
    assert module.table == {"here": True}


def test_an_absent_library_stays_an_import_error():
    on_import("library_that_nobody_has", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="library_that_nobody_has"):
        importlib.import_module("library_that_nobody_has")
