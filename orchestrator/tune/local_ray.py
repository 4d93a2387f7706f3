"""A Ray of our own on this machine, quiet and closed to strangers, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cpcnn_core import environment, files
from orchestrator.machines import launch
from orchestrator.machines.cluster import ClusterError
from orchestrator.records.provenance import cores

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's paths are relative to where the command was typed
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers would be started by `uv run`, each with an environment of its own
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our tables are the record, not Tune's csv and json files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has one
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # nor is Tune's own experiment state
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the table and in the trial's log
}

_OBJECT_STORE_BYTES = 128 * 2**20  # results are small; Ray would take 30% of the memory
_STARTS = 3  # attempts
_JOIN_SECONDS = "5"  # that Ray asks a cluster's head again; it has answered before

_PATH_BYTES = {"darwin": 103, "win32": 32767}.get(sys.platform, 107)  # of a socket's path, which Windows has none of
_IN_SESSION = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store_1"  # the longest that Ray makes
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - Ray makes a folder of its own there


@contextmanager
def started() -> Generator[dict[str, float]]:
    """Start or join Ray, and yield the resources it has, or may come to have. Stop what was started.

    What launchers left in the environment is removed, so that no trial inherits it. Raise ClusterError where the
    cluster cannot be joined, or Ray does not start here.
    """
    environment.forget_launchers()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    _provide_home()
    address = launch.cluster_address()
    if address:
        launch.find_cluster(address)
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", _JOIN_SECONDS)
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        _provide_token()
    import ray
    from ray.exceptions import AuthenticationError

    _read_environment_again()

    from orchestrator.tune import watching

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    terminate = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            ray.init(
                address=address,
                runtime_env=launch.runtime_env(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
            raise ClusterError(f"--address {address}: {' '.join(str(error).split())}") from None
    else:
        _start()
    if callable(terminate):
        signal.signal(signal.SIGTERM, terminate)  # Ray's own, which it puts in its place, aborts
    try:
        yield watching.look().totals() if address else ray.cluster_resources()
    finally:
        ray.shutdown()


Argument = TypeVar("Argument")
Result = TypeVar("Result")


def elsewhere(function: Callable[[Argument], Result], argument: Argument) -> Result:
    """What the function returns on a node of the cluster that is joined. Raise what it raises there."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        result: Result = ray.get(ray.remote(function).options(num_cpus=1).remote(argument))
    except RayTaskError as error:
        raise error.cause or error from None
    return result


def _start() -> None:
    """Start a Ray of our own. Raise ClusterError where it does not come up."""
    import ray

    folder = _temporary_folder()
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",  # one that happens to run on this machine is somebody else's
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                num_cpus=cores(),
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
            )
        except Exception as error:  # noqa: BLE001 - on a busy machine its processes miss one another; it has no class
            ray.shutdown()
            reason = " ".join(str(error).split()).rstrip(".")
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                raise ClusterError(
                    f"Ray did not start on this machine: {reason}. Its files go to {folder}; TMPDIR names another place"
                ) from None
            if not left:
                raise ClusterError(
                    f"Ray did not start on this machine, {_STARTS} times: {reason}. Its logs are in "
                    f"{folder / 'session_latest'}; the same command tries again"
                ) from None
        else:
            return


def _temporary_folder() -> Path:
    """Where Ray's sockets and logs go: the temporary folder, or one that can be written and has a short enough path.

    Raise ClusterError where there is none.
    """
    wanted = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    with contextlib.suppress(OSError):  # of what Python, too, looks for and does not find
        wanted.append(tempfile.gettempdir())
    for place in dict.fromkeys(Path(each).absolute() for each in (*wanted, *_PLACES) if each):
        for folder in (place / "ray", place / f"ray-{files.user()}"):  # the first may be another user's
            if place.is_dir() and files.can_hold(folder) and len(os.fsencode(f"{folder}{_IN_SESSION}")) <= _PATH_BYTES:
                return folder
    raise ClusterError(
        f"TMPDIR ({os.environ.get('TMPDIR') or 'not set'}): Ray needs a temporary folder that can be written and whose "
        f"path has at most {_PATH_BYTES - len(_IN_SESSION) - len('/ray')} bytes; neither it nor "
        f"{', '.join(_PLACES)} is one"
    )


def _read_environment_again() -> None:
    """Have Ray heed how it is to authenticate and to start workers where a program had imported it before.

    It tells nobody in public how. A Ray that lacks this is as it was when it was imported.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private import ray_constants

        name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
        setattr(ray_constants, name, ray_constants.env_bool(name, getattr(ray_constants, name)))
    with contextlib.suppress(ImportError, AttributeError):
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _provide_home() -> None:
    """Have a home folder, without which Ray Tune is not even imported; one that is there and read-only will do."""
    if files.home() is None and (own := files.temporary_cache()) is not None:
        os.environ["HOME"] = str(own)


def _provide_token() -> None:
    """Have a token that everyone who talks to our Ray must know: the user's, or where it cannot be kept one for now."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = files.home()
    if home is not None:
        with contextlib.suppress(OSError):
            _ensure_token(home / ".ray" / "auth_token")
            return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _ensure_token(path: Path) -> None:
    """Make the token that everyone who talks to our Ray must know, readable for its owner alone; Ray would use 0644."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
