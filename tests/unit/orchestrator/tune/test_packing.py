"""How many trials share a GPU: what is measured, what follows, and what becomes of it where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpcnn_core.memory import CONTEXT_BYTES
from orchestrator.machines.cluster import Cluster, ClusterError, Kind, Node
from orchestrator.machines.resources import Resources
from orchestrator.search import space
from orchestrator.search.space import SearchSpace
from orchestrator.tune import packing, throughput
from orchestrator.tune.packing import Measured
from orchestrator.tune.plan import SweepError
from orchestrator.tune.throughput import ProbeError, Ready
from tests.support.gpus import FOLDER, GIB
from tests.support.mps import StandIn, stand_in

__all__ = ["stand_in"]

SPACE = """
from search_spaces import ints
space = {"model.nr_filters": ints(4, 8, step=4)}
settings = {
    "data.name": "digits", "model.nr_resnet": 1, "model.nr_logistic_mix": 1, "train.batch_size": 8,
    "eval.batch_size": 40, "eval.fid_every": 1, "eval.fid_extractor": "classifier", "eval.fid_images_per_class": 2,
}
trials = 1
objective = "val_acc"
resources = {"gpus": "auto"}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> SearchSpace:
    file = tmp_path / "tiny.py"
    file.write_text(SPACE)
    return space.read(file, [], seed=0)


@dataclass
class Fake:
    """Processes on a GPU of 80 GiB of which `used` are another user's."""

    rates: Mapping[int, float]
    gib: float
    used: float = 0.0
    error: str = "CUDA out of memory"
    count: int = 0

    def grow(self, count: int) -> list[Ready]:
        new, self.count = count - self.count, count
        if count not in self.rates:
            raise ProbeError(self.error)
        free = (80 - self.used) * GIB - CONTEXT_BYTES
        left = (80 - self.used - count * self.gib) * GIB
        return [Ready("A100", int(free), int(left), None)] * new

    def steps_per_second(self) -> float:
        return self.rates[self.count]


@pytest.fixture
def measured(tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    def run(rates: Mapping[int, float], gib: float, cores: float = 64, **more: Any) -> Measured:
        @contextmanager
        def started(*_: object, **__: object) -> Generator[Fake]:
            yield Fake(rates, gib, **more)

        monkeypatch.setattr(throughput, "started", started)
        return packing.probe(tiny, cores)

    return run


DOUBLING = {1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0, 16: 160.0, 32: 320.0, 64: 640.0}


@pytest.mark.parametrize(
    ("rates", "gib", "cores", "trials", "tried"),
    [
        (DOUBLING, 4.0, 64, 16, [1, 2, 4, 8, 16]),  # 80 / (1.2 x 4) is 16
        (DOUBLING, 4.0, 6, 6, [1, 2, 4, 6]),
        (DOUBLING, 30.0, 64, 2, [1, 2]),
        (DOUBLING, 70.0, 64, 1, [1]),
        (DOUBLING, 4.0, 0.5, 1, [1]),
        ({1: 154, 2: 213, 4: 286, 8: 331, 16: 333}, 1.0, 64, 8, [1, 2, 4, 8, 16]),
        ({1: 35, 2: 33}, 1.0, 64, 1, [1, 2]),  # in turns: it gains nothing
        ({1: 35, 2: 36, 4: 90}, 1.0, 64, 1, [1, 2]),
    ],
)
def test_so_many_share_a_gpu_as_gain_something_and_fit(
    measured: Callable[..., Measured],
    rates: dict[int, float],
    gib: float,
    cores: float,
    trials: int,
    tried: list[int],
) -> None:
    rates |= {6: 60.0} if cores == 6 else {}
    found = measured(rates, gib, cores)
    assert [count for count, _ in found.rates] == tried
    assert found.trials == trials
    resources = found.packed(Resources.of({"gpus": "auto"}))
    assert resources.share({"CPU": 4.0 * max(1, cores), "GPU": 4.0}, 1000).concurrent == 4 * trials
    assert f"So {trials} trials run at once on each" in found.sentence()


def test_free_memory_counts_and_not_what_others_hold(measured: Callable[..., Measured]) -> None:
    assert measured(DOUBLING, 4.0).trials == 16
    assert measured(DOUBLING, 4.0, used=60.0).trials == 4
    assert measured(DOUBLING, 4.0, used=60.0).sentence().count("of the 20.0 GiB that are free") == 1


def test_what_fails_with_more_of_them_ends_the_search(measured: Callable[..., Measured]) -> None:
    found = measured({1: 10.0, 2: 20.0}, 1.0, error="AcceleratorError: devices are busy")
    assert (found.trials, found.stopped) == (2, "AcceleratorError: devices are busy")
    alone = measured({}, 1.0)
    assert alone.trials == 1
    assert "does not fit" in alone.sentence()
    with pytest.raises(SweepError, match="could not be trained for a moment: ConfigError: no driver"):
        measured({}, 1.0, error="ConfigError: no driver")


def test_measuring_trains_in_processes_that_share_a_device(
    tiny: SearchSpace, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.let("refuses")
    counted = tmp_path / "counted"
    counted.mkdir()
    monkeypatch.setenv(FOLDER, str(counted))
    found = packing.probe(tiny, 2, device="tests.support.gpus:StandIn", seconds=0.1)
    assert [trials for trials, rate in found.rates if rate > 0] == [1, 2]
    assert found.gpu == "a stand-in"
    assert (found.free_bytes, len(list(counted.iterdir()))) == (10 * GIB + CONTEXT_BYTES, 2)
    assert found.trial_bytes == (2 * GIB + CONTEXT_BYTES) // 2
    assert not found.mps
    assert "no permission" in str(found.without_mps)
    assert len(stand_in.told) == 1


def test_a_process_that_fails_says_why(tiny: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "not there"))
    with pytest.raises(SweepError, match="trained for a moment: FileNotFoundError"):
        packing.probe(tiny, 2, device="tests.support.gpus:StandIn", use_mps=False, seconds=0.1)


HEAD = Node("0", "10.0.0.1", {"CPU": 0.0}, {})
CPUS = Node("1", "10.0.0.2", {"CPU": 64.0}, {})
A100 = Node("2", "10.0.0.3", {"CPU": 16.0, "GPU": 2.0, "accelerator_type:A100": 1.0}, {})
L4 = Kind("l4", {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1}, 4)


@pytest.mark.parametrize(
    ("nodes", "kinds", "extra", "cores"),
    [
        ([HEAD, CPUS, A100], [], {}, 8.0),  # nodes without a GPU have no say
        ([HEAD, A100], [L4], {}, 4.0),
        ([HEAD, A100], [L4], {"accelerator_type:A100": 0.001, "memory": 1.0}, 8.0),
        ([HEAD], [], {}, 1.0),
    ],
)
def test_the_cores_beside_a_gpu_are_those_of_its_node(
    nodes: list[Node], kinds: list[Kind], extra: dict[str, float], cores: float
) -> None:
    assert packing.cores_beside(Cluster(nodes, kinds), extra) == cores


def test_a_kind_of_gpu_that_there_is_none_of_is_said_at_once(tiny: SearchSpace) -> None:
    with pytest.raises(ClusterError, match="no node has a GPU of type H100"):
        packing.measure(tiny, Cluster([HEAD, A100]), {"accelerator_type:H100": 0.001}, wait_seconds=60)


class FakeRay:
    """As much of Ray as measuring uses: a GPU is `free` or not, and what is asked of it is answered at once."""

    def __init__(self, free: bool, answer: object) -> None:
        self.free, self.answer, self.killed = free, answer, 0
        self.asked: dict[str, object] = {}
        self.exceptions = SimpleNamespace(RayActorError=type("RayActorError", (Exception,), {}), RayTaskError=TaskError)

    def remote(self, _kind: type) -> Any:
        asks = SimpleNamespace(remote=lambda *_: "a promise")
        actor = SimpleNamespace(is_there=asks, probe=asks)

        def options(**asked: object) -> Any:
            self.asked = asked
            return SimpleNamespace(remote=lambda: actor)

        return SimpleNamespace(options=options)

    def wait(self, promises: list[object], timeout: float) -> tuple[list[object], list[object]]:
        del timeout
        return (promises, []) if self.free else ([], promises)

    def get(self, _promise: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def kill(self, _actor: object) -> None:
        self.killed += 1


class TaskError(Exception):
    """What Ray raises for what a process raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def put(*, free: bool = True, answer: object = None) -> FakeRay:
        fake: Any = FakeRay(free, answer)
        monkeypatch.setitem(sys.modules, "ray", fake)
        monkeypatch.setitem(sys.modules, "ray.exceptions", fake.exceptions)
        found: FakeRay = fake
        return found

    return put


ASKED = {"accelerator_type:A100": 0.001, "memory": 2.0**30}
WITH_MEMORY = Cluster([Node("2", "10.0.0.3", {**A100.resources, "memory": 2.0**36}, {})])


def test_measuring_goes_to_the_kind_of_gpu_that_is_asked_for(tiny: SearchSpace, ray: Callable[..., FakeRay]) -> None:
    answer = Measured("A100", 1, 1, ((1, 1.0),))
    fake = ray(answer=answer)
    assert packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=60) is answer
    assert fake.asked == {
        "num_cpus": 1,
        "num_gpus": 1,
        "resources": {"accelerator_type:A100": 0.001},
        "memory": 2.0**30,
    }
    assert fake.killed == 1


def test_measuring_does_not_wait_for_ever(tiny: SearchSpace, ray: Callable[..., FakeRay]) -> None:
    fake = ray(free=False)
    with pytest.raises(
        ClusterError, match=r"no GPU was free to measure on for 0.0005 minutes.*\n  10\.0\.0\.3 has 16 cores"
    ):
        packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=0.03)
    with pytest.raises(KeyboardInterrupt):
        packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=60, is_stopping=lambda: True)
    assert fake.killed == 2


def test_a_gpu_is_looked_for_once_however_short_the_wait(tiny: SearchSpace, ray: Callable[..., FakeRay]) -> None:
    answer = Measured("A100", 1, 1, ((1, 1.0),))
    ray(answer=answer)
    assert packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=0) is answer
    ray(free=False)
    with pytest.raises(ClusterError, match="no GPU was free to measure on"):
        packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=0)


def test_what_goes_wrong_in_measuring_is_said(tiny: SearchSpace, ray: Callable[..., FakeRay]) -> None:
    ray(answer=TaskError(SweepError("the driver is too old")))
    with pytest.raises(SweepError, match="the driver is too old"):
        packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=60)
    fake = ray()
    fake.answer = fake.exceptions.RayActorError("it was\nkilled")
    with pytest.raises(SweepError, match="the process that measured died: it was killed"):
        packing.measure(tiny, WITH_MEMORY, ASKED, wait_seconds=60)
