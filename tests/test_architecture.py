"""Imports follow the flow of data and never go back; optional libraries are imported where used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import integrand

ROOT = Path(integrand.__file__).parent
FLOW = (
    "spec", "derivation", "kernels", "nn", "activation", "certificate", "timing", "models", "train",
    "sparsity", "report", "search",
)  # fmt: skip
# below the flow: what every room may stand on
GROUND = ("errors", "cache")
# above it: the package itself, and what the command line is made of
ABOVE = ("__init__", "declared", "trained", "demo", "cli", "__main__")
OPTIONAL = {
    "accelerate", "datasets", "gguf", "huggingface_hub", "jax", "lm_eval", "matplotlib", "optuna",
    "pyarrow", "pytorch_optimizer", "scipy", "tensorboard", "tokenizers", "trackio", "transformers",
    "triton", "tyro", "wandb",
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement, those inside functions too, with the full names it binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _rooms(path: Path) -> Iterator[tuple[str, int]]:
    """The other rooms that a file imports from, with the lines."""
    for node, name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
        first, _, rest = name.partition(".")
        if first == "integrand":
            room = rest.partition(".")[0] or "__init__"
            exists = (ROOT / room).is_dir() or (ROOT / f"{room}.py").exists()
            # `from integrand import derive` takes a public name: the package itself
            room = room if exists else "__init__"
            if room != _room(path):
                yield room, node.lineno


def _may_import(room: str, other: str) -> bool:
    if room in GROUND or other == "cli":
        return room == "__main__"
    if other in GROUND:
        return True
    if room in ABOVE:
        # `search` may use everything, and nothing but the command line uses `search`
        return room == "cli" or other != "search"
    return other in FLOW and FLOW.index(other) < FLOW.index(room) and other != "search"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_never_go_back(path: Path) -> None:
    room = _room(path)
    assert room in (*GROUND, *FLOW, *ABOVE, "catalogue"), f"the flow has no place for '{room}'"
    back = [(other, line) for other, line in _rooms(path) if not _may_import(room, other)]
    assert not back, f"{room} may not import these: {back}"


def test_the_rule_catches_what_it_forbids() -> None:
    assert not _may_import("kernels", "nn") and not _may_import("spec", "derivation")
    assert not _may_import("report", "search") and not _may_import("demo", "cli")
    assert not _may_import("certificate", "__init__") and not _may_import("errors", "spec")
    assert _may_import("report", "train") and _may_import("cli", "search")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_optional_libraries_are_imported_where_they_are_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    # a `try` or an `if` of a module runs at import too
    at_import = {n.partition(".")[0] for node, n in _imported(tree) if id(node) not in inside}
    at_import -= _for_types_alone(tree)
    assert not OPTIONAL & at_import


def _for_types_alone(tree: ast.Module) -> set[str]:
    guarded = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    found = (_imported(ast.Module(list(node.body), [])) for node in guarded)
    return {name.partition(".")[0] for names in found for _, name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_imported_by_statements_alone(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    hidden = ("importlib.import_module", "import_module", "__import__")
    found = [ast.unparse(c) for c in calls if ast.unparse(c.func) in hidden]
    assert not [c for c in found if "integrand" in c]
