"""Looking at a running Ray cluster: what it is made of, whether each node fits the driver, and while a sweep runs,
whether its trials find a place and what the nodes cost.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cpcnn_core import files, places
from orchestrator.machines import cluster_file, launch
from orchestrator.machines.cluster import PRICE, Cluster, ClusterError, CostMeter, Kind, Needs, Node, Patience
from orchestrator.records import provenance
from orchestrator.records.location import RemotePath
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import plain
from orchestrator.tune.tuning import Halt

if TYPE_CHECKING:
    from orchestrator.machines.resources import Share
    from orchestrator.tune.plan import Plan

Answer: TypeAlias = "ray.ObjectRef[tuple[dict[str, str | None], list[str]]]"
"""What a node will say of itself: its versions, and which folders it does not see."""

_SECONDS = 5.0  # between two looks at the nodes
_ANSWER_SECONDS = 120.0  # a node that has just come up unpacks the code first


def look() -> Cluster:
    """The nodes that are up, and the node types that the autoscaler may start more of."""
    nodes = [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"], node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]
    return Cluster(nodes, _kinds())


def check(cluster: Cluster, needs: Needs) -> None:
    """Ask each node. Raise ClusterError with the differences of those that do not fit."""
    asked = {node.address: _ask(node, needs) for node in cluster.nodes}
    problems = []
    for address, answer in asked.items():
        try:
            problem = needs.problem(*ray.get(answer, timeout=_ANSWER_SECONDS))
        except ray.exceptions.RayError as error:
            problem = f"  it does not answer: {str(error).strip().splitlines()[0]}"
        if problem:
            problems.append(f"{address} does not fit this driver:\n{problem}")
    if problems:
        raise ClusterError("\n".join([*problems, "Install the same versions everywhere: cluster/install.sh does."]))


def begin(plan: Plan, store: Store, share: Share, extra: Mapping[str, float]) -> tuple[Share, Watch | None]:
    """Check that there is room for a trial, and return the share of a node that it gets. Raise ClusterError.

    A cluster that others started is asked whether it fits, and watched from then on; a Ray of our own needs neither.
    """
    cluster = look()
    if plan.space.resources.cpus is None:  # all cores were divided by the trials, but a trial lies on one node
        share = replace(share, cpus=max(1, min(share.cpus, cluster.most_cores())))
    request = {"CPU": float(share.cpus), "GPU": share.gpus, **extra}
    if problem := cluster.missing(request):
        raise ClusterError(problem)
    if plan.max_cost is not None and not cluster.highest_price:
        raise ClusterError(
            f"--max-cost {plain(plan.max_cost)}: no node has a price, so that it would end nothing; give nodes a label "
            f"{PRICE} (docs/cluster.md), or limit the sweep by --hours"
        )
    if launch.cluster_address() is None:
        return share, None
    data = plan.space.settings.get("data.root")
    seen_by_all = data and not places.is_url(str(data))  # a URL is fetched by each node
    folders = [(str(store.sweep_file), "the results")] + ([(str(data), "the data")] if seen_by_all else [])
    needs = Needs(provenance.versions(), tuple(folders))
    check(cluster, needs)
    # Tune would wait for one node to come up before it asks for the next.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(share.concurrent)
    meter = CostMeter(
        math.fsum(run.cost or 0.0 for run in (store.read_sweep() or SweepRecord()).runs), limit=plan.max_cost
    )
    return share, Watch(request, needs, cluster, meter, Patience(plan.pending_minutes), _Bill(store, meter.spent))


class _Bill:
    """Writes what this run of the driver has cost into sweep.json, once a minute, for whoever looks from outside."""

    def __init__(self, store: Store, before: float) -> None:
        self._store = store
        self._before = before
        self._next = 0.0

    def __call__(self, meter: CostMeter, *, now: bool = False) -> None:
        if meter.spent > self._before and (now or time.monotonic() >= self._next):
            self._next = time.monotonic() + 60
            record = self._store.read_sweep() or SweepRecord()
            *earlier, this = record.runs
            cost = {
                "cost": round(meter.spent - self._before, 4),
                "price_per_hour": round(meter.price, 4),
                "max_cost": meter.limit,
            }
            runs = [*earlier, this.model_copy(update=cost)]
            self._store.write_sweep(record.model_copy(update={"runs": runs}))


class Watch(Callback):  # type: ignore[misc]
    """Leaves Tune's loop where no trial finds a place, a node came that does not fit, or the money is spent."""

    def __init__(
        self,
        request: Mapping[str, float],
        needs: Needs,
        cluster: Cluster,
        meter: CostMeter,
        patience: Patience,
        bill: _Bill,
    ) -> None:
        self.problem: ClusterError | None = None
        self._request = request
        self._needs = needs
        self._known = {node.id for node in cluster.nodes}  # they were checked
        self._asked: dict[str, tuple[Node, Answer]] = {}
        self._meter = meter
        self._patience = patience
        self._bill = bill
        self._next = 0.0
        meter.read(time.monotonic(), cluster.price)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Look around, every few seconds."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS
        try:
            self._look(now, sum(trial.status == Trial.RUNNING for trial in trials))
        except ClusterError as error:
            self.problem = error
            raise Halt from None

    def end(self) -> None:
        """Write down what the run has cost. Raise the ClusterError that ended it, if one did."""
        self._meter.read(time.monotonic(), 0.0)
        self._bill(self._meter, now=True)
        if self.problem is not None:
            raise self.problem

    def _look(self, now: float, running: int) -> None:
        cluster = look()
        self._meter.read(now, cluster.price)
        self._bill(self._meter)
        for node in cluster.nodes:
            if node.id not in self._known:
                self._known.add(node.id)
                self._asked[node.id] = (node, _ask(node, self._needs))
        for id_, (node, answer) in list(self._asked.items()):
            if ray.wait([answer], timeout=0)[0]:
                del self._asked[id_]
                self._judge(node, answer)
        if self._meter.is_over:
            raise ClusterError(
                f"the sweep has cost {self._meter.spent:.2f}, which is what --max-cost allows; the same command with a "
                "higher one goes on. The nodes cost on until they are idle long enough, or `ray down`"
            )
        if self._patience.is_over(now, running):
            raise ClusterError(
                f"no trial has found a place for {plain(self._patience.minutes)} minutes; "
                + (cluster.missing(self._request) or _taken(cluster, self._request))
            )

    def _judge(self, node: Node, answer: Answer) -> None:
        try:
            problem = self._needs.problem(*ray.get(answer))
        except ray.exceptions.RayError:
            return  # it is gone again
        if problem:
            raise ClusterError(f"{node.address} joined the cluster and does not fit this driver:\n{problem}")


def _taken(cluster: Cluster, request: Mapping[str, float]) -> str:
    left = ray.available_resources()
    lacking = [name for name, amount in request.items() if left.get(name, 0) < amount]
    why = f"others hold all of {', '.join(lacking)}" if lacking else "what is free is spread over several nodes"
    return (
        f"there is room for one in principle, but {why}, or nodes that should come do not:\n{cluster.describe(request)}"
    )


def _kinds() -> tuple[Kind, ...]:
    # Ray tells nobody what its autoscaler may start; the file that `ray up` left on the head, where drivers run, does.
    home = files.home()
    file = None if home is None else home / "ray_bootstrap_config.yaml"
    return () if file is None or not file.exists() else cluster_file.read(file).kinds


def _ask(node: Node, needs: Needs) -> Answer:
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return _report.options(scheduling_strategy=strategy).remote([path for path, _ in needs.folders])


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _report(folders: list[str]) -> tuple[dict[str, str | None], list[str]]:
    return provenance.versions(), [path for path in folders if not _is_seen(path)]


def _is_seen(path: str) -> bool:
    try:
        # As the driver wrote it: a sweep behind a URL may have a name that no URL that is typed may hold.
        return (RemotePath(path) if places.is_url(path) else Path(path)).exists()
    except (OSError, ValueError):
        return False  # nor could a trial read it there
