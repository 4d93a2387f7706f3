"""The clouds' metadata services, by stand-ins that answer as their documentation says. Nothing else is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.process import notice, spot

AWS, GCP = "/latest/meta-data/spot/instance-action", "/computeMetadata/v1/instance/preempted"


class Service(HTTPServer):
    """Both services; `announced` is what they say from then on, `tokens` those that were given out and still count."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.announced = self.broken = False
        self.tokens: list[str] = []
        self.asked: list[str] = []

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.server.tokens.append(f"token-{len(self.server.tokens)}")
        self._answer(200, self.server.tokens[-1])

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.broken:
            self._answer(503, "")
        elif self.path == AWS and self.headers["X-aws-ec2-metadata-token"] not in self.server.tokens[-1:]:
            self._answer(401, "")
        elif self.path == AWS and self.server.announced:
            self._answer(200, '{"action": "terminate", "time": "2026-11-27T08:22:00Z"}')
        elif self.path == GCP and self.headers["Metadata-Flavor"] == "Google":
            self._answer(200, "TRUE" if self.server.announced else "FALSE")
        else:
            self._answer(404, "")

    def _answer(self, status: int, content: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with Service() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{made.at}")
        monkeypatch.setenv("GCE_METADATA_HOST", made.at)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which would not answer
        yield made
        made.shutdown()


SAID = {"aws": "AWS: spot terminate at 2026-11-27T08:22:00Z", "gcp": "Google Cloud: the machine is preempted"}


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_machine_that_is_to_be_taken_away_is_known_by_its_cloud(
    service: Service, monkeypatch: pytest.MonkeyPatch, cloud: str
) -> None:
    monkeypatch.setenv(spot.SETTING, cloud)
    [source] = spot.sources()
    assert source() is None
    service.tokens.append("another")  # the one that was given out counts no longer
    assert source() is None
    service.announced = True
    assert source() == SAID[cloud]
    service.broken = True
    with pytest.raises(ConnectionError, match=f"{service.at} answered with status 503"):
        source()


def test_notice_comes_from_the_cloud_though_it_does_not_answer_at_times(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(spot.SETTING, "gcp")
    monkeypatch.setattr(notice, "EVERY_SECONDS", 0.01)
    service.broken = True
    given = threading.Event()
    sources = spot.sources()
    with notice.heeded(sources) as taken:
        while len(service.asked) < 3:
            assert not given.wait(0.01)
        assert not taken()
        service.broken, service.announced = False, True
        while not taken():
            assert not given.wait(0.01)
    assert taken.reason == SAID["gcp"]
    assert taken.source is sources[0]
    assert caplog.text.count("no notice can be had from Google's metadata server") == 1


@pytest.mark.parametrize(
    ("vendor", "setting", "found"),
    [
        ("Amazon EC2\n", None, [spot.Amazon]),
        ("Google\n", None, [spot.Google]),
        ("Google\n", "aws", [spot.Amazon]),
        ("Google\n", "none", []),
        ("LENOVO\n", None, []),
        (None, None, []),
        (None, "gcp", [spot.Google]),
    ],
)
def test_only_machines_of_these_clouds_ask_or_those_that_are_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str | None, setting: str | None, found: list[type]
) -> None:
    monkeypatch.delenv(spot.SETTING, raising=False)
    if setting is not None:
        monkeypatch.setenv(spot.SETTING, setting)
    if vendor is not None:
        (tmp_path / "sys_vendor").write_text(vendor)
    assert [type(source) for source in spot.sources(tmp_path)] == found


def test_another_cloud_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(spot.SETTING, "azure")
    with pytest.raises(spot.SpotError, match="CPCNN_SPOT is 'azure'; say aws, gcp or none, or unset it"):
        spot.sources()
