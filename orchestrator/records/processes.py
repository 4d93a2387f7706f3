"""Whose processes run a sweep and its trials, and whether they are still there."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field

import psutil

from orchestrator.records import lease
from orchestrator.records.store import Row, Store, as_int, as_time

_CLOCKS_DIFFER_SECONDS = 60.0  # at most, that of the kernel and the one that rows go by


@dataclass(frozen=True)
class Driver:
    """Who runs a sweep, or ran it last."""

    holder: str
    alive: bool | None  # None: it runs, or ran, on another machine, which cannot be asked from here
    silent: float | None = field(default=None, compare=False)  # seconds; it is the same driver at each look

    @property
    def who(self) -> str:
        """Its process, and when one on another machine was last heard of."""
        return self.holder if self.silent is None else f"{self.holder}, heard of {self.silent:.0f} s ago"


def driver_of(store: Store) -> Driver | None:
    """Whoever holds the sweep, or held it last; None where nobody did."""
    found = lease.seen(store.folder, lease.DRIVER)
    if found is None:
        return _before_leases(store)
    if found.is_held:
        return Driver(str(found.holder), True, None if found.holder.is_of_this_machine else found.silent)
    return Driver(str(found.holder), False)


def _before_leases(store: Store) -> Driver | None:
    """The same of a sweep on a disk whose last driver was of a release that left another file."""
    try:
        content = json.loads((store.folder / "driver.json").read_bytes())
        who = f"pid {content['pid']} on {content['host']}, since {content['since']}"
        return Driver(who, None if content["host"] != platform.node() else psutil.pid_exists(int(content["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(trial: Row) -> bool | None:
    """Whether the trial's process runs; None where that cannot be told from here."""
    if trial["pid"] is None or trial["host"] != platform.node():
        return None
    try:
        process = psutil.Process(as_int(trial["pid"]))
        begun = as_time(trial["started"]).timestamp()
        # One that was started later has the number of one that has ended.
        is_its = bool(process.create_time() < begun + _CLOCKS_DIFFER_SECONDS)
        return is_its and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # somebody else's
