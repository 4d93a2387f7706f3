"""`cpcnn stop`: refused where nothing runs, else a file that the driver follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpcnn_core.config import TrialConfig
from orchestrator import stop
from orchestrator.records import lease
from orchestrator.records.columns import attempt_of
from orchestrator.records.lease import Lease
from orchestrator.records.states import MEANINGS, State
from orchestrator.records.store import Attempt, Store
from tests.support.times import at

CONFIG = TrialConfig()
ID = CONFIG.trial_id


def held(results: Path, state: State, *, sweep: str = "one", number: int | None = 0) -> Store:
    """A sweep with a trial in this state."""
    store = Store(results / sweep)
    store.create()
    attempt = Attempt(
        trial_id=ID, attempt=1, number=number, state=state, started=at(), epochs=3, host="there", device="cpu", pid=7
    )
    store.write_attempt(attempt, CONFIG)
    return store


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Store]:
    """A sweep that this process drives."""
    store = held(tmp_path, "RUNNING")
    taken, _ = Lease.taken(store.folder, lease.DRIVER)
    yield store
    taken.release()


def asked(results: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(stop.app, [ID[:6], "--results", str(results), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output, done.stderr


def requests(store: Store) -> list[str]:
    return [file.stem for file in (store.folder / "stop").glob("*.json")]


def test_the_driver_is_asked_and_what_became_of_it_is_said(driven: Store) -> None:
    def follow() -> None:
        while ID not in requests(driven):
            time.sleep(0.05)
        [row] = driven.attempts_of(ID)
        driven.write_attempt(replace(attempt_of(row), state="STOPPED", ended=at()), CONFIG)

    driver = threading.Thread(target=follow, daemon=True)
    driver.start()
    code, said, _ = asked(driven.folder.parent)
    driver.join()
    assert code == 0, said
    assert f"Trial {ID} is STOPPED after 3 epochs; the sweep goes on without it." in said
    assert f"trial --from {ID} --more-epochs 1" in said
    assert requests(driven) == []


def test_one_that_nobody_follows_in_time_stays_a_request(driven: Store) -> None:
    code, _, said = asked(driven.folder.parent, "--wait", "0")
    assert code == 1
    assert f"trial {ID}: has not ended within 0 s. The request stays" in said
    assert requests(driven) == [ID]


@pytest.mark.parametrize("state", [state for state, meaning in MEANINGS.items() if meaning.ended])
def test_a_trial_that_has_ended_is_refused(driven: Store, state: State) -> None:
    held(driven.folder.parent, state)
    code, _, said = asked(driven.folder.parent)
    assert (code, said) == (2, f"error: trial {ID}: is {state} in one; only a trial that runs can be stopped\n")
    assert requests(driven) == []


@pytest.mark.parametrize("state", ["RUNNING", "INTERRUPTED"])
def test_without_a_driver_it_is_refused(tmp_path: Path, state: State) -> None:
    store = held(tmp_path, state)
    code, _, said = asked(tmp_path)
    assert code == 2
    assert f"trial {ID}: is {state} in {store.folder}, which nothing runs now" in said
    taken, _ = Lease.taken(store.folder, lease.DRIVER)
    taken.release()
    code, _, said = asked(tmp_path)
    assert code == 2
    assert "is gone. The command of the sweep would go on with it" in said
    assert not (store.folder / "stop").exists()


def test_one_that_was_begun_by_hand_is_refused_with_its_process(driven: Store) -> None:
    held(driven.folder.parent, "RUNNING", number=None)
    code, _, said = asked(driven.folder.parent)
    assert code == 2
    assert "was begun by hand" in said
    assert "pid 7 on there" in said


def test_an_unknown_one_and_one_of_several_sweeps(driven: Store) -> None:
    results = driven.folder.parent
    unknown = CliRunner().invoke(stop.app, ["ffffff", "--results", str(results)])
    assert unknown.exit_code == 2
    assert f"error: {results}: no trial ffffff; `" in unknown.stderr
    held(results, "RUNNING", sweep="two")
    code, _, said = asked(results)
    assert (code, said) == (2, f"error: trial {ID}: runs in one, two; say which with --sweep\n")
    assert asked(results, "--sweep", "two")[0] == 2  # which has no driver
    assert asked(results, "--sweep", "one", "--wait", "0")[0] == 1
    held(results, "COMPLETE", sweep="two")
    assert asked(results, "--wait", "0")[0] == 1  # the only one that runs it
    assert requests(driven) == [ID]
