"""Serves the page of a sweep while it runs, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.choosing import selection
from orchestrator.choosing.rules import Rule
from orchestrator.choosing.selection import Selection
from orchestrator.choosing.where import Condition
from orchestrator.objectives.objective import Direction
from orchestrator.process import signals
from orchestrator.records.location import Folder
from orchestrator.records.processes import driver_of
from orchestrator.records.store import Store, sweeps
from orchestrator.views.page.live import LivePage
from orchestrator.views.page.server import Server, Stop
from orchestrator.views.page.subject import current

PORT = 8555


@dataclass(frozen=True)
class Listen:
    """Where to serve, and whether a token is needed on this machine too."""

    host: str = "127.0.0.1"
    port: int = PORT
    with_token: bool = False


def serve(
    results: Folder,
    names: Sequence[str],
    metric: str,
    *,
    mode: Direction | None,
    conditions: Sequence[Condition],
    rule: Rule,
    listen: Listen,
    stop: Stop,
    say: Callable[[str], None],
) -> None:
    """Serve the page, and say where. Raise ChoiceError, WhereError, StoreError, ServeError."""
    selected = followed(results, names)
    read = partial(current, selected, metric, mode=mode, conditions=conditions, rule=rule)
    page = LivePage(selected.stores, read)
    # It listens first: that a port is taken is said before the page is made, which takes seconds.
    with Server(page, stop, listen.host, listen.port, with_token=listen.with_token) as server, page:
        say(f"{', '.join(store.folder.name for store in selected.stores)}: {server.url} (Ctrl-C ends it)")
        if server.warning is not None:
            say(server.warning)
        try:
            with signals.as_interrupts():
                server.serve_forever()
        except KeyboardInterrupt:
            say("Not served any more.")


def followed(results: Folder, names: Sequence[str]) -> Selection:
    """The sweeps of these names; without one the sweep that runs, even before its first epoch, if it is the only one.

    Else those of the latest question. Raise ChoiceError where there is none.
    """
    running = [] if names else [store for store in sweeps(results) if _runs(store)]
    return Selection(tuple(running), "sweep") if len(running) == 1 else selection.select(results, names)


def _runs(store: Store) -> bool:
    driver = driver_of(store)
    return driver is not None and bool(driver.alive)
