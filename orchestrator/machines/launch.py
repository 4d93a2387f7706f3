"""Sending a sweep to a cluster: our code as Ray's runtime environment, and a sweep as one of Ray's jobs."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from cpcnn_core import places
from orchestrator.machines.cluster import ClusterError
from orchestrator.records import provenance
from orchestrator.records.location import Folder, spelled
from orchestrator.text.names import identifier

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # environment: set where Ray runs us as a job, with the code that was sent with it

_NOT_SENT = ("tests", "docs", "benchmarks", "results", ".ci", "*.pyc")  # Ray leaves .git and .venv out by itself

_PATHS = ("data.root",)  # settings that name a place on the cluster's machines

ANSWER_SECONDS = 5.0  # after which a cluster that does not answer is given up; Ray itself takes a quarter of an hour
# What a gRPC server, as a cluster's head is, is greeted with (HTTP/2, RFC 9113): the preface, and settings that say
# nothing. It answers with a frame of settings, whose type is the fourth byte.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER_BYTES, _SETTINGS = 9, 4


class Jobs(Protocol):
    """What we use of Ray's JobSubmissionClient."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, JsonValue], submission_id: str) -> str: ...


def repository() -> Path | None:
    """The folder of the checkout that this code lies in, None where it is installed like any other package."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() else None


def runtime_env() -> dict[str, JsonValue]:
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


def cluster_address() -> str | None:
    """The running cluster that RAY_ADDRESS names; None for a Ray of our own on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in {None, "", "local"} else address


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


def find_cluster(address: str) -> None:
    """See that a cluster answers at an address, which may be `auto`. Raise ClusterError where none does."""
    check_address(address)
    place = address
    if address == "auto":
        from ray._private import services

        try:
            place = services.canonicalize_bootstrap_address_or_die(address)
        except ConnectionError as error:
            raise ClusterError(f"--address auto: {' '.join(str(error).split())}") from None
    named = address if place == address else f"{address}, which is {place}"
    host, _, port = place.rpartition(":")
    try:
        _in_time(lambda: _greet(host.strip("[]"), int(port)))
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(
            f"--address {named}: no Ray cluster answers there ({_why(error)}). Start it, give the address of one that "
            "runs, or leave --address and RAY_ADDRESS out for a Ray on this machine alone"
        ) from None


def _greet(host: str, port: int) -> None:
    """See that a gRPC server listens there. Raise OSError."""
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
            return  # it waits for another greeting; that it takes calls says enough
        connection.sendall(_GREETING)
        answer = b""
        while len(answer) < _HEADER_BYTES and (more := connection.recv(_HEADER_BYTES - len(answer))):
            answer += more
    if len(answer) < _HEADER_BYTES or answer[3] != _SETTINGS:
        raise ConnectionError("what listens there is no Ray")


def _in_time(ask: Callable[[], None]) -> None:
    """Do it within ANSWER_SECONDS, however long it takes. Raise what it raises, or TimeoutError."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            raised.append(error)

    # Not all of it has a timeout of its own: looking a name up has none.
    thread = threading.Thread(target=run, name="ask", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if thread.is_alive():
        raise TimeoutError
    for error in raised:
        raise error


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {ANSWER_SECONDS:g} s"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text or type(error).__name__


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


def _find_dashboard(address: str) -> None:
    """See that a web server answers. Raise ClusterError where none does."""

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS).close()  # noqa: S310 - http(s)
        except urllib.error.HTTPError as error:
            error.close()  # an answer, which Ray's own client understands better
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLError):
                raise

    try:
        _in_time(ask)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"--submit {address}: no dashboard answers there "
            f"({_why(reason if isinstance(reason, Exception) else error)}). Is the cluster up, and the tunnel to it?"
        ) from None


def _client(address: str) -> Jobs:
    _find_dashboard(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    client: Jobs = JobSubmissionClient(address)
    return client
