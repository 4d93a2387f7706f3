"""A stand-in for the server of the Hugging Face Hub, on loopback; what speaks with it is the Hub's own client."""

from __future__ import annotations

import base64
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "hf_0123456789abcdefghijklmnop"
LARGE = "weights.safetensors"  # which the Hub takes by another way


@dataclass
class Hub:
    """What the server was sent, and how it answers."""

    me: dict[str, Any] = field(default_factory=lambda: {"name": "ada", "orgs": [{"name": "lab"}]})
    fails_at: str = ""  # a part of the path that is answered with an error
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.fails_at and self.fails_at in path:
            return 403, {"error": "no room"}
        if path == "/api/whoami-v2":
            return 200, self.me
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/ada/digits", "name": "ada/digits"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"] == LARGE else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.url}/put/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/put/"):
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.large[line["value"]["oid"]]
            return 200, {"commitUrl": f"{self.url}/ada/digits/commit/1", "commitOid": "1", "success": True}
        return 404, {"error": path}


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if not path.startswith("/put/"):
                hub.tokens.add(self.headers.get("Authorization"))
            status, content = hub.answer(path, body)
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST  # noqa: N815 - the names that http.server has

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub.url
        finally:
            server.shutdown()


def environment(url: str, home: Path) -> dict[str, str]:
    """For a process that pushes: the client reads it when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    given = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return clean | given | {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": url}
