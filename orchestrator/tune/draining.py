"""What Ray knows of a trial's end that the trial does not: its node is drained, or the driver is about to end.

Ray tells nobody in public which nodes it drains; what is not public of it is used here alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv

from orchestrator.process import notice

logger = logging.getLogger(__name__)

_SECONDS = 2.0  # that the cluster's head may take to answer
_HEARD_SECONDS = notice.EVERY_SECONDS + _SECONDS + 1.0  # in which each process of a trial knows what was written for it
_PUBLISHING_SECONDS = 30.0  # in which a state that is saved has gone to a results folder behind a URL
_UNTIL_SECONDS = 120  # after which a node is gone that a cloud has announced to take away, at the latest


def source() -> notice.Source:
    """Tells a trial's process that its node is drained, or that the driver is about to end."""
    context = ray.get_runtime_context()
    node, key = context.get_node_id(), _key(context.get_job_id())

    def why() -> str | None:
        said = internal_kv._internal_kv_get(key)
        if said is not None:
            return str(said.decode())
        deadline = _head().get_draining_nodes(timeout=_SECONDS).get(node)
        return None if deadline is None else f"Ray drains node {node}"

    return why


def drain_own_node(why: str) -> None:
    """Have Ray place nothing more on this node, which is to be taken away; a Ray of one node has no other place."""
    if sum(node["Alive"] for node in ray.nodes()) == 1:
        return
    node = ray.get_runtime_context().get_node_id()
    until = round((time.time() + _UNTIL_SECONDS) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, refusal = _head().drain_node(node, reason, why, until, timeout=_SECONDS)
    if not accepted:
        logger.warning("Ray does not drain node %s: %s", node, refusal)


class Farewell:
    """Before the driver ends, its trials are told, and given the time to hear of it and to save their state."""

    def __init__(self, why: Callable[[], str | None], *, publishes: bool = False) -> None:
        """`why` says why the trials are to be told; None where they are not, as at Ctrl-C.

        A trial that `publishes` sends its state to a folder behind a URL once it is saved.
        """
        self._why = why
        self._patience = _HEARD_SECONDS + notice.SECONDS + (_PUBLISHING_SECONDS if publishes else 0.0)
        self._told: float | None = None

    def is_over(self, running: int) -> bool:
        """Whether the driver may leave, `running` trials having a process."""
        why = self._why()
        if why is None:
            return True
        if self._told is None:
            self._told = time.monotonic()
            internal_kv._internal_kv_put(
                _key(ray.get_runtime_context().get_job_id()), f"the sweep ends: {why}".encode()
            )
        return running == 0 or time.monotonic() - self._told > self._patience


def _key(job: str) -> str:
    return f"cpcnn-farewell-{job}"


def _head() -> Any:  # Any: compiled, without types
    return global_worker.gcs_client
