"""A Ray of our own on this machine, quiet and closed to strangers, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cpcnn_core import environment
from orchestrator.cluster import ClusterError

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


@contextmanager
def started() -> Generator[dict[str, float]]:
    """Start or join Ray, and yield the resources it has, or may come to have. Stop what was started.

    What launchers left in the environment is removed, so that no trial inherits it. Raise ClusterError where the
    cluster cannot be joined, or Ray does not start here.
    """
    environment.forget_launchers()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        _ensure_token(Path.home() / ".ray" / "auth_token")
    import ray  # it reads the environment when it is imported

    from orchestrator import launch, watching

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    terminate = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            ray.init(
                address=launch.check_address(address),
                runtime_env=launch.runtime_env(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
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
        found: Result = ray.get(ray.remote(function).options(num_cpus=1).remote(argument))
    except RayTaskError as error:
        raise error.cause or error from None
    return found


def _start() -> None:
    """Start a Ray of our own. Raise ClusterError where it does not come up."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",  # one that happens to run on this machine is somebody else's
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        except Exception as error:  # noqa: BLE001 - on a busy machine its processes miss one another; it has no class
            ray.shutdown()
            if not left:
                said = " ".join(str(error).split()).rstrip(".")
                raise ClusterError(
                    f"Ray did not start on this machine, {_STARTS} times: {said}. Its logs are in ray/session_latest "
                    f"under {tempfile.gettempdir()}; the same command tries again"
                ) from None
        else:
            return


def _ensure_token(path: Path) -> None:
    """Make the token that everyone who talks to our Ray must know, readable for its owner alone; Ray would use 0644."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
