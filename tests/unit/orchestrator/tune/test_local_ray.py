"""The machine on which a Ray of our own starts: its home folder, its temporary folder, its cores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer

from cpcnn_core import files
from orchestrator import command_line
from orchestrator.machines.cluster import ClusterError
from orchestrator.records import provenance
from orchestrator.tune import dry_run, local_ray


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder; no token is given, and the temporary folder is the test's own."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "so that it is taken back after the test")
        monkeypatch.delenv(name)
    made, temporary = tmp_path / "home", tmp_path / "temporary"
    made.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(made))
    return made


@pytest.mark.parametrize("there", [True, False])
def test_only_its_owner_reads_the_token(tmp_path: Path, there: bool) -> None:
    token = tmp_path / ".ray" / "auth_token"
    if there:
        token.parent.mkdir()
        token.write_text("secret")
        token.chmod(0o644)
    local_ray._ensure_token(token)
    assert token.stat().st_mode & 0o777 == 0o600
    assert (token.read_text() == "secret") == there
    assert len(token.read_text()) >= 6


@pytest.mark.parametrize("failures", [2, 3])
def test_a_ray_that_does_not_come_up_is_started_again_and_then_said_in_one_line(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    starts = []

    def start(**_: object) -> None:
        starts.append(1)
        if len(starts) <= failures:
            raise Exception("The current node timed out\nduring startup.")  # noqa: TRY002 - what Ray raises

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if failures == 3:
        with pytest.raises(ClusterError, match=r"3 times: The current node timed out during startup\. Its logs"):
            local_ray._start()
    else:
        local_ray._start()
    assert len(starts) == 3


def test_the_token_is_kept_at_home(home: Path) -> None:
    local_ray._provide_token()
    token = (home / ".ray" / "auth_token").read_text()
    local_ray._provide_token()
    assert (home / ".ray" / "auth_token").read_text() == token
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_where_it_cannot_be_kept_there_is_one_for_this_time(home: Path) -> None:
    (home / ".ray").touch()
    local_ray._provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_one_that_is_given_will_do(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    local_ray._provide_token()
    assert not list(home.iterdir())


def test_who_has_no_home_gets_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_ray._provide_home()
    assert os.environ["HOME"] == str(home)
    monkeypatch.setenv("HOME", str(home / "nowhere"))
    local_ray._provide_home()
    assert os.environ["HOME"] == str(files.temporary_cache())
    assert not (home / "nowhere").exists()


LONG = "a-name-of-thirty-two-characters-"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_rays_files_go_to_the_temporary_folder(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv(name, short)
        assert local_ray._temporary_folder() == Path(short) / "ray"
        (Path(short) / "ray").touch()  # or is another user's
        assert local_ray._temporary_folder() == Path(short) / f"ray-{os.getuid()}"


@pytest.mark.parametrize("wrong", ["missing", "a file", "too long", "relative"])
def test_or_to_another_where_it_will_not_do(
    wrong: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    (tmp_path / LONG / LONG).mkdir(parents=True)
    place = {"missing": tmp_path / "x", "a file": tmp_path / "a file", "too long": tmp_path / LONG / LONG}
    monkeypatch.setenv("TMPDIR", str(place.get(wrong, Path(LONG, LONG))))
    found = local_ray._temporary_folder()
    assert found.parent in {tmp_path / "temporary", *map(Path, local_ray._PLACES)}
    assert found.name in {"ray", f"ray-{os.getuid()}"}
    assert len(f"{found}{local_ray._IN_SESSION}") <= 107
    assert not (tmp_path / "x").exists()


def test_where_none_will_do_that_is_one_sentence(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").touch()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "a file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(local_ray, "_PLACES", ())
    with pytest.raises(ClusterError, match=r"^TMPDIR \(.*a file\): Ray needs a temporary folder .* at most \d+ bytes"):
        local_ray._temporary_folder()


def test_the_longest_path_that_ray_makes_is_known() -> None:
    from ray._private.utils import validate_socket_filepath

    session = local_ray._IN_SESSION
    most = local_ray._PATH_BYTES - len(session)
    validate_socket_filepath("x" * most + session)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("x" * (most + 1) + session)


def test_a_folder_that_cannot_be_written_is_not_tried_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    starts = []

    def start(**_: object) -> None:
        starts.append(1)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ClusterError, match=r"Permission denied.*TMPDIR names another place"):
        local_ray._start()
    assert len(starts) == 1


def test_ray_is_told_of_the_cores_that_we_may_use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    told: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: told.update(options))
    monkeypatch.setattr(local_ray, "cores", lambda: 5)
    local_ray._start()
    assert told["num_cpus"] == 5
    assert Path(told["_temp_dir"]).name.startswith("ray")


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is a word of Linux")
def test_cores_that_are_taken_away_are_not_counted() -> None:
    ours = min(os.sched_getaffinity(0))
    code = (
        "import os, torch\n"
        f"os.sched_setaffinity(0, {{{ours}}})\n"
        "from orchestrator.records import provenance\nfrom orchestrator.tune import dry_run\n"
        "assert provenance.cores() == 1\n"
        "assert provenance.hardware()['cpus'] == 1\n"
        "assert dry_run._machine()['CPU'] == 1.0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1)])
def test_nor_are_those_that_a_container_may_not_use(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open
    (tmp_path / "cpu.max").write_text(quota + "\n")

    def elsewhere(name: Any, *arguments: Any, **options: Any) -> Any:
        return opened(tmp_path / "cpu.max" if name == "/sys/fs/cgroup/cpu.max" else name, *arguments, **options)

    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda name: name == "/sys/fs/cgroup/cpu.max" or exists(name))
    monkeypatch.setattr("builtins.open", elsewhere)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert provenance.cores() == cores
    assert provenance.hardware()["cpus"] == cores
    assert dry_run._machine()["CPU"] == cores


def test_no_temporary_folder_at_all_is_one_sentence_of_any_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(typer.Exit) as raised, command_line.plain_errors():
        tempfile.mkdtemp()
    assert raised.value.exit_code == 2
    assert "error: TMPDIR (not set): No usable temporary directory found in" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(FileNotFoundError), command_line.plain_errors():
        (tmp_path / "a temporary directory").read_text()


def test_a_ray_that_was_imported_before_makes_no_environment_for_its_workers_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under `uv run` it would copy the folder and install all that it needs, for each sweep anew."""
    from ray._private import ray_constants, worker
    from ray._private.runtime_env import uv_runtime_env_hook

    monkeypatch.setattr(uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run"])
    monkeypatch.setattr(uv_runtime_env_hook, "hook", lambda _: {"py_executable": "uv run"})
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)  # as it is on import
    assert worker._maybe_modify_runtime_env({}, False) == {"py_executable": "uv run"}
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    local_ray._read_environment_again()
    assert worker._maybe_modify_runtime_env({}, False) == {}
