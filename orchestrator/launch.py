"""Sending a sweep to a cluster: our code as Ray's runtime environment, and a sweep as one of Ray's jobs."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cpcnn_core import places
from orchestrator import provenance
from orchestrator.cluster import ClusterError
from orchestrator.names import identifier
from orchestrator.storage import Folder, spelled

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # environment: set where Ray runs us as a job, with the code that was sent with it

_NOT_SENT = ("tests", "docs", "benchmarks", "results", ".ci", "*.pyc")  # Ray leaves .git and .venv out by itself

_PATHS = ("data.root",)  # settings that name a place on the cluster's machines


class Jobs(Protocol):
    """What we use of Ray's JobSubmissionClient."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any], submission_id: str) -> str: ...


def repository() -> Path | None:
    """The folder of the checkout that this code lies in, None where it is installed like any other package."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def runtime_env() -> dict[str, Any]:
    """Our code, as it is on this machine, for the cluster's workers, with the commit that it is."""
    folder = repository()
    if folder is None or JOB in os.environ:
        return {}  # the workers use what is installed, which is compared; or what came with the job
    commit = provenance.git_commit()
    return {
        "working_dir": str(folder),
        "excludes": list(_NOT_SENT),
        "env_vars": {provenance.COMMIT: commit} if commit else {},
    }


def check_address(address: str) -> str:
    """An address for `ray.init`. Raise ClusterError where a driver cannot use it."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address {address}: the driver must be on the cluster, where the results go; give HOST:6379 "
            "on one of its machines (or auto), or --submit http://127.0.0.1:8265 from elsewhere"
        )
    if address.startswith(("http://", "https://")):
        raise ClusterError(f"--address {address}: that is where jobs are submitted; give it to --submit")
    if address not in {"auto", "local"} and not re.fullmatch(r"[^\s/]+:\d+", address):
        raise ClusterError(f"--address {address}: expected HOST:PORT, as 10.0.0.1:6379, or auto")
    return address


def submit(
    address: str,
    space_file: Path,
    options: Sequence[str],
    *,
    name: str,
    results: Folder,
    settings: Sequence[str],
    client: Callable[[str], Jobs] | None = None,
) -> str:
    """Have the cluster run `orchestrator.sweep` on the space file, and return the job's id. Raise ClusterError.

    `options` are the command's own, without `--submit`. The driver runs on the head.
    """
    if not address.startswith(("http://", "https://")):
        raise ClusterError(f"--submit {address}: expected the dashboard's address, as http://127.0.0.1:8265")
    folder = repository()
    if folder is None:
        raise ClusterError("--submit sends the repository's code; type the command in a clone of it")
    if not space_file.resolve().is_relative_to(folder):
        raise ClusterError(f"{space_file}: lies outside {folder}, so it would not be sent; put it into search_spaces/")
    if not results.is_absolute():
        raise ClusterError(
            f"--results {results}: on a cluster, name what all machines share: a folder, as --results /shared/results, "
            "or a bucket, as --results s3://bucket/results"
        )
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in _PATHS and not Path(value).is_absolute() and not places.is_url(value):
            raise ClusterError(f"--set {setting}: on a cluster, name the place on its machines, as {key}=/shared/data")
    space = spelled(space_file.resolve().relative_to(folder))
    entrypoint = ["python", "-m", "orchestrator.sweep", space, *options]
    try:
        return (client or _client)(address).submit_job(
            entrypoint=shlex.join(entrypoint),
            runtime_env=runtime_env(),
            submission_id=f"{identifier(name)}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "ray[default]" in str(error):
            raise ClusterError(
                "--submit needs more of Ray than a laptop's sweep does: uv sync --extra cluster"
            ) from None
        raise ClusterError(f"--submit {address}: {' '.join(str(error).split())}") from None


def _client(address: str) -> Jobs:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    client: Jobs = JobSubmissionClient(address)
    return client
