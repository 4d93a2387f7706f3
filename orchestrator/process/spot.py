"""Spot machines: whether the cloud has announced to take this one away, as its metadata service says.

Amazon's is asked with a token (IMDSv2) for `spot/instance-action`, which is there from two minutes before the end on;
Google's for `instance/preempted`, TRUE from thirty seconds before. They are asked on machines of these clouds alone,
which tell by their firmware, or where `CPCNN_SPOT` says so.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cpcnn_core.errors import UserError
from orchestrator.process.notice import Source

SETTING = "CPCNN_SPOT"
FIRMWARE = Path("/sys/class/dmi/id")  # what the machine's maker wrote into it

Cloud = Literal["aws", "gcp"]

_VENDORS: Mapping[str, Cloud] = {"Amazon EC2": "aws", "Google": "gcp"}
_SECONDS = 2.0  # that an answer may take; the services lie in the machine itself
_TOKEN_SECONDS = 21600


class SpotError(UserError, ValueError):
    """A setting of the environment that names no cloud; the message says what there is."""


def sources(firmware: Path = FIRMWARE) -> list[Source]:
    """Whom to ask on this machine; nobody where it is none of a known cloud. Raise SpotError."""
    service = _SERVICES.get(_asked_for() or _made_by(firmware) or "none")
    return [] if service is None else [service()]


def _asked_for() -> str | None:
    """The cloud that the environment names, `none` included."""
    given = os.environ.get(SETTING, "")
    if given not in {"", "none", *_SERVICES}:
        raise SpotError(f"environment: {SETTING} is {given!r}; say {', '.join(_SERVICES)} or none, or unset it")
    return given or None


def _made_by(firmware: Path) -> str | None:
    try:
        return _VENDORS.get((firmware / "sys_vendor").read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


class Amazon:
    """The instance metadata service of EC2."""

    def __init__(self) -> None:
        self._at = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254").netloc
        self._token = ""

    def __call__(self) -> str | None:
        status, content = self._ask()
        if status == 401:  # the token is too old
            self._token = ""
            status, content = self._ask()
        if status == 404:
            return None
        _check(status, self._at)
        action = json.loads(content)
        return f"AWS: spot {action['action']} at {action['time']}"

    def _ask(self) -> tuple[int, str]:
        if not self._token:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            status, token = _request(self._at, "PUT", "/latest/api/token", wanted)
            _check(status, self._at)
            self._token = token
        return _request(
            self._at, "GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token}
        )

    def __str__(self) -> str:
        return f"AWS's metadata service at {self._at}"


class Google:
    """The metadata server of Compute Engine."""

    def __init__(self) -> None:
        self._at = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"

    def __call__(self) -> str | None:
        path = "/computeMetadata/v1/instance/preempted"
        status, content = _request(self._at, "GET", path, {"Metadata-Flavor": "Google"})
        _check(status, self._at)
        return "Google Cloud: the machine is preempted" if content.strip().upper() == "TRUE" else None

    def __str__(self) -> str:
        return f"Google's metadata server at {self._at}"


_SERVICES: Mapping[str, type[Amazon] | type[Google]] = {"aws": Amazon, "gcp": Google}


def _request(at: str, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Status and content. No proxy is asked: what another machine's service says is of no use."""
    connection = http.client.HTTPConnection(at, timeout=_SECONDS)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def _check(status: int, at: str) -> None:
    if status != 200:
        raise ConnectionError(f"{at} answered with status {status}")
