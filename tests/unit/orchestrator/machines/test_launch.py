"""Clusters that are gone, in each of the ways in which something may not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import sweep
from orchestrator.machines import launch
from orchestrator.machines.cluster import ClusterError
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import space
from orchestrator.search.space import SearchSpace
from orchestrator.tune.driver import run
from orchestrator.tune.plan import Plan
from orchestrator.views.progress import Progress
from tests.end_to_end.test_commands import call_here

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SPACE = """
from search_spaces import ints
space = {"model.nr_filters": ints(16, 40)}
settings = {"train.epochs": 1}
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 0.5)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@contextmanager
def listening(answer: Callable[[socket.socket], object] | None, *, backlog: int = 5) -> Iterator[str]:
    """A port at which `answer` is given to who comes, or nothing at all."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # it was closed
                with connection:
                    if answer is not None:
                        answer(connection)

        if answer is not None:
            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        yield f"127.0.0.1:{server.getsockname()[1]}"


def says(answer: bytes) -> Callable[[socket.socket], object]:
    def answered(connection: socket.socket) -> None:
        assert connection.recv(100).startswith(b"PRI * HTTP/2.0")
        connection.sendall(answer)

    return answered


def refusal(address: str) -> str:
    begun = time.monotonic()
    with pytest.raises(ClusterError) as raised:
        launch.find_cluster(address)
    assert time.monotonic() - begun < 10
    text = str(raised.value)
    assert text.startswith(f"--address {address}")
    assert "\n" not in text
    return text


def test_a_cluster_that_answers_is_found() -> None:
    with listening(says(SETTINGS_FRAME)) as address:
        launch.find_cluster(address)
    with listening(says(bytes([0, 0, 24, 4, 0, 0, 0, 0, 0]) + b"x" * 24)) as address:  # with settings in it
        launch.find_cluster(address)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "what listens there is no Ray"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "what listens there is no Ray"),
        (says(b""), "what listens there is no Ray"),
        (None, "nothing came within 0.5 s"),
    ],
)
def test_what_answers_otherwise_or_not_at_all_is_no_cluster(
    answer: Callable[[socket.socket], object] | None, reason: str
) -> None:
    with listening(answer) as address:
        assert f"no Ray cluster answers there ({reason})" in refusal(address)


def test_a_port_that_nobody_listens_at_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    assert "(Connection refused)" in refusal(address)


def test_a_machine_that_takes_no_more_is_given_up() -> None:
    with listening(None, backlog=0) as address, ExitStack() as stack:
        for _ in range(4):  # the queue is full, so that packets are dropped, as of a machine that is gone
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", int(address.rpartition(":")[2])))
        assert "(nothing came within 0.5 s)" in refusal(address)


def test_a_name_that_nobody_knows_is_given_up_however_long_the_answer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "(Name or service not known)" in refusal("no-such-host.invalid:6379")
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60))  # which has no timeout of its own
    assert "(nothing came within 0.5 s)" in refusal("slow.invalid:6379")
    over.set()


@pytest.mark.parametrize("address", ["127.0.0.1:99999999", "[::1:x]:6379", f"{'x' * 70}.invalid:6379"])
def test_an_address_that_is_none_is_one_sentence(address: str) -> None:
    refusal(address)


def test_an_encrypted_cluster_need_only_take_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(None) as address:
        launch.find_cluster(address)


@pytest.mark.parametrize("stale", [True, False])
def test_auto_names_the_cluster_that_it_stands_for(
    stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # another test's cluster may run here
    if not stale:
        assert "Could not find any running Ray instance" in refusal("auto")
        return
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    said = refusal("auto")
    assert f":{port}: no Ray cluster answers there (Connection refused)" in said
    assert said.startswith("--address auto, which is ")


@pytest.mark.parametrize(("address", "found"), [("", None), ("local", None), ("auto", "auto"), ("h:1", "h:1")])
def test_what_ray_address_names(address: str, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert launch.cluster_address() == found
    monkeypatch.delenv("RAY_ADDRESS")
    assert launch.cluster_address() is None


def test_a_sweep_on_a_cluster_that_is_gone_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "space.py"
    file.write_text(SPACE)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    begun = time.monotonic()
    code, said = call_here(sweep.app, file, "--results", tmp_path / "results")
    assert (code, time.monotonic() - begun < 15) == (2, True)
    assert f"error: --address {address}: no Ray cluster answers there" in " ".join(said.split())
    assert not (tmp_path / "results").exists()


def test_one_that_went_away_after_the_sweep_was_begun_is_said_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "space.py"
    file.write_text(SPACE)
    asked: SearchSpace = space.read(file)
    plan = Plan("one", asked, tmp_path, trials=1, trainer="tests.support.fakes:train")
    plan.store.create()
    plan.store.write_sweep(SweepRecord.model_validate({"name": "one", "runs": []}))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
    with (
        Progress(Console(quiet=True), asked.objective, asked.searched, total=1) as view,
        pytest.raises(ClusterError, match="no Ray cluster answers there"),
    ):
        run(plan, view)
    assert plan.store.read_sweep() is not None


@pytest.mark.parametrize("answer", [None, "closed"])
def test_a_dashboard_that_is_gone_takes_no_job(answer: str | None) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(listening(None))
        if answer == "closed":
            stack.close()
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=r"--submit http://.*: no dashboard answers there \(.*\)\. Is the"):
            launch._client(f"http://{address}")
        assert time.monotonic() - begun < 10


def test_a_dashboard_that_answers_whatever_it_may_is_left_to_rays_own_client() -> None:
    def unauthorized(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    with listening(unauthorized) as address:
        launch._find_dashboard(f"http://{address}/")
