"""The live page: new epochs reach who looks at it, and no foreign page reaches it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from orchestrator.choosing.selection import Selection
from orchestrator.records.lease import STALE_SECONDS, Holder
from orchestrator.records.provenance import moment
from orchestrator.records.store import Attempt, Store
from orchestrator.views.page import live as live_module
from orchestrator.views.page import serving
from orchestrator.views.page.access import Access, is_loopback
from orchestrator.views.page.live import LivePage
from orchestrator.views.page.server import ServeError, Server
from orchestrator.views.page.subject import Subject, current
from tests.support import remote
from tests.support.browser import Browser
from tests.support.fakes import metrics
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, add

SOON = 5.0  # seconds in which a new epoch is to be seen
RUNNING = CONFIG.with_settings({"seed": 7})


class Live:
    """A served page, and what it was asked to stop."""

    def __init__(self, store: Store, server: Server) -> None:
        self.store = store
        self.server = server
        self.stopped: list[tuple[str, str]] = []

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer, text.decode(errors="replace")

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self, change: Mapping[str, str | None] | None = None, method: str = "POST") -> int:
        """Stop the trial as the page does, but for what is changed in its headers."""
        right = {
            "Origin": self.origin,
            "Content-Type": "application/json",
            "Sec-Fetch-Site": "same-origin",
            "X-Cpcnn-Token": self.server.access.acting,
        }
        headers = {name: value for name, value in (right | dict(change or {})).items() if value is not None}
        body = json.dumps({"sweep": self.store.folder.name, "trial": RUNNING.trial_id})
        return self.ask(method, "/stop", headers, body)[0].status

    def add_epoch(self, epoch: int) -> None:
        self.store.add_epoch(RUNNING.trial_id, 1, metrics(epoch, val_acc=0.5 + epoch / 100))


@contextmanager
def served(results: Path, *, with_token: bool = False) -> Generator[Live]:
    """A sweep with a trial that has ended and one that runs."""
    store = add(results, [0.5, 0.6])
    running = Attempt(trial_id=RUNNING.trial_id, attempt=1, number=1, state="RUNNING", started=at(), device="cpu")
    store.write_attempt(running, RUNNING)
    read = partial(current, Selection((store,), "sweep"), "val_acc", mode=None, conditions=(), rule="smoothed")
    stopped: list[tuple[str, str]] = []

    def stop(of: Store, trial_id: str) -> None:
        stopped.append((of.folder.name, trial_id))

    with LivePage((store,), read) as page, Server(page, stop, "127.0.0.1", 0, with_token=with_token) as server:
        live = Live(store, server)
        live.stopped = stopped
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        try:
            yield live
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with served(tmp_path / "results") as made:
        yield made


def page_of(results: Path, values: list[float | None]) -> tuple[Store, Callable[[], Subject]]:
    """A sweep, and what reads it for a page."""
    store = add(results, values)
    selected = Selection((store,), "sweep")
    return store, partial(current, selected, "val_acc", mode=None, conditions=(), rule="smoothed")


def soon(told: Callable[[], object]) -> None:
    until = time.monotonic() + SOON
    while not told() and time.monotonic() < until:
        time.sleep(0.05)
    assert told()


# -------------------------------------------------------------------------------------------------------- what is new


def test_an_epoch_is_there_soon_and_only_what_changed_has_another_digest(live: Live) -> None:
    def digests() -> dict[str, str]:
        found: dict[str, str] = json.loads(live.ask("GET", "/sections.json")[1])["digests"]
        return found

    before = digests()
    live.add_epoch(1)
    soon(lambda: digests() != before)
    changed = {name for name, digest in digests().items() if before[name] != digest}
    assert changed >= {"running", "trials"}
    assert "failures" not in changed
    assert "epoch 1 of" in live.ask("GET", "/sections/running")[1]


def test_a_sweep_that_has_no_epoch_yet_has_a_page(tmp_path: Path) -> None:
    store = add(tmp_path / "results", [])
    read = partial(current, Selection((store,), "sweep"), "val_acc", mode=None, conditions=(), rule="smoothed")
    with LivePage((store,), read) as page:
        assert "There is no answer yet" in page.shown.inner["answer"]
        add(tmp_path / "results", [0.5])
        soon(lambda: "There is no answer yet" not in page.shown.inner["answer"])


def test_results_out_of_reach_are_said_and_taken_up_again(tmp_path: Path) -> None:
    store = add(tmp_path / "results", [0.5])
    read = partial(current, Selection((store,), "sweep"), "val_acc", mode=None, conditions=(), rule="smoothed")
    with LivePage((store,), read) as page:
        away = tmp_path / "away"
        (tmp_path / "results" / "one").rename(away)
        soon(lambda: page.shown.problem is not None)
        assert "Not made anew" in page.shown.sentence
        away.rename(tmp_path / "results" / "one")  # and nothing has changed since
        soon(lambda: page.shown.problem is None)
        add(tmp_path / "results", [0.5, 0.6])
        soon(lambda: "0.6" in page.shown.inner["trials"])


def test_a_driver_on_another_machine_that_is_heard_of_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 0.02)
    store, read = page_of(tmp_path / "results", [0.5])
    lease = tmp_path / "results" / "one" / "driver-000001.json"
    lease.write_text(json.dumps(asdict(Holder(4711, "node-7", "2026", "another kernel", "work"))))
    times = []

    def counted() -> Subject:
        times.append(1)
        return read()

    def heard_of(page: LivePage) -> int:
        [seconds] = re.findall(r"pid 4711 on node-7, since 2026, heard of (\d+) s ago", json.dumps(page.status()))
        return int(seconds)

    with LivePage((store,), counted) as page:
        for silent in (10, 30, 50):
            os.utime(lease, (time.time() - silent,) * 2)
            soon(partial(lambda least: least <= heard_of(page) < least + 20, silent))
        assert len(times) == 1
        os.utime(lease, (time.time() - 2 * STALE_SECONDS,) * 2)
        soon(lambda: len(times) == 2)
        soon(lambda: page.shown.states[0].driver_alive is False)


def test_a_bucket_is_looked_at_less_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert live_module.REMOTE_LOOK_SECONDS >= 5 > live_module.LOOK_SECONDS
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 1000)
    monkeypatch.setattr(live_module, "REMOTE_LOOK_SECONDS", 0.02)
    store = Store(remote.folder())
    store.create()
    read = partial(current, Selection((store,), "sweep"), "val_acc", mode=None, conditions=(), rule="smoothed")
    with LivePage((store,), read) as page:
        first = page.shown.looked
        soon(lambda: page.shown.looked != first)


def test_the_time_of_the_last_look_is_said_and_not_that_of_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 0.02)
    minutes = iter(range(1000))
    monkeypatch.setattr(live_module, "moment", lambda: moment() + timedelta(minutes=next(minutes)))
    store, read = page_of(tmp_path / "results", [0.5])
    with LivePage((store,), read) as page:
        first = page.changed_since()["state"]
        soon(lambda: page.changed_since()["state"] != first)
        (tmp_path / "results" / "one").rename(tmp_path / "away")
        soon(lambda: page.shown.problem is not None)
        told, asked = page.changed_since()["state"], next(minutes)
        soon(lambda: next(minutes) > asked + 3)  # it has looked since, in vain
        assert page.changed_since()["state"] == told
        assert f"Looked at {page.shown.looked:%H:%M:%S} UTC." in str(told)


def test_an_error_that_nobody_foresaw_is_said_once_and_does_not_end_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 0.02)
    store, read = page_of(tmp_path / "results", [0.5])
    broken: list[str] = []
    in_vain: list[int] = []

    def sometimes() -> Subject:
        if broken:
            in_vain.append(1)
            raise ValueError(broken[0])
        return read()

    with LivePage((store,), sometimes) as page:
        broken.append("no such thing")
        add(tmp_path / "results", [0.5, 0.6])
        soon(lambda: len(in_vain) > 3)
        assert "Not made anew: ValueError: no such thing. " in page.shown.sentence
        broken.clear()
        soon(lambda: page.shown.problem is None)
        assert "0.6" in page.shown.inner["trials"]
    assert [record.exc_info is not None for record in caplog.records if "no such thing" in record.message] == [True]


# ------------------------------------------------------------------------------------------- foreign pages and people


def test_a_trial_is_stopped_from_the_page_itself_alone(live: Live) -> None:
    changes: list[Mapping[str, str | None]] = [
        {"X-Cpcnn-Token": None},
        {"X-Cpcnn-Token": "wrong"},
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": live.origin.replace("http", "https")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Host": f"evil.example:{live.server.server_port}", "Origin": f"http://evil.example:{live.server.server_port}"},
    ]
    for change in changes:
        assert live.stop(change) == 403, change
    assert live.stop(method="GET") == 404
    assert live.stop(method="PUT") == 501
    assert live.stopped == []
    assert live.stop() == 200
    assert live.stopped == [("one", RUNNING.trial_id)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"sweep": "one", "trial": "0123456789ab"}', 409),
        ('{"sweep": "../one", "trial": "../../x"}', 409),
        ('{"sweep": ["one"], "trial": {}}', 409),
        ("[]", 400),
        ("no JSON", 400),
        ("[" * 4096, 400),
        ("x" * 5000, 413),
    ],
)
def test_what_is_no_running_trial_is_not_stopped(live: Live, body: str, status: int) -> None:
    headers = {"Origin": live.origin, "Content-Type": "application/json", "X-Cpcnn-Token": live.server.access.acting}
    assert live.ask("POST", "/stop", headers, body)[0].status == status
    assert live.stopped == []


def test_a_length_and_an_address_that_nobody_can_read_are_answered(live: Live) -> None:
    headers = {"Origin": live.origin, "Content-Type": "application/json", "X-Cpcnn-Token": live.server.access.acting}
    assert live.ask("POST", "/stop", headers | {"Content-Length": "9" * 5000})[0].status == 413
    assert live.ask("GET", "ftp://[")[0].status == 404


@pytest.mark.parametrize("path", ["/", "/sections.json", "/sections/trials", "/status.json", "/plotly.js"])
def test_a_name_that_is_bound_anew_to_this_machine_sees_nothing(live: Live, path: str) -> None:
    port = live.server.server_port
    for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        answer, text = live.ask("GET", path, {"Host": host})
        assert (answer.status, "another name" in text) == (403, True), host
    assert live.ask("GET", path, {"Host": f"localhost:{port}"})[0].status == 200


def test_the_page_runs_its_own_scripts_alone_and_no_frame_holds_it(live: Live) -> None:
    answer, text = live.ask("GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    [nonce] = re.findall(r"script-src 'nonce-([^']+)'", policy)
    assert "frame-ancestors 'none'" in policy
    executed = re.findall(r"<script(?![^>]*application/json)([^>]*)>", text)
    assert executed
    assert all(f'nonce="{nonce}"' in attributes for attributes in executed)
    assert f"nonce-{nonce}" not in live.ask("GET", "/")[0].headers["Content-Security-Policy"]
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cache-Control", "no-store"),
    ):
        assert answer.headers[name] == value


def test_beyond_this_machine_nothing_is_seen_without_the_token(tmp_path: Path) -> None:
    with served(tmp_path / "results", with_token=True) as live:
        access = live.server.access
        assert f"?token={access.token}" in live.server.url
        for path in ("/", "/sections.json", "/status.json", "/plotly.js", "/?token=wrong"):
            assert live.ask("GET", path)[0].status == 403, path
        assert live.stop() == 403
        answer, _ = live.ask("GET", f"/?token={access.token}")
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        cookie, *rest = answer.headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Lax"} <= set(rest)
        assert live.ask("GET", "/", {"Cookie": cookie})[0].status == 200
        assert live.ask("GET", "/", {"Cookie": cookie[:-1]})[0].status == 403
        assert live.stop({"Cookie": cookie}) == 200


@pytest.mark.parametrize(
    "foreign", ['foo={"a":1}', "x=a b", "flag", "bad[]=1", "t=caf\xe9", "a=b=c", "=", "", 'q="a; b"', "cpcnn-1=0"]
)
def test_the_token_is_found_beside_cookies_of_other_programs_of_the_host(foreign: str, tmp_path: Path) -> None:
    with served(tmp_path / "results", with_token=True) as live:
        right = f"{live.server.access.cookie}={live.server.access.token}"
        for cookies, status in (
            (f"{foreign}; {right}", 200),
            (f"{right};{foreign}", 200),
            (f"{foreign}; x{right}", 403),
            (foreign, 403),
        ):
            assert live.ask("GET", "/status.json", {"Cookie": cookies})[0].status == status, cookies


NEAR = ("127.0.0.1", "127.8.9.1", "::1", "localhost")
FAR = ("0.0.0.0", "::", "10.0.0.1", "gpu-box", "localhost.example", "127.0.0.1.example")


@pytest.mark.parametrize("host", [*NEAR, *FAR])
def test_a_token_is_needed_wherever_others_reach(host: str) -> None:
    assert is_loopback(host) == (host in NEAR)
    assert Access(host, 8555).needs_token == (host in FAR)
    assert Access(host, 8555, with_token=True).needs_token
    assert Access(host, 8555).token != Access(host, 8555).token


def test_a_port_that_is_taken_is_said(live: Live) -> None:
    page = LivePage((live.store,), lambda: None)  # type: ignore[return-value]
    with pytest.raises(ServeError, match=r"cannot listen there: Address already in use; --port takes another"):
        Server(page, lambda _store, _trial: None, "127.0.0.1", live.server.server_port)


def test_a_port_that_is_taken_is_said_before_the_page_is_made(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "current", lambda *_, **__: pytest.fail("the page is made"))
    with pytest.raises(ServeError, match="cannot listen there"):
        serving.serve(
            live.store.folder.parent,
            (),
            "val_acc",
            mode=None,
            conditions=(),
            rule="smoothed",
            listen=serving.Listen(port=live.server.server_port),
            stop=lambda _store, _trial: None,
            say=lambda _text: None,
        )


def test_the_tunnel_that_is_advised_leads_to_the_port_that_is_served(live: Live) -> None:
    assert live.server.warning is None
    page = LivePage((live.store,), lambda: None)  # type: ignore[return-value]
    with Server(page, lambda _store, _trial: None, "0.0.0.0", 0) as server:
        port = server.server_port
        assert f"without --host, then ssh -N -L {port}:127.0.0.1:{port} HOST" in str(server.warning)


def test_the_sweep_that_runs_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    add(results, [0.5], sweep="ended")
    add(results, [], sweep="begun", config=RUNNING)
    assert [store.folder.name for store in serving.followed(results, ()).stores] == ["ended"]
    monkeypatch.setattr(serving, "_runs", lambda store: store.folder.name == "begun")
    assert [store.folder.name for store in serving.followed(results, ()).stores] == ["begun"]
    assert [store.folder.name for store in serving.followed(results, ["ended"]).stores] == ["ended"]


# --------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        assert "CI" not in os.environ, "the report is checked in Debian's chromium, which is not installed"
        pytest.skip("needs Debian's chromium")
    with Browser(program, tmp_path_factory.mktemp("browser")) as started:
        yield started


def test_a_browser_shows_a_new_epoch_without_a_reload_keeps_what_is_typed_and_stops_a_trial(
    browser: Browser, live: Live
) -> None:
    browser.open(live.origin + "/", width=1280)
    browser.run("window.here = true; window.confirm = () => true; document.querySelector('#all-trials-filter').focus()")
    browser.type(RUNNING.trial_id)
    cell = f"+document.querySelector('#trial-{RUNNING.trial_id}').cells[5].textContent"
    for epoch in (1, 2):
        live.add_epoch(epoch)
        soon(partial(lambda number: browser.run(cell) == number, epoch))
    assert browser.run("window.here")
    assert browser.run("document.activeElement.value") == RUNNING.trial_id
    assert browser.run("document.querySelectorAll('#all-trials tbody tr:not([hidden])').length") == 1
    browser.run("document.querySelector('[data-stop]').click()")
    soon(lambda: live.stopped)
    assert live.stopped == [("one", RUNNING.trial_id)]
    soon(lambda: "is asked to stop" in browser.run("document.querySelector('#told').textContent"))
    assert browser.problems == []
    assert all(request.startswith(live.origin) for request in browser.requests)


def test_a_foreign_page_in_the_same_browser_stops_nothing(browser: Browser, live: Live, tmp_path: Path) -> None:
    body = json.dumps({"sweep": "one", "trial": RUNNING.trial_id})
    foreign = tmp_path / "foreign.html"
    foreign.write_text(
        f"<script>window.drawn = fetch('{live.origin}/stop', {{method: 'POST', mode: 'no-cors', body: {body!r}}})"
        ".catch(() => 0)</script>"
    )
    browser.open(foreign, width=400)
    assert f"{live.origin}/stop" in browser.requests
    assert live.stopped == []


def test_a_link_with_the_token_that_another_site_shows_opens_the_page(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path / "results", with_token=True) as live:
        mail = tmp_path / "mail.html"
        mail.write_text(f"<script>location.replace({live.server.url!r})</script>")
        browser.open(mail, width=400)
        assert browser.run("location.href") == live.origin + "/"
        assert browser.run("document.querySelector('#all-trials') !== null")
