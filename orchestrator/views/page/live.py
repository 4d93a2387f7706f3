"""A page that follows its sweeps: made anew whenever their files change, section by section."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from cpcnn_core.errors import CpcnnError
from orchestrator.records import layout, location
from orchestrator.records.processes import Driver, driver_of
from orchestrator.records.provenance import moment
from orchestrator.records.store import Store
from orchestrator.views.page import document
from orchestrator.views.page.shown import Shown
from orchestrator.views.page.subject import Subject
from orchestrator.views.state import SweepState, described, state_of

logger = logging.getLogger(__name__)

LOOK_SECONDS, REMOTE_LOOK_SECONDS = 0.5, 5.0  # between two looks; in a bucket each is several requests


class LivePage:
    """Makes the page in a thread of its own, so that nobody who looks waits for it."""

    def __init__(self, stores: tuple[Store, ...], read: Callable[[], Subject]) -> None:
        self.stores = stores
        self.shown = Shown()
        self._read = read
        self._every = REMOTE_LOOK_SECONDS if any(store.is_remote for store in stores) else LOOK_SECONDS
        self._seen: object = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="page")

    def __enter__(self) -> LivePage:
        """Make it for the first time. Raise StoreError."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._look()
            except (CpcnnError, OSError) as error:
                # A bucket out of reach for a moment: the page says so, and the next look tries again.
                self._complain(str(error))
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave an old page that looks new
                self._complain(f"{type(error).__name__}: {error}", error)

    def _look(self) -> None:
        """Make the page anew where something has changed, and note that what is shown is true now."""
        now = moment()
        drivers = [driver_of(store) for store in self.stores]
        seen = (drivers, self._changes())
        made = self._made() if seen != self._seen else self.shown
        self._seen = seen
        self.shown = replace(made, states=_driven(made.states, drivers), looked=now, problem=None)

    def _complain(self, problem: str, unforeseen: Exception | None = None) -> None:
        """Say on the page, and once in the log, why it is not made anew."""
        if problem != self.shown.problem:
            logger.warning("the page is not made anew: %s", problem, exc_info=unforeseen)
        self.shown = replace(self.shown, problem=problem)

    def _changes(self) -> object:
        """What differs once there is something new, besides who drives: the tables, pictures, and what was asked."""
        folders = [folder for store in self.stores for folder in (store.trials_folder, store.epochs_folder)]
        found: list[object] = [dict(location.listing(folder)) for folder in folders]
        for store in self.stores:
            found.append(location.listing(store.folder).get(layout.SWEEP_FILE))
            found.append(sorted(location.names(store.folder / layout.PICTURES)))
        return found

    def _made(self) -> Shown:
        subject = self._read()
        made = tuple(document.sections(subject, live=True))
        inner = {section.id: document.section_html(section, live=True) for section in made}
        digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in inner.items()}
        return Shown(document.title(subject), made, inner, digests, tuple(map(state_of, self.stores)))

    def changed_since(self) -> dict[str, object]:
        """What a page compares itself with."""
        shown = self.shown
        return {"digests": dict(shown.digests), "state": f"{shown.sentence}{shown.looked_at}"}

    def status(self) -> dict[str, object]:
        """The object of `status --json`."""
        return dict(described(self.shown.states))


def _driven(states: Sequence[SweepState], drivers: Sequence[Driver | None]) -> tuple[SweepState, ...]:
    """The same with when each driver was last heard of, which differs at each look and changes nothing of the page."""
    return tuple(
        replace(state, driver=None if driver is None else driver.who)
        for state, driver in zip(states, drivers, strict=True)
    )
