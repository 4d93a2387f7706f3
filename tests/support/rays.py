"""A Ray cluster on this machine, of a head that runs no trial and two nodes with a place for one trial each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80 * 2**20


@contextmanager
def two_nodes(**of_head: object) -> Iterator[Cluster]:
    """Its nodes have the environment of now; `of_head` are further arguments of the head."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, **of_head}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE_BYTES)
        yield made
    finally:
        made.shutdown()
