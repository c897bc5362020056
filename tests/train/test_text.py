import json
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from integrand.errors import DataError
from integrand.train.text import Documents, fingerprint, source_files


def documents(source: str, max_characters: int) -> list[str]:
    return list(Documents(source, max_characters))


def test_python_docs_come_from_this_installation_in_a_fixed_order() -> None:
    files = source_files("python-docs")
    assert files == source_files("python-docs")
    assert len(files) > 100
    # the order is no directory's order, so that a capped sample is mixed
    assert files != sorted(files)
    assert not any("site-packages" in path.parts for path in files)


def test_the_cap_holds_to_the_character() -> None:
    texts = documents("python-docs", 50_000)
    assert sum(map(len, texts)) == 50_000
    assert texts[:2] == documents("python-docs", 60_000)[:2]


def test_the_three_file_formats_give_the_same_documents(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = ["first document", "second: ünïcode ☃"]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    rows = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(rows)
    table = pyarrow.table({"id": ["x", "y"], "text": texts})
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert documents(str(tmp_path / name), 1000) == texts
    assert documents(str(tmp_path), 1000) == texts * 3


def test_plain_text_without_separators_is_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = ["x" * 3000 + str(i) for i in range(10)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    pieces = documents(str(tmp_path / "a.txt"), 10**6)
    assert len(pieces) == 3
    assert "\n\n".join(pieces).split("\n\n") == paragraphs
    (tmp_path / "b.txt").write_bytes("\r\n\r\n".join(paragraphs).encode())
    assert documents(str(tmp_path / "b.txt"), 10**6) == pieces


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_reading_goes_on_where_it_stood(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    texts = ["one", " ", "two", "three", "four"]
    if suffix == ".txt":
        path.write_text("<|endoftext|>".join(texts))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path)
    whole = documents(str(path), 12)
    assert whole == ["one", "two", "three", "f"]
    for taken in range(1, 5):
        first = Documents(str(path), 12)
        before = list(islice(first, taken))
        state = json.loads(json.dumps(first.state()))
        assert before + list(Documents(str(path), 12, state)) == whole


def test_the_expected_length_is_that_of_the_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f"{i} " + "same words " * 200 for i in range(50)]
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "b.txt").write_text("<|endoftext|>".join(texts))
    true = sum(map(len, texts))
    for name in ("a.parquet", "b.txt"):
        assert abs(Documents(str(tmp_path / name), 10**9).expected_characters() / true - 1) < 0.1
        assert Documents(str(tmp_path / name), 999).expected_characters() == 999
    assert Documents("hf:name", 10**9).expected_characters() == 10**9


def test_a_fingerprint_follows_content_not_names(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    assert fingerprint(str(tmp_path / "a.txt")) == fingerprint(str(tmp_path / "b.txt"))
    before = fingerprint(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text("diff")
    assert fingerprint(str(tmp_path / "a.txt")) != before


def fake_datasets(monkeypatch: pytest.MonkeyPatch, rows: Any) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, subset: str | None, split: str, streaming: bool) -> Iterator[Any]:
        calls.append((name, subset, split, streaming))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_hub_data_is_streamed_up_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = ({"text": f"document {i}"} for i in range(10**9))
    calls = fake_datasets(monkeypatch, endless)
    assert documents("hf:owner/name:sample", 25) == ["document 0", "document 1", "docum"]
    assert calls == [("owner/name", "sample", "train", True)]


class FakeHub:
    """An IterableDataset that knows its position, and counts what it had to read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.at = 0
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, str]]:
        while self.at < self.count:
            self.at += 1
            self.read += 1
            yield {"text": f"document {self.at}"}

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_the_hub_goes_on_by_its_own_state_or_by_skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [f"document {i}" for i in range(1, 8)]
    hubs: list[FakeHub] = []

    def load_dataset(*_: object, **__: object) -> FakeHub:
        hubs.append(FakeHub(7))
        return hubs[-1]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    first = Documents("hf:name", 10**6)
    before = list(islice(first, 4))
    state = json.loads(json.dumps(first.state()))
    assert before + list(Documents("hf:name", 10**6, state)) == whole
    assert hubs[-1].read == 3
    fake_datasets(monkeypatch, [{"text": text} for text in whole])
    first = Documents("hf:name", 10**6)
    before = list(islice(first, 4))
    assert first.state()["position"] is None
    assert before + list(Documents("hf:name", 10**6, first.state())) == whole


def test_hub_errors_become_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, ConnectionError("no route\nand more lines"))
    with pytest.raises(DataError, match=r"cannot stream 'hf:owner/name'.*no route;") as caught:
        documents("hf:owner/name", 100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, "existing file"),
        ("image.png", b"x", r"must end in \.txt"),
        ("empty.txt", b" \n", "holds no text"),
        ("latin.txt", b"caf\xe9", "must be UTF-8, got byte 0xe9 at offset 3"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"', "line 2 of .* must be a JSON object"),
        ("latin.jsonl", b'{"text": "caf\xe9"}', "line 1 of .* must be a JSON object"),
        ("half.jsonl", b'{"text": "\\ud800"}', "half of a surrogate pair"),
        ("field.jsonl", b'{"body": "a"}', "field `text`, got body"),
        ("broken.parquet", b"PAR1", "not a readable parquet file"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        documents(str(tmp_path / name), 1000)
    assert "\n" not in str(caught.value)


def test_parquet_without_a_text_column_names_its_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column `text`, got body"):
        documents(str(tmp_path / "a.parquet"), 1000)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.txt"):
        documents(str(tmp_path), 1000)


def test_a_parquet_column_of_other_things_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    for values in ([1, 2], [0, 1], [b"bytes"], [["list"]]):
        parquet.write_table(pyarrow.table({"text": values}), path)
        with pytest.raises(DataError, match=r"`text` of .*a\.parquet must hold strings"):
            documents(str(path), 1000)
    words = pyarrow.array(["one", None, "one"]).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": words}), path)
    assert documents(str(path), 1000) == ["one", "one"]


def test_a_damaged_page_names_its_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(1000)]
    parquet.write_table(pyarrow.table({"text": texts}), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xff" * (len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet is not a readable parquet file: .*again"):
        documents(str(path), 10**6)
