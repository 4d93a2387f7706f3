"""A stand-in for the server of the Hugging Face Hub that has one data set; what reads it is the library `datasets`."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME = "ada/pets"
_COMMIT = "a" * 40


def _file(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _listed(files: Mapping[str, bytes], folder: str, *, all_below: bool) -> list[dict[str, Any]]:
    listed = {}
    for path, content in files.items():
        if not path.startswith(folder):
            continue
        first, _, more = path.removeprefix(folder).partition("/")
        if more:
            listed[folder + first] = {"type": "directory", "path": folder + first, "oid": _COMMIT, "size": 0}
        if not more or all_below:
            listed[path] = _file(path, content)
    return list(listed.values())


def _answer(files: Mapping[str, bytes], address: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content."""
    path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
    api = f"/api/datasets/{NAME}"
    if path.startswith(f"{api}/tree/{_COMMIT}"):
        folder = path.removeprefix(f"{api}/tree/{_COMMIT}").strip("/")
        found = _listed(files, f"{folder}/" if folder else "", all_below=query.get("recursive") == ["true"])
        return 200, {}, json.dumps(found).encode()
    if path in {api, f"{api}/revision/{_COMMIT}"}:
        about = {"id": NAME, "sha": _COMMIT, "private": False, "gated": False, "tags": [], "downloads": 0, "likes": 0}
        return 200, {}, json.dumps(about | {"siblings": [{"rfilename": name} for name in files]}).encode()
    content = files.get(path.partition("/resolve/")[2].partition("/")[2])
    if path.startswith(f"/datasets/{NAME}/resolve/") and content is not None:
        return 200, {"X-Repo-Commit": _COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content
    return 404, {"X-Error-Code": "EntryNotFound" if NAME in path else "RepoNotFound"}, b'{"error": "not found"}'


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a hub whose only data set has these files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = _answer(files, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the names that http.server has

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
