"""Every error of ours is in one tree, and every command says it in one line, with the exit code of its class."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import cluster
import cpcnn_core
import orchestrator
import search_spaces
from cpcnn_core import environment
from cpcnn_core.errors import CpcnnError, RunError, UserError
from cpcnn_core.quality import Drawn
from orchestrator import best, export, new_space, report, spaces, status, stop, sweep, track, trial
from orchestrator import command_line as cli
from orchestrator.choosing import selection
from orchestrator.exporting import drawing, folder
from orchestrator.machines import cluster_file
from orchestrator.records import store
from orchestrator.records.location import RemoteError
from orchestrator.records.store import Store
from orchestrator.search import shipped, space
from orchestrator.training import importing, replaying
from orchestrator.tune.plan import FailingError, SweepError
from tests.unit.orchestrator.test_best import judged


def errors() -> Iterator[type[Exception]]:
    """Every exception class that one of the packages defines. Ctrl-C and what is like it is none, nor is a warning."""
    for package in (cpcnn_core, orchestrator, search_spaces, cluster):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(found.name)).values():
                if not isinstance(value, type) or issubclass(value, Warning) or value.__module__ != found.name:
                    continue
                if issubclass(value, Exception):
                    yield value


def test_every_error_is_something_that_the_user_can_mend_or_something_that_went_wrong() -> None:
    found = list(errors())
    assert len(found) > 25
    for error in found:
        assert issubclass(error, CpcnnError), error
        if error is not CpcnnError:
            assert issubclass(error, UserError) != issubclass(error, RunError), error


def test_the_classes_say_the_exit_code() -> None:
    assert (UserError.exit_code, RunError.exit_code) == (cli.BAD_INPUT, cli.FAILED) == (2, 1)
    assert (SweepError.exit_code, FailingError.exit_code) == (2, 1)
    assert RemoteError(5, "no answer", "s3://bucket").exit_code == 2
    assert issubclass(RemoteError, OSError)


SPACE = "search_spaces/digits.py"
# Each command, what it is given, and what it calls first.
COMMANDS: list[tuple[typer.Typer, tuple[str, ...], ModuleType | type, str]] = [
    (sweep.app, (SPACE,), space, "read"),
    (sweep.app, (SPACE, "--check-cluster", "cluster/gpu.yaml"), cluster_file, "problems"),
    (trial.app, (SPACE,), space, "read"),
    (trial.app, ("import", "weights.pth", "--fusion", "none"), importing, "check_settings"),
    (trial.app, ("sample", "0123456789ab", "--out", "nowhere"), drawing, "weights_file"),
    (trial.app, ("replay", "0123456789ab"), replaying, "holder"),
    (best.app, ("--metric", "val_acc"), selection, "select"),
    (report.app, (), selection, "select"),
    (status.app, (), store, "sweeps"),
    (track.app, ("--sweep", "one", "--tensorboard"), Store, "__init__"),
    (export.app, ("folder",), folder, "verify"),
    (stop.app, ("0123456789ab",), store, "sweeps"),
    (spaces.app, ("digits",), shipped, "text"),
    (new_space.app, ("mine.py",), shipped, "write_template"),
]


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (RunError, 1)])
@pytest.mark.parametrize(("app", "arguments", "place", "name"), COMMANDS)
def test_a_command_says_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    app: typer.Typer,
    arguments: tuple[str, ...],
    place: ModuleType | type,
    name: str,
    error: type[CpcnnError],
    code: int,
) -> None:
    monkeypatch.setattr(environment, "rendezvous", lambda: None)
    monkeypatch.setattr(track, "_warn_plainly", lambda: None)  # it changes how the whole process logs
    monkeypatch.setattr(place, name, raising(error("it is so and so")))
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stderr) == (code, "error: it is so and so\n")


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> None:
        raise error

    return function


def test_a_confirmation_that_finds_no_cluster_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(tmp_path, {1: [120, 150], 2: [100, 110]})
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    done = CliRunner().invoke(best.app, ["--metric", "val_acc", "--confirm", "1", "--results", str(tmp_path)])
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --address ray://head:10001: the driver must be on the cluster")


@pytest.mark.parametrize("checksums", [None, "no checksum", "0" * 64 + "  weights.safetensors"])
def test_a_folder_that_is_no_whole_export_does_not_hold(tmp_path: Path, checksums: str | None) -> None:
    if checksums is not None:
        (tmp_path / "SHA256SUMS").write_text(checksums + "\n")
    done = CliRunner().invoke(export.app, [str(tmp_path)])
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


def test_images_that_cannot_be_written_are_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    drawn = Drawn(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    with pytest.raises(UserError, match="file"):
        drawing.write(
            tmp_path / "file" / "out", drawn, drawing.Request({0: 1}, seed=0), tmp_path, "", class_names=("cat",)
        )
