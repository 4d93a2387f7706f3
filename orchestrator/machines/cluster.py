"""The cluster that a sweep runs on: what it has and may grow to, whether its nodes fit the driver, what it costs.

Everything here works on plain values; `watching.py` fills them in from Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cpcnn_core import places
from cpcnn_core.errors import UserError

PRICE = "cpcnn/price-per-hour"  # the label in a cluster file that says what an hour of a node costs

ACCELERATOR = "accelerator_type:"  # Ray's resource of a node with such a GPU: `accelerator_type:A100`

_GROUP = "ray.io/node-group"  # Ray's label with the node type of the cluster file

_SHOWN = ("CPU", "GPU", "memory")


class ClusterError(UserError):
    """A cluster that cannot run the sweep; the message says what it has and what is missing."""


@dataclass(frozen=True)
class Node:
    """A node that is up."""

    id: str
    address: str
    resources: Mapping[str, float]  # CPU and GPU in pieces, memory in bytes
    labels: Mapping[str, str]

    @property
    def price(self) -> float:
        """What an hour costs; 0 where the cluster file does not say."""
        return price_of(self.labels)


@dataclass(frozen=True)
class Kind:
    """A node type of which the autoscaler may start up to `most`."""

    name: str
    resources: Mapping[str, float]
    most: int
    price: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """What is up, and what may come."""

    nodes: Sequence[Node]
    kinds: Sequence[Kind] = ()

    @property
    def price(self) -> float:
        """What an hour costs as it is now."""
        return math.fsum(node.price for node in self.nodes)

    @property
    def highest_price(self) -> float:
        """What an hour costs once all is there that may come."""
        return math.fsum([node.price for node in self._fixed()] + [kind.most * kind.price for kind in self.kinds])

    def totals(self) -> dict[str, float]:
        """The sum of each resource once all is there that may come. CPU and GPU are always among them."""
        sums: Counter[str] = Counter({"CPU": 0, "GPU": 0})
        for node in self._fixed():
            sums.update(node.resources)
        for kind in self.kinds:
            sums.update({name: kind.most * amount for name, amount in kind.resources.items()})
        return dict(sums)

    def most_cores(self) -> int:
        """The cores of the largest node that is there or may come."""
        each = [node.resources for node in self.nodes] + [kind.resources for kind in self.kinds if kind.most > 0]
        return int(max((resources.get("CPU", 0) for resources in each), default=0))

    def missing(self, request: Mapping[str, float]) -> str | None:
        """Why no node that is there or may come has room for `request`, even empty; None where one has."""
        places = [(f"{node.address} has", node.resources) for node in self.nodes]
        places += [(f"a node of type {kind.name} would have", kind.resources) for kind in self.kinds if kind.most > 0]
        short = [_short(request, node.resources) for node in self.nodes]
        # A cluster file need not say how much memory a type has.
        short += [_short(request, {"memory": math.inf, **kind.resources}) for kind in self.kinds if kind.most > 0]
        if any(not names for names in short):
            return None
        # Blame what is missing everywhere; where each node lacks something else, the pair of them is missing.
        everywhere = set.intersection(*map(set, short)) if short else set(request)
        blamed = sorted(everywhere or {name for names in short for name in names})
        joint = "no node has" if everywhere else "no single node has"
        wanted = " and ".join(_amount(name, request[name]) for name in blamed)
        return "\n".join(
            [f"a trial asks for {_amounts(request)}, and {joint} {wanted}:", *self._listed(places, request)]
        )

    def describe(self, request: Mapping[str, float]) -> str:
        """A line for each node, with what matters to `request`."""
        places = [(f"{node.address} has", node.resources) for node in self.nodes]
        places += [(f"up to {kind.most} of type {kind.name}, each with", kind.resources) for kind in self.kinds]
        return "\n".join(self._listed(places, request))

    def _fixed(self) -> list[Node]:
        growing = {kind.name for kind in self.kinds}
        return [node for node in self.nodes if node.labels.get(_GROUP) not in growing]

    @staticmethod
    def _listed(places: Iterable[tuple[str, Mapping[str, float]]], request: Mapping[str, float]) -> list[str]:
        lines = []
        for place, resources in places:
            names = [name for name in _SHOWN if name in resources or name in request]
            names += [name for name in sorted({*resources, *request}) if name.startswith(ACCELERATOR)]
            amounts = ", ".join(_amount(name, resources.get(name, 0)) for name in names)
            lines.append(f"  {place} {amounts}")
        return lines or ["  there is no node"]


def extra_resources(accelerator: str | None = None, memory_gib: float | None = None) -> dict[str, float]:
    """What a trial asks of Ray besides cores and GPUs: a kind of GPU, as A100, and memory in GiB."""
    kind = {} if accelerator is None else {ACCELERATOR + accelerator: 0.001}  # a mark on the node, not to be used up
    return kind if memory_gib is None else {**kind, "memory": memory_gib * 2**30}


def price_of(labels: Mapping[str, str]) -> float:
    """The price in a node's labels, 0 where there is none. Raise ClusterError where it is no number."""
    text = labels.get(PRICE, "0")
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise ClusterError(f"label {PRICE}: {text!r} is no price; it must be a number such as 0.35")
    return price


def differences(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> list[str]:
    """What differs between two sets of versions, a line each: `torch: 2.15.0 here, 2.11.0 there`."""
    return [
        f"{name}: {here.get(name) or 'absent'} here, {there.get(name) or 'absent'} there"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]


@dataclass(frozen=True)
class Needs:
    """What every node must have: the driver's versions, and the folders that the trials read and write."""

    versions: Mapping[str, str | None]
    folders: tuple[tuple[str, str], ...]  # path, and what lies in it: ("/shared/results/digits", "the results")

    def problem(self, there: Mapping[str, str | None], unseen: Iterable[str]) -> str | None:
        """What is wrong with a node that has these versions and does not see these folders."""
        lines = [f"  {line}" for line in differences(self.versions, there)]
        lines += [
            f"  it does not see {path}, where {what} are; {_mend(path)}"
            for path, what in self.folders
            if path in set(unseen)
        ]
        return "\n".join(lines) or None


def _mend(path: str) -> str:
    if places.is_url(path):
        return "give the machine what it needs to read and write there: credentials, and the package for it"
    return "mount the same storage on all nodes"


class CostMeter:
    """Adds up what the nodes cost, from what was spent before on."""

    def __init__(self, spent: float = 0.0, *, limit: float | None = None) -> None:
        self.spent = spent
        self.limit = limit
        self._last: tuple[float, float] | None = None  # when it was read, and what an hour cost then

    def read(self, now: float, price: float) -> None:
        """At `now`, in seconds of a steady clock, an hour costs `price`. Idle nodes are paid for too."""
        if self._last is not None:
            then, before = self._last
            self.spent += (now - then) / 3600 * before
        self._last = (now, price)

    @property
    def price(self) -> float:
        """What an hour costs, when it was last read."""
        return 0.0 if self._last is None else self._last[1]

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.spent >= self.limit


class Patience:
    """How long nothing has run."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._since: float | None = None

    def is_over(self, now: float, running: int) -> bool:
        """Whether no trial has run for too long, at `now` in seconds of a steady clock."""
        if running:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now - self._since >= 60 * self.minutes


def _short(request: Mapping[str, float], resources: Mapping[str, float]) -> list[str]:
    return [name for name, amount in request.items() if amount > resources.get(name, 0)]


def _amounts(request: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, amount) for name, amount in request.items() if amount)


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.1f} GiB of memory"
    if name.startswith(ACCELERATOR):
        return f"{'a' if amount else 'no'} GPU of type {name.removeprefix(ACCELERATOR)}"
    unit = {"CPU": ("core", "cores"), "GPU": ("GPU", "GPUs")}.get(name, (name, name))
    return f"{amount:g} {unit[amount != 1]}"
