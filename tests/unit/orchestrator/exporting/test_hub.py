"""An exported folder goes to the Hugging Face Hub: its own client, and a stand-in for its server on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import best
from orchestrator.exporting.hub import AddressError, Repository

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


CODE = """
import sys
from pathlib import Path
from cpcnn_core.errors import CpcnnError
from orchestrator.exporting.hub import Repository
try:
    to = Repository.parse(sys.argv[1])
    to.check()
    print("checked")
    print(to.push(Path(sys.argv[2])))
except CpcnnError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def pushed(
    url: str, folder: Path, address: str = "hf://ada/digits", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A push in a process of its own: the client reads the environment when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    home = {"HOME": str(folder.parent), "HF_HOME": str(folder.parent / "hf"), "HF_ENDPOINT": url}
    given = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", CODE, address, str(folder)],
        env={name: value for name, value in (clean | home | given | environment).items() if value},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "val_acc-0123456789ab-0003"
    (made / "samples").mkdir(parents=True)
    files = {
        LARGE: b"w" * 1000,
        "metrics.json": b"{}",
        "samples/Class0_image_01.png": b"png",
        "SHA256SUMS": b"",
        "model_card.md": b"---\ntags:\n- pixelcnn++\n---\n\n# Model card\n",
    }
    for name, content in files.items():
        (made / name).write_bytes(content)
    return made


def test_a_folder_is_there_as_it_lies_here_with_its_card_as_the_page(folder: Path) -> None:
    hub = Hub()
    with serving(hub) as url:
        done = pushed(url, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["checked", f"{url}/ada/digits"]
    lying = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files == lying | {"README.md": lying["model_card.md"]}
    assert hub.large == {hashlib.sha256(lying[LARGE]).hexdigest(): lying[LARGE]}
    [created] = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("ada", "digits", "private")
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("hub", "address", "environment", "says"),
    [
        (
            Hub(),
            "hf://ada/digits",
            {"HF_TOKEN": ""},
            "there is no token; `hf auth login` asks for one, or set HF_TOKEN",
        ),
        (Hub(), "hf://eve/digits", {}, "the token is of ada, lab, and does not write to eve"),
        (Hub({"name": "ada", "auth": {"accessToken": {"role": "read"}}}), "hf://ada/x", {}, "the token may only read"),
        (Hub(fails_at="whoami"), "hf://ada/digits", {}, "403"),
        (Hub(), "hf://ada/digits", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "[Errno 111]"),
        (Hub(), "hf://ada/digits", {"HF_HUB_OFFLINE": "1"}, "Cannot reach"),
    ],
)
def test_what_keeps_it_from_going_is_said_before_anything_is_done(
    folder: Path, hub: Hub, address: str, environment: dict[str, str], says: str
) -> None:
    with serving(hub) as url:
        done = pushed(url, folder, address, **environment)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"--push {address}: {says}" in line
    assert done.stdout == ""
    assert (hub.created, hub.files) == ([], {})
    assert TOKEN not in line


@pytest.mark.parametrize("part", ["repos/create", "preupload", "lfs/objects", "commit"])
def test_a_folder_that_does_not_arrive_stays_with_what_to_type_later(folder: Path, part: str) -> None:
    hub = Hub(fails_at=part)
    with serving(hub) as url:
        done = pushed(url, folder)
    assert done.returncode == 1
    assert done.stdout == "checked\n"
    [line] = done.stderr.splitlines()
    assert line.startswith("PushError: not uploaded to hf://ada/digits: 403")
    assert line.endswith(f"export {folder} --push hf://ada/digits")
    assert (folder / LARGE).is_file()
    assert hub.files == {}
    assert TOKEN not in line


@pytest.mark.parametrize(
    "text",
    [
        "ada/digits",
        "hf://ada",
        "hf://ada/",
        "hf:///digits",
        "hf://ada/a/b",
        "hf://datasets/ada/a",
        "hf://ada/a@main",
        "https://huggingface.co/ada/a",
        "hf://ada/a b",
        "hf://ada/a--b",
        "s3://a/b",
    ],
)
def test_an_address_that_is_none_is_named(text: str) -> None:
    with pytest.raises(AddressError, match=r"expected hf://USER/NAME"):
        Repository.parse(text)
    done = CliRunner().invoke(best.app, ["--metric", "val_acc", "--push", text])
    assert done.exit_code == 2
    assert f"--push {text}: " in done.stderr


def test_there_is_nothing_to_push_without_an_export() -> None:
    done = CliRunner().invoke(best.app, ["--metric", "val_acc", "--push", "hf://ada/digits", "--no-export"])
    assert done.exit_code == 2
    assert "--push and --no-export do not go together" in done.stderr
