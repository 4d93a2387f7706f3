"""An exported folder goes to the Hugging Face Hub: its own client, and a stand-in for its server on loopback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import best
from orchestrator.exporting.hub import AddressError, Repository
from tests.support.hub import LARGE, TOKEN, Hub, environment, serving

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
    url: str, folder: Path, address: str = "hf://ada/digits", **changed: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, address, str(folder)],
        env={name: value for name, value in (environment(url, folder.parent) | changed).items() if value},
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
    ("hub", "address", "changed", "says"),
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
    folder: Path, hub: Hub, address: str, changed: dict[str, str], says: str
) -> None:
    with serving(hub) as url:
        done = pushed(url, folder, address, **changed)
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
