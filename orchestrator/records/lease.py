"""Being the only one to do something, where a lock on a file does not reach: numbered files in a folder or a bucket.

Whoever wants it makes the file with the next number, which succeeds for one of several (`storage.create`). The highest
number holds. Numbers are never used twice, so one that was passed over finds that out, however long it slept.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cpcnn_core.errors import RunError, UserError
from orchestrator.records import location, provenance
from orchestrator.records.location import Folder, RemoteError, RemotePath

DRIVER = "driver"  # what the lease of a sweep's driver is called

STALE_SECONDS = 90.0
"""A holder that has not been heard of for so long may be passed over."""

BEAT_SECONDS = 15.0
SURE_SECONDS = 45.0  # after its last beat the holder looks again before it writes

_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<number>\d{6})\.json")


class LeaseLostError(RunError):
    """Somebody else holds what this process held."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, or held it last."""

    pid: int
    host: str
    since: str  # UTC, ISO 8601
    kernel: str | None  # tells two machines of the same name apart, and a machine before and after it was started
    work: str | None  # the folder on its machine that goes with the lease
    over: bool = False  # let go of
    token: str = ""  # of one attempt alone: two of one process in one millisecond are alike in all else
    started: int | None = None  # when the process was, in ticks of its machine: another may have the same number later

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this very machine, which has ended."""
        if self.kernel is None or self.kernel != _kernel() or self.host != platform.node():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # somebody else's
        return self.started is not None and self.started != _started(self.pid)

    @property
    def is_of_this_machine(self) -> bool:
        """Whether it was a process of this machine, if perhaps of another container, since it was started."""
        kernel = _kernel()
        if self.kernel is None or kernel is None:
            return self.kernel is kernel and self.host == platform.node()
        return self.kernel.split()[0] == kernel.split()[0]


@dataclass(frozen=True)
class Seen:
    """A lease as a reader finds it."""

    holder: Holder
    silent: float  # seconds since it was last heard of, by the storage's clock and this machine's
    number: int

    @property
    def is_held(self) -> bool:
        """Whether somebody is at work, as far as can be told from here."""
        return not self.holder.over and not self.holder.is_gone and self.silent < STALE_SECONDS

    def is_held_against(self, *, locked: bool) -> bool:
        """The same for one who wants it; `locked`: who has the lock that its holder would have, on this machine."""
        unseen = self.holder.kernel != _kernel() or self.holder.kernel is None  # its processes cannot be asked for
        return self.is_held and not (locked and unseen and self.holder.is_of_this_machine)


class TakenError(UserError):
    """Somebody holds the lease; `seen` says who."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(str(seen.holder))
        self.seen = seen


class Lease:
    """A lease that this process holds. `check` says whether it still does."""

    def __init__(self, folder: Folder, kind: str, number: int, me: Holder) -> None:
        self._folder = folder
        self._kind = kind
        self._number = number
        self._me = me
        self._heard = _clock()
        self._lost: str | None = None
        self._lock = threading.Lock()

    @classmethod
    def taken(
        cls, folder: Folder, kind: str, *, work: str | None = None, locked: bool = False
    ) -> tuple[Lease, Holder | None]:
        """Take a lease that nobody at work holds; with it, who held it last. Raise TakenError, OSError.

        `locked` says that this process has a lock that keeps out all others of this machine.
        """
        earlier = seen(folder, kind, clock=_storage_clock(folder))
        if earlier is not None and earlier.is_held_against(locked=locked):
            raise TakenError(earlier)
        lease, before = cls._next(folder, kind, earlier, work)
        if location.create(_file(folder, kind, lease._number), _content(lease._me)):
            raise RemoteError(
                errno.ENOTSUP,
                "this storage lets two create the same file (a conditional put), so that two drivers would not know of "
                "each other; use one that does not, or a folder",
                str(folder),
            )
        return lease, before

    @classmethod
    def stolen(cls, folder: Folder, kind: str) -> Lease:
        """Take the lease from whoever holds it. Raise OSError."""
        while True:
            with contextlib.suppress(TakenError):  # several steal it at once
                return cls._next(folder, kind, seen(folder, kind), None)[0]

    @classmethod
    def _next(cls, folder: Folder, kind: str, earlier: Seen | None, work: str | None) -> tuple[Lease, Holder | None]:
        pid, token = os.getpid(), uuid.uuid4().hex
        me = Holder(pid, platform.node(), provenance.now(), _kernel(), work, token=token, started=_started(pid))
        number = 1 if earlier is None else earlier.number + 1
        if not location.create(_file(folder, kind, number), _content(me)):
            now = seen(folder, kind)
            if now is None or now.holder != me:  # else our own first try arrived, and its answer did not
                raise TakenError(now or Seen(me, 0.0, number))
        for passed in _numbers(folder, kind):
            if passed < number:
                _file(folder, kind, passed).unlink(missing_ok=True)
        return cls(folder, kind, number, me), None if earlier is None else earlier.holder

    def check(self) -> None:
        """Raise LeaseLostError where another holds it; OSError where that cannot be found out and time is up."""
        with self._lock:
            if self._lost is None and _clock() - self._heard > SURE_SECONDS:
                self._look(self._folder)
            if self._lost is not None:
                raise LeaseLostError(self._lost)

    def look(self) -> None:
        """`check`, without trusting what was known a moment ago."""
        with self._lock:
            self._look(self._folder)
            if self._lost is not None:
                raise LeaseLostError(self._lost)

    def beat(self) -> None:
        """Show that this process lives. Raise as `look` does."""
        with self._lock:
            location.touch(self._mine(), _content(self._me))

    def release(self) -> None:
        """Let go of it, unless another has it already. Raise OSError."""
        with contextlib.suppress(LeaseLostError), self._lock:
            content = _content(replace(self._me, over=True))
            location.write_atomically(self._mine(), lambda stream: stream.write(content))

    def _look(self, folder: Folder) -> None:
        begun = _clock()
        highest = max(_numbers(folder, self._kind), default=0)
        if highest != self._number:
            now = seen(folder, self._kind)
            self._lost = "it was deleted" if now is None else str(now.holder)
        else:
            self._heard = begun

    def _mine(self) -> Folder:
        """The file of this lease. Raise LeaseLostError."""
        # The next beat is the next try.
        folder = replace(self._folder, patience=0.0) if isinstance(self._folder, RemotePath) else self._folder
        self._look(folder)
        if self._lost is not None:
            raise LeaseLostError(self._lost)
        return _file(folder, self._kind, self._number)


class Beating:
    """A thread that keeps a lease fresh, and does something else now and then."""

    def __init__(self, lease: Lease, *, meanwhile: Callable[[], None] = lambda: None, every: float = math.inf) -> None:
        self._lease = lease
        self._meanwhile = meanwhile
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + self._every
        while not self._over.wait(BEAT_SECONDS):
            # Whoever writes next finds out that the lease is lost, or for how long nothing was heard.
            with contextlib.suppress(OSError, LeaseLostError):
                self._lease.beat()
            if time.monotonic() >= due:
                due = time.monotonic() + self._every
                self._meanwhile()


def seen(folder: Folder, kind: str, *, clock: Callable[[], float] = time.time) -> Seen | None:
    """Who holds the lease, or held it last; None where nobody ever did. Raise OSError."""
    while number := max(_numbers(folder, kind), default=0):
        file = _file(folder, kind, number)
        try:
            content = json.loads(file.read_bytes())
            return Seen(Holder(**content), max(0.0, clock() - location.modified(file)), number)
        except FileNotFoundError:
            continue  # passed over between one look and the next
        except (ValueError, TypeError):
            unknown = Holder(0, "an unknown machine", "an unknown time", None, None)
            return Seen(unknown, max(0.0, clock() - location.modified(file)), number)
    return None


def _storage_clock(folder: Folder) -> Callable[[], float]:
    """The clock by which the storage says when a file was written; this machine's may differ."""

    def now() -> float:
        probe = folder / f".clock-{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        try:
            return location.modified(probe)
        finally:
            probe.unlink(missing_ok=True)

    return now


def _numbers(folder: Folder, kind: str) -> list[int]:
    found = (_NAME.fullmatch(name) for name in location.names(folder))
    return [int(match["number"]) for match in found if match and match["kind"] == kind]


def _file(folder: Folder, kind: str, number: int) -> Folder:
    return folder / f"{kind}-{number:06d}.json"


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _clock() -> float:
    # One that goes on while the machine sleeps, since the others' does; outside of Linux the usual one is.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _kernel() -> str | None:
    """This machine since it was started, and the numbers that its processes have in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process of this machine was started, in ticks since the machine was; None where it is dead or unknown."""
    try:
        # The name, which may hold anything, ends at the last bracket; the fields after it begin with the third.
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return None if state in {"Z", "X"} else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
