"""What holds for every test: one thread of torch per process, since the suite runs one process per core; and signals
as a terminal leaves them, whoever started the suite: under `nohup`, or in the background of a script, some are ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import hypothesis
import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.pop("COLUMNS", None)  # xdist sets it; what is printed in a test is as wide as it is in a pipe

# A busy machine, or one that measures coverage, is slow now and then; a hang is what pytest's timeout is for.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
torch.set_num_threads(1)

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        choices=("all", "first", "others"),
        default="all",
        help="first: of each test of units and contracts its first case (set of parameters), of which coverage is "
        "measured, since the others hardly execute another line, unless it is marked `unmeasured`; others: all others.",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what `--cases` names; a test without parameters is a first case."""
    wanted = config.getoption("--cases")
    if wanted == "all":
        return
    seen: set[str] = set()
    kept: dict[str, list[pytest.Item]] = {"first": [], "others": []}
    for item in items:
        test = item.nodeid.partition("[")[0]
        measured = test.startswith(("tests/unit/", "tests/contract/")) and test not in seen
        measured = measured and item.get_closest_marker("unmeasured") is None
        kept["first" if measured else "others"].append(item)
        seen.add(test)
    items[:] = kept.pop(wanted)
    config.hook.pytest_deselected(items=[item for left in kept.values() for item in left])


@pytest.fixture(autouse=True)
def _traced_as_before() -> Iterator[None]:
    """A debugger takes every trace function away when it is left, that which measures coverage too."""
    before = sys.gettrace()
    yield
    if sys.gettrace() is not before:
        sys.settrace(before)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """What trains or plans takes as many threads of torch as it was given, and keeps them."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
