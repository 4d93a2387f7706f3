"""What is done about a cluster while a sweep runs on it, with Ray's answers made up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.machines.cluster import PRICE, Cluster, ClusterError, CostMeter, Kind, Needs, Node, Patience
from orchestrator.machines.resources import Share
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import space
from orchestrator.tune import watching
from orchestrator.tune.plan import Plan
from orchestrator.tune.tuning import Halt
from tests.support.paths import ROOT

VERSIONS = {"torch": "2.15.0"}
FIRST = Node("1", "10.0.0.1", {"CPU": 2.0}, {PRICE: "3.6"})
SECOND = Node("2", "10.0.0.2", {"CPU": 2.0, "GPU": 1.0}, {PRICE: "7.2"})


@dataclass
class Trial:
    status: str


@dataclass
class World:
    """A cluster whose clock, nodes and answers a test sets."""

    now: float = 100.0
    cluster: Cluster = field(default_factory=lambda: Cluster([FIRST]))
    versions: dict[str, str | None] | None = None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    class FakeRay:
        exceptions = ray.exceptions

        @staticmethod
        def wait(refs: list[object], timeout: float) -> tuple[list[object], list[object]]:
            return refs, []

        @staticmethod
        def get(ref: object, timeout: float | None = None) -> tuple[object, list[str]]:
            return made.versions or VERSIONS, []

        available_resources = staticmethod(lambda: {"GPU": 1.0})

    monkeypatch.setattr(watching, "ray", FakeRay)
    monkeypatch.setattr(watching, "_ask", lambda node, needs: node.id)
    monkeypatch.setattr(watching, "look", lambda: made.cluster)
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


Make = Callable[..., watching.Watch]


@pytest.fixture
def make(world: World, tmp_path: Path) -> Make:
    def made(*, limit: float | None = None, minutes: float = 2, **request: float) -> watching.Watch:
        store = Store(tmp_path / "one")
        store.create()
        store.write_sweep(SweepRecord.model_validate({"runs": [{"cost": 1.0}, {}]}))
        meter = CostMeter(1.0, limit=limit)
        asked: dict[str, float] = {"CPU": 1.0, **request}
        needs = Needs(VERSIONS, ())
        return watching.Watch(asked, needs, world.cluster, meter, Patience(minutes), watching._Bill(store, 1.0))

    return made


def step(watch: watching.Watch, *states: str) -> str | None:
    """Let the watch look around; return why it halts, None where it does not."""
    trials: list[Any] = [Trial(state) for state in states]
    try:
        watch.on_step_end(0, trials)
    except Halt:
        with pytest.raises(ClusterError) as raised:
            watch.end()
        return str(raised.value)
    return None


def test_a_sweep_whose_trials_run_is_left_alone(world: World, make: Make) -> None:
    watch = make()
    for _ in range(100):
        world.now += 60
        assert step(watch, "RUNNING", "PENDING") is None


def test_a_sweep_that_finds_no_place_says_who_holds_what(world: World, make: Make) -> None:
    watch = make(minutes=2)
    assert step(watch, "PENDING") is None
    world.now += 119
    assert step(watch, "PENDING") is None
    world.now += 6
    said = step(watch, "PENDING")
    assert said is not None
    assert "no trial has found a place for 2 minutes" in said
    assert "others hold all of CPU" in said
    assert "10.0.0.1 has 2 cores" in said


def test_a_sweep_whose_only_gpu_is_gone_says_that_a_gpu_is_missing(world: World, make: Make) -> None:
    world.cluster = Cluster([FIRST, SECOND])
    watch = make(minutes=1, GPU=1.0)
    assert step(watch, "RUNNING") is None
    world.cluster = Cluster([FIRST])
    for _ in range(3):
        world.now += 30
        said = step(watch, "PENDING")
    assert said is not None
    assert "asks for 1 core, 1 GPU, and no node has 1 GPU" in said


def test_a_node_that_joins_with_other_versions_is_refused_with_the_list(world: World, make: Make) -> None:
    watch = make()
    world.cluster = Cluster([FIRST, SECOND])
    world.versions = {"torch": "2.11.0"}
    said = step(watch, "RUNNING")
    assert said == "10.0.0.2 joined the cluster and does not fit this driver:\n  torch: 2.15.0 here, 2.11.0 there"


def test_a_node_that_joins_and_fits_is_asked_once(world: World, make: Make) -> None:
    watch = make()
    world.cluster = Cluster([FIRST, SECOND])
    assert step(watch, "RUNNING") is None
    world.versions = {"torch": "2.11.0"}  # would be refused, were it asked again
    world.now += 60
    assert step(watch, "RUNNING") is None


def test_the_cost_is_written_down_and_ends_the_sweep_at_its_limit(world: World, make: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    watch = make(limit=2.0)  # of which an earlier run spent 1
    world.now += 100
    assert step(watch, "RUNNING") is None
    assert json.loads(store.sweep_file.read_text()) == {
        "runs": [{"cost": 1.0}, {"cost": 0.1, "price_per_hour": 3.6, "max_cost": 2.0}]
    }
    world.cluster = Cluster([FIRST, SECOND])
    world.now += 100
    assert step(watch, "RUNNING") is None
    world.now += 300  # at 10.8 an hour
    said = step(watch, "RUNNING")
    assert said is not None
    assert "the sweep has cost 2.10, which is what --max-cost allows" in said
    assert json.loads(store.sweep_file.read_text()) == {
        "runs": [{"cost": 1.0}, {"cost": 1.1, "price_per_hour": 0.0, "max_cost": 2.0}]
    }


def test_nodes_that_do_not_fit_are_all_told_before_anything_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cluster = Cluster([FIRST, SECOND])
    answers = {"1": ({"torch": "2.11.0"}, []), "2": (VERSIONS, ["/shared/results"])}
    monkeypatch.setattr("orchestrator.tune.watching.ray.get", lambda ref, timeout=None: answers[ref], raising=False)
    with pytest.raises(ClusterError) as raised:
        watching.check(world.cluster, Needs(VERSIONS, (("/shared/results", "the results"),)))
    said = str(raised.value)
    assert "10.0.0.1 does not fit this driver:\n  torch: 2.15.0 here, 2.11.0 there" in said
    assert "10.0.0.2 does not fit this driver:\n  it does not see /shared/results, where the results are" in said
    answers["1"] = answers["2"] = (VERSIONS, [])
    watching.check(world.cluster, Needs(VERSIONS, ()))


def test_a_limit_that_no_price_would_ever_reach_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cluster = Cluster([Node("1", "10.0.0.1", {"CPU": 2.0}, {})])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    plan = Plan("one", space.read(ROOT / "search_spaces" / "digits.py"), tmp_path, trials=2, max_cost=5.0)
    with pytest.raises(ClusterError, match="--max-cost 5: no node has a price, so that it would end nothing"):
        watching.begin(plan, Store(tmp_path), Share(1, 0.0, 1), {})
    world.cluster = Cluster([FIRST])
    assert watching.begin(plan, Store(tmp_path), Share(1, 0.0, 1), {}) == (Share(1, 0.0, 1), None)


def test_what_may_come_is_read_from_what_ray_up_left_on_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert watching._kinds() == ()
    gpu = ROOT / "cluster" / "gpu.yaml"
    (tmp_path / "ray_bootstrap_config.yaml").write_text(gpu.read_text())
    assert watching._kinds() == (Kind("gpu", {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}, 4, 0.3),)
