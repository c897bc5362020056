"""A stand-in for the hub on the loopback interface: one repository, range requests, byte counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Served:
    """What was asked of the server."""

    def __init__(self, folder: Path, refusal: tuple[int, str] | None = None) -> None:
        self.folder, self.refusal = folder, refusal
        self.ranges: list[tuple[str, int, int]] = []
        self.bytes_of_files = 0
        self.endpoint = ""


@contextmanager
def hub(folder: Path, refusal: tuple[int, str] | None = None) -> Iterator[Served]:
    """Serve a folder's files as the repository `org/tiny`, or refuse with (status, error code)."""
    served = Served(folder, refusal)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if served.refusal and (served.refusal[1] != "GatedRepo" or "/resolve/" in path):
                status, code = served.refusal
                return self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)
            if path in ("/api/models/org/tiny", "/api/models/org/tiny/revision/main"):
                return self.json({"id": "org/tiny", "sha": "0" * 40})
            if path == "/api/models/org/tiny/tree/main":
                return self.json([
                    {"type": "file", "oid": "0", "path": f.name, "size": f.stat().st_size}
                    for f in served.folder.iterdir()
                ])  # fmt: skip
            prefix = "/org/tiny/resolve/main/"
            if path.startswith(prefix):
                return self.file(served.folder / path.removeprefix(prefix))
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")

        def json(self, data: Any) -> None:
            self.answer(200, json.dumps(data).encode(), Content_Type="application/json")

        def file(self, file: Path) -> None:
            asked = self.headers.get("Range", "")
            size = file.stat().st_size
            first, last = (int(v) for v in asked.removeprefix("bytes=").split("-"))
            served.ranges.append((file.name, first, last + 1))
            with file.open("rb") as opened:
                opened.seek(first)
                body = opened.read(last + 1 - first)
            served.bytes_of_files += len(body)
            self.answer(206, body, Content_Range=f"bytes {first}-{last}/{size}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
