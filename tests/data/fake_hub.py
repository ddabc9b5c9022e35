"""A stand-in for the Hugging Face hub on 127.0.0.1, with datasets that are directories."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """Answers what `datasets` asks: about a dataset, its files, and their content."""

    root: Path
    requests: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        self._answer(True, asked.get("paths", []) if isinstance(asked, dict) else [])

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _answer(self, body: bool, paths: list[str] | None = None) -> None:
        self.requests.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].strip("/").split("/")
        kind = "resolve" if parts[0] == "datasets" else "api"
        name = "/".join(parts[1:3] if kind == "resolve" else parts[2:4])
        rest = parts[3:] if kind == "resolve" else parts[4:]
        directory = self.root / name
        if name == "me/gated":
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not directory.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif kind == "resolve":
            self._file(directory / "/".join(rest[2:]), body)
        elif rest[:1] == ["tree"]:
            below = directory / "/".join(rest[2:])
            self._json([self._about(directory, each) for each in sorted(below.rglob("*"))])
        elif rest[:1] == ["paths-info"]:
            found = [directory / path for path in paths or () if (directory / path).exists()]
            self._json([self._about(directory, each) for each in found])
        else:
            files = [
                {"rfilename": str(f.relative_to(directory))}
                for f in directory.rglob("*")
                if f.is_file()
            ]
            about = {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False}
            self._json({**about, "downloads": 0, "likes": 0, "tags": [], "siblings": files})

    def _about(self, directory: Path, path: Path) -> dict[str, Any]:
        about = {"path": str(path.relative_to(directory)), "oid": _digest(path)}
        return (
            {**about, "type": "directory", "size": 0}
            if path.is_dir()
            else {**about, "type": "file", "size": path.stat().st_size}
        )

    def _file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self._send(200, path.read_bytes(), headers, body)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes() if path.is_file() else str(path).encode()).hexdigest()


@contextmanager
def fake_hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the datasets in a directory; yields the address, and the requests so far."""
    requests: list[str] = []
    handler = type("Handler", (Hub,), {"root": root, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
