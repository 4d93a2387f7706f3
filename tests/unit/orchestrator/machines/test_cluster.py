"""What a cluster has and costs, and what is said of one that will not do. No Ray runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cpcnn_core.config import TrialConfig
from orchestrator import sweep
from orchestrator.machines import cluster_file, launch
from orchestrator.machines.cluster import (
    PRICE,
    Cluster,
    ClusterError,
    CostMeter,
    Kind,
    Needs,
    Node,
    Patience,
    differences,
    extra_resources,
    price_of,
)
from orchestrator.machines.resources import Resources
from orchestrator.records import provenance
from orchestrator.search import space
from orchestrator.search.budget import Budget
from orchestrator.text.names import identifier
from orchestrator.tune import dry_run, forecast, probing
from orchestrator.tune.plan import Plan
from tests.support.paths import ROOT

GIB = 2**30


def node(address: str, labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(address, address, resources, labels or {})


HEAD = node("10.0.0.1", {PRICE: "0.25", "ray.io/node-group": "head"}, memory=8 * GIB)
SMALL = node("10.0.0.2", CPU=2, memory=4 * GIB)
LARGE = node("10.0.0.3", {}, CPU=8, GPU=1, memory=64 * GIB, **{"accelerator_type:A100": 1})
GPUS = Kind("gpu", {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}, most=3, price=0.5)


def test_what_may_come_counts_once() -> None:
    one_is_there = node("10.0.0.9", {"ray.io/node-group": "gpu", PRICE: "0.5"}, CPU=4, GPU=1)
    for nodes in ([HEAD], [HEAD, one_is_there]):
        cluster = Cluster(nodes, [GPUS])
        assert (cluster.totals()["CPU"], cluster.totals()["GPU"]) == (12, 3)
        assert cluster.highest_price == 1.75
    assert Cluster([HEAD, one_is_there], [GPUS]).price == 0.75
    assert Cluster([HEAD]).totals()["CPU"] == 0  # a key that whoever shares it out may rely on
    assert Cluster([SMALL, LARGE], [GPUS]).most_cores() == 8


@pytest.mark.parametrize(
    ("nodes", "kinds", "request_", "says"),
    [
        ([SMALL, LARGE], [], {"CPU": 8, "GPU": 1}, None),
        ([HEAD], [GPUS], {"CPU": 4, "GPU": 1}, None),  # none is there yet
        ([HEAD], [GPUS], {"CPU": 4, "GPU": 1, "memory": 16 * GIB}, None),  # a cluster file need not tell memory
        ([HEAD], [GPUS], {"CPU": 1, "accelerator_type:T4": 0.001}, None),
        ([SMALL], [], {"CPU": 1, "GPU": 1}, "asks for 1 core, 1 GPU, and no node has 1 GPU"),
        ([SMALL, LARGE], [], {"CPU": 1, "memory": 128 * GIB}, "no node has 128.0 GiB of memory"),
        ([LARGE], [GPUS], {"CPU": 1, "accelerator_type:H100": 0.001}, "no node has a GPU of type H100"),
        (
            [node("a", CPU=16), node("b", CPU=2, GPU=1)],
            [],
            {"CPU": 8, "GPU": 1},
            "no single node has 8 cores and 1 GPU",
        ),
        ([], [], {"CPU": 1}, "there is no node"),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused_with_what_is_missing_and_what_there_is(
    nodes: list[Node], kinds: list[Kind], request_: dict[str, float], says: str | None
) -> None:
    said = Cluster(nodes, kinds).missing(request_)
    if says is None:
        assert said is None
    else:
        assert said is not None
        assert says in said
        assert all(node.address in said for node in nodes)
        assert all(kind.name in said for kind in kinds)


def test_a_kind_of_gpu_and_memory_are_asked_of_a_node_by_rays_names() -> None:
    assert extra_resources() == {}
    assert extra_resources("T4", 2.5) == {"accelerator_type:T4": 0.001, "memory": 2.5 * GIB}
    cluster = Cluster([LARGE], [GPUS])
    assert cluster.missing({"CPU": 4, "GPU": 1, **extra_resources("T4")}) is None
    assert cluster.missing({"CPU": 8, "GPU": 1, **extra_resources("T4")}) is not None  # the node with eight has an A100


def test_what_a_cluster_has_is_told_in_words() -> None:
    assert Cluster([SMALL, LARGE], [GPUS]).describe({"CPU": 1, "GPU": 1}) == (
        "  10.0.0.2 has 2 cores, 0 GPUs, 4.0 GiB of memory, no GPU of type A100\n"
        "  10.0.0.3 has 8 cores, 1 GPU, 64.0 GiB of memory, a GPU of type A100\n"
        "  up to 3 of type gpu, each with 4 cores, 1 GPU, a GPU of type T4"
    ).replace(", no GPU of type A100", "")


@pytest.mark.parametrize("text", ["cheap", "nan", "inf", "-1", ""])
def test_a_price_is_a_number(text: str) -> None:
    with pytest.raises(ClusterError, match="is no price"):
        price_of({PRICE: text})


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 100)), min_size=2))
def test_the_meter_adds_up_time_by_price(readings: list[tuple[float, float]]) -> None:
    times = sorted(time for time, _ in readings)
    prices = [price for _, price in readings]
    meter = CostMeter(5.0)
    for time, price in zip(times, prices, strict=True):
        meter.read(time, price)
    expected = sum(
        (after - before) / 3600 * price for before, after, price in zip(times, times[1:], prices, strict=False)
    )
    assert meter.spent == pytest.approx(5.0 + expected)
    assert not meter.is_over  # without a limit


def test_the_limit_counts_what_earlier_runs_have_spent() -> None:
    meter = CostMeter(0.9, limit=1.0)
    meter.read(0, 0.5)
    meter.read(719, 0.5)
    assert not meter.is_over
    meter.read(720, 0.5)
    assert meter.is_over


def test_patience_ends_when_nothing_has_run_for_so_long() -> None:
    patience = Patience(2)
    looks = [(0, 0, False), (119, 0, False), (120, 0, True), (121, 1, False), (500, 0, False), (620, 0, True)]
    for now, running, over in looks:
        assert patience.is_over(now, running) == over, now


def test_versions_that_differ_are_listed() -> None:
    here = {"python": "3.12.1", "torch": "2.15.0", "ray": "2.60.0"}
    assert differences(here, dict(here)) == []
    assert differences(here, {"python": "3.12.1", "torch": "2.11.0", "ray": None, "numpy": "2.4"}) == [
        "torch: 2.15.0 here, 2.11.0 there",
        "ray: 2.60.0 here, absent there",
        "numpy: absent here, 2.4 there",
    ]


def test_a_nodes_answer_is_judged(tmp_path: Path) -> None:
    results = "s3://bucket/results/a/sweep.json"
    needs = Needs({"torch": "2.15.0"}, ((results, "the results"), ("/data", "the data")))
    assert needs.problem({"torch": "2.15.0"}, []) is None
    assert "give the machine what it needs to read and write there" in str(
        needs.problem({"torch": "2.15.0"}, [results])
    )
    said = needs.problem({"torch": "2.11.0"}, ["/data"])
    assert said is not None
    assert said.splitlines() == [
        "  torch: 2.15.0 here, 2.11.0 there",
        "  it does not see /data, where the data are; mount the same storage on all nodes",
    ]


def test_the_kinds_of_a_cluster_file_are_its_workers() -> None:
    file = cluster_file.read(ROOT / "cluster" / "gpu.yaml")
    assert file.kinds == (Kind("gpu", {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}, 4, 0.3),)
    assert file.prices == pytest.approx((0.19, 0.19 + 4 * 0.3))
    assert cluster_file.read(ROOT / "cluster" / "local.yaml").kinds == ()


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (  # four GPUs, so two rounds of 4 epochs, or of 3 each: 1.39 an hour , with the margins
            {},
            "4 trials at once, 1.39 an hour with all nodes and 0.19 with none; 1.67 to 3.75 were a trial to take",
        ),
        ({}, "there as here; --hours 10 at most 13.90; --max-cost 3 ends it there"),
        ({"accelerator": "A100"}, "no node has a GPU of type A100"),
        ({"cpus": 8, "gpus": 0}, "no node has 8 cores"),
    ],
)
def test_a_cluster_files_prices_make_the_plan(resources: dict[str, Any], says: str) -> None:
    asked = replace(space.read(ROOT / "search_spaces" / "digits.py"), resources=Resources.of(resources))
    plan = Plan("one", asked, Path("results"), trials=5, budget=Budget(hours=10), max_cost=3.0)
    rented = cluster_file.cluster(ROOT / "cluster" / "gpu.yaml")
    config = TrialConfig.from_flat({"train.epochs": 4})
    probes = [probing.Probe(config, 1, 1, seconds, 1) for seconds in (900.0, 1800.0)]
    loads = [forecast.Load(config, work) for work in (1.0, 2.0)]
    estimate = dry_run.Estimate(asked, [probes[0], probes[1]], [loads[0]], loads[1], 5, 0.0)
    try:
        said = dry_run._bill(plan, rented, estimate)
    except ClusterError as error:
        said = str(error)
    assert says in said


def test_the_costs_of_machines_of_ones_own_cannot_be_planned() -> None:
    with pytest.raises(ClusterError, match="tells neither what its machines have nor what they cost"):
        cluster_file.cluster(ROOT / "cluster" / "local.yaml")


class FakeJobs:
    """Ray's client for jobs, as far as we use it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.given: dict[str, Any] = {}

    def submit_job(self, **given: Any) -> str:
        self.given |= given
        return str(given["submission_id"])


def test_a_submitted_sweep_carries_its_code_its_commit_and_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeJobs] = []

    def client(address: str) -> FakeJobs:
        made.append(FakeJobs(address))
        return made[-1]

    monkeypatch.setattr(launch, "_client", client)
    monkeypatch.delenv(launch.JOB, raising=False)
    monkeypatch.setattr(provenance, "git_commit", lambda: "0123abc")
    arguments = ["search_spaces/digits.py", "--submit", "http://127.0.0.1:8265", "--results", "/shared/results"]
    arguments += ["--set", "train.epochs=3", "--set", "seed=4", "--trials", "7", "--name", "a b", "--max-cost", "2.5"]
    done = CliRunner().invoke(sweep.app, arguments)
    assert done.exit_code == 0, done.output
    [jobs] = made
    assert jobs.address == "http://127.0.0.1:8265"
    assert jobs.given["entrypoint"] == (
        "python -m orchestrator.sweep search_spaces/digits.py --trials 7 --set train.epochs=3 --set seed=4 "
        "--results /shared/results --name 'a b' --max-cost 2.5 --address auto"
    )
    sent = jobs.given["runtime_env"]
    assert sent["working_dir"] == str(ROOT)
    assert sent["env_vars"] == {provenance.COMMIT: "0123abc"}
    assert jobs.given["submission_id"].startswith(f"{identifier('a b')}-20")
    assert f"ray job stop --address http://127.0.0.1:8265 {jobs.given['submission_id']}" in " ".join(
        done.output.split()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--submit", "127.0.0.1:8265"), "expected the dashboard's address, as http://127.0.0.1:8265"),
        (("--submit", "http://h:1"), "--results /shared/results"),
        (
            ("--submit", "http://h:1", "--results", "/shared", "--set", "data.name=folder", "--set", "data.root=here"),
            "data.root=/shared/data",
        ),
        (("--address", "ray://h:10001"), "--submit http://127.0.0.1:8265"),
        (("--address", "http://h:8265"), "give it to --submit"),
        (("--address", "somewhere"), "expected HOST:PORT"),
    ],
)
def test_a_wrong_address_or_a_place_that_the_cluster_has_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = CliRunner().invoke(sweep.app, [str(ROOT / "search_spaces" / "digits.py"), *arguments])
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_a_space_that_would_not_be_sent_is_refused(tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    space.write_text((ROOT / "search_spaces" / "digits.py").read_text())
    done = CliRunner().invoke(sweep.app, [str(space), "--submit", "http://h:1", "--results", "/shared/results"])
    assert done.exit_code == 2
    assert "it would not be sent; put it into search_spaces/" in " ".join(done.output.split())


def test_code_goes_to_the_workers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.JOB, raising=False)
    assert launch.runtime_env()["working_dir"] == str(ROOT)
    monkeypatch.setenv(launch.JOB, json.dumps({}))
    assert launch.runtime_env() == {}  # it came with the job


def test_the_commit_travels_with_code_that_left_its_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT, "0123abc+changes")
    provenance.git_commit.cache_clear()
    try:
        assert provenance.git_commit() == "0123abc+changes"
    finally:
        provenance.git_commit.cache_clear()
