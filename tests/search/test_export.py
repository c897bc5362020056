"""Winners leave the search as files that mean the same."""

from pathlib import Path

import pytest

from integrand.errors import Error
from integrand.search.export import export_winners
from integrand.search.gradient_space import GradientSpace
from integrand.search.strategy import Random
from integrand.spec import read_spec, row, to_toml


def test_files_mean_what_was_found(tmp_path: Path) -> None:
    found = [Random(GradientSpace(), seed).ask().spec for seed in range(20)]
    found.append(row("xielu").spec)
    winners = [{"spec": to_toml(spec), "scores": {"tiny": 4.25}} for spec in found]
    paths = export_winners(winners, tmp_path / "winners", "integrand search gradient")
    assert len(set(paths)) == len(found)
    for spec, path in zip(found, paths, strict=True):
        assert read_spec(path) == spec and read_spec(path).sha256 == spec.sha256
        assert "# found by: integrand search gradient\n# scores: tiny 4.25\n" in path.read_text()


def test_what_is_told_of_a_winner_stays_a_comment(tmp_path: Path) -> None:
    spec = row("relu").spec
    winner = {"spec": to_toml(spec), "operation": 'x\nname = "other"'}
    (path,) = export_winners([winner], tmp_path)
    assert read_spec(path).name == "relu"


def test_a_row_without_a_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="a row with name"):
        export_winners([{"name": "g"}], tmp_path)
