"""A page that follows its sweeps: made anew whenever their files change, section by section."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from cpcnn_core.errors import CpcnnError
from orchestrator.records import layout, location
from orchestrator.records.processes import driver_of
from orchestrator.records.provenance import moment
from orchestrator.records.store import Store
from orchestrator.views.page import document
from orchestrator.views.page.shown import Shown
from orchestrator.views.page.subject import Subject
from orchestrator.views.state import described, state_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class LivePage:
    """Makes the page in a thread of its own, so that nobody who looks waits for it."""

    def __init__(self, stores: tuple[Store, ...], read: Callable[[], Subject]) -> None:
        self.stores = stores
        self.shown = Shown()
        self._read = read
        self._seen: object = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="page")

    def __enter__(self) -> LivePage:
        """Make it for the first time. Raise StoreError."""
        self._seen = self._changes()
        self.shown = self._made()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                seen = self._changes()
                if seen != self._seen:
                    self.shown = self._made()
                    self._seen = seen
            except (CpcnnError, OSError) as error:
                # A bucket out of reach for a moment: the page says so, and the next look tries again.
                logger.warning("the page is not made anew: %s", error)
                self.shown = replace(self.shown, problem=str(error))

    def _changes(self) -> object:
        """What differs once there is something new: the tables and pictures, what was asked, and who drives."""
        folders = [folder for store in self.stores for folder in (store.trials_folder, store.epochs_folder)]
        found: list[object] = [dict(location.listing(folder)) for folder in folders]
        for store in self.stores:
            found += [location.listing(store.folder).get(layout.SWEEP_FILE), driver_of(store)]
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
        return {"digests": dict(shown.digests), "state": f"{shown.sentence}Looked at {moment():%H:%M:%S} UTC."}

    def status(self) -> dict[str, object]:
        """The object of `status --json`."""
        return dict(described(self.shown.states))
