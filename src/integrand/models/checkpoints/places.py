"""Where a checkpoint lies: a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.models.checkpoints.ranges import Files, shown

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


class Folder:
    """Files of a local folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.where, self.bytes_read = path, str(path), 0

    def size(self, name: str) -> int | None:
        file = self.path / name
        try:
            return file.stat().st_size if file.is_file() else None
        except (OSError, ValueError) as error:
            raise self._refusal(name, error) from None

    def read(self, name: str, start: int, end: int) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except (OSError, ValueError) as error:
            raise self._refusal(name, error) from None
        self.bytes_read += len(data)
        return data

    def _refusal(self, name: str, error: OSError | ValueError) -> DataError:
        return DataError(f"{shown(name)} in {self.where} cannot be read: {_why(error)}")


class Hub:
    """Files of a repository on the hub, by range requests; `ORG/NAME` or `ORG/NAME@REVISION`."""

    def __init__(self, repository: str) -> None:
        try:
            from huggingface_hub import HfFileSystem
        except ImportError:
            raise DataError(
                f"there is no path '{repository}', and reading it from the hub needs "
                "huggingface_hub; pip install huggingface_hub"
            ) from None
        self.where, self.bytes_read = repository, 0
        self._files: Any = HfFileSystem(skip_instance_cache=True)
        self._open: dict[str, Any] = {}

    def size(self, name: str) -> int | None:
        try:
            if name not in self._open:
                # without a cache of its own, a file fetches the bytes asked for and no others
                self._open[name] = self._files.open(f"{self.where}/{name}", cache_type="none")
            return int(self._open[name].size)
        except FileNotFoundError:
            self._check_exists()
            return None
        except Exception as error:
            raise self._refusal(error) from None

    def read(self, name: str, start: int, end: int) -> bytes:
        # `size` is always asked first, and opens the file
        try:
            self._open[name].seek(start)
            data = bytes(self._open[name].read(end - start))
        except Exception as error:
            raise self._refusal(error) from None
        self.bytes_read += len(data)
        return data

    def _check_exists(self) -> None:
        """Tells a missing file from a missing repository."""
        try:
            self._files.info(self.where)
        except Exception as error:
            raise self._refusal(error) from None

    def _refusal(self, error: BaseException) -> DataError:
        # the client library behind huggingface_hub has changed, so its errors are told by name
        chain: list[BaseException] = []
        seen: BaseException | None = error
        while seen is not None and seen not in chain:
            chain.append(seen)
            seen = seen.__cause__ or seen.__context__
        # some of the client's errors are pages long
        said = " ".join(str(error).split())
        kinds = {base.__name__ for e in chain for base in type(e).__mro__}
        if "GatedRepoError" in kinds:
            return DataError(
                f"there is no path '{self.where}', and on the hub it is gated: accept its terms "
                "there and log in with `hf auth login`, or pass a local copy"
            )
        if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "FileNotFoundError"}:
            return DataError(
                f"there is no path '{self.where}', and the hub has no model of that name that you "
                "may read; check the spelling"
            )
        return DataError(
            f"there is no path '{self.where}', and the hub did not answer for {self.where} "
            f"({type(error).__name__}: {said[:200]}); check the path, or the connection"
        )


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def is_hub_id(where: str) -> bool:
    """Whether what is no path here has the form of a hub id."""
    known = (".safetensors", ".gguf", ".json")
    return _HUB_ID.fullmatch(where) is not None and Path(where).suffix not in known


def place(where: str | Path) -> tuple[Files, str | None]:
    """The files of a path or hub id, and the one file that a path names.

    Raises:
        DataError: neither a path nor a hub id, or the hub refuses.
    """
    # "" would be the folder one happens to be in
    if not isinstance(where, str | Path) or not str(where).strip():
        got = "an empty text" if isinstance(where, str) else type(where).__name__
        raise DataError(
            "a checkpoint must be a file, a folder or a hub id such as swiss-ai/Apertus-8B-2509, "
            f"got {got}; pass one of these"
        )
    try:
        path = Path(where).expanduser()
        if path.is_dir():
            return Folder(path), None
        if path.is_file():
            return Folder(path.parent), path.name
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{shown(str(where))} cannot be a path: {_why(error)}") from None
    if is_hub_id(str(where)):
        return Hub(str(where)), None
    raise DataError(
        f"{shown(str(where))} must be a safetensors or GGUF file, a folder with a checkpoint, or a "
        "hub id such as swiss-ai/Apertus-8B-2509; there is no such path"
    )
