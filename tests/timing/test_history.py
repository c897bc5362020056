"""The history only grows; a campaign measures what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import integrand as ig
from integrand.errors import DataError
from integrand.timing import USER, campaign, known_rows
from integrand.timing.history import COLUMNS, append

ABOUT = {
    "processor": "p, with a comma", "packages": {"torch": "2"}, "cores": 2, "threads": 1,
    "system": "s",
}  # fmt: skip
ROW = {
    "name": "xielu", "impl": "auto", "compiled": False, "dtype": "float32", "shape": [4, 8],
    "direction": "forward", "allocated": True, "certified": True, "threads": 1, "median_s": 0.5,
    "gb_per_s": 1.0, "saved_bytes": 4.0, "ratio_silu": 0.5, "ratio_copy": 1.25,
}  # fmt: skip


def test_appending_keeps_old_lines_and_one_header(tmp_path: Path) -> None:
    path = tmp_path / "results" / "history.csv"
    append(path, [ROW], ABOUT)
    before = path.read_bytes()
    append(path, [ROW, {**ROW, "dtype": "bfloat16"}], ABOUT)
    assert path.read_bytes().startswith(before)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and tuple(rows[0]) == COLUMNS
    assert rows[2]["dtype"] == "bfloat16" and rows[0]["processor"] == "p, with a comma"
    assert rows[0]["shape"] == "4x8" and rows[0]["ratios"] == "silu=0.5 copy=1.25"


def test_a_file_with_another_header_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("date,something\n1,2\n")
    with pytest.raises(DataError, match="header"):
        append(path, [ROW], ABOUT)
    assert path.read_text() == "date,something\n1,2\n"


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    path, kept = tmp_path / "summary.json", []
    act = ig.activation("relu2")
    options = {"against": ["silu"], "cases": USER[:1], "rounds": 2, "warmup": 1}

    def keep(rows: list[dict], new: list[dict]) -> None:
        kept.append(len(new))
        path.write_text(json.dumps({"kind": "bench", "environment": ABOUT, "rows": rows}))

    def measure(shapes: list[tuple[int, int]]) -> int:
        known = known_rows(path, ABOUT)
        rows, refused = campaign(
            [act], [torch.float32], shapes, known, keep, lambda line: None, 1, **options
        )
        assert not refused
        return len(rows)

    assert measure([(4, 8)]) == 2 and measure([(4, 8), (8, 8)]) == 4
    assert kept == [2, 2]
    # another machine, another program: measured anew
    assert known_rows(path, {**ABOUT, "threads": 7}) == []
    data = json.loads(path.read_text())
    for r in data["rows"]:
        r["program"] = "0"
    path.write_text(json.dumps(data))
    assert measure([(4, 8)]) == 2


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text('{"kind": "certify"}')
    with pytest.raises(DataError, match="bench"):
        known_rows(path, ABOUT)
