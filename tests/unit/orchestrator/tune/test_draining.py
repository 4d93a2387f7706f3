"""How long a driver that ends waits for its trials; no Ray is started."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import ray
from ray.experimental import internal_kv

from orchestrator.process import notice
from orchestrator.tune import draining


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the cluster's head holds."""
    held: dict[str, bytes] = {}
    monkeypatch.setattr(internal_kv, "_internal_kv_put", held.__setitem__)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "7"))
    return held


@pytest.mark.parametrize("publishes", [False, True])
def test_trials_have_the_time_to_hear_of_it_and_then_to_save(
    written: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, publishes: bool
) -> None:
    now = begun = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    farewell = draining.Farewell(lambda: "SIGUSR1", publishes=publishes)
    assert not farewell.is_over(1)
    assert list(written.values()) == [b"the sweep ends: SIGUSR1"]
    # The trial had just asked; then the cluster's head took its time.
    now = begun + notice.EVERY_SECONDS + draining._SECONDS + notice.SECONDS
    assert not farewell.is_over(1)
    assert farewell.is_over(0)
    now = begun + 20
    assert farewell.is_over(1) == (not publishes)
    now = begun + 60
    assert farewell.is_over(1)


def test_at_ctrl_c_nobody_is_told(written: dict[str, bytes]) -> None:
    assert draining.Farewell(lambda: None).is_over(1)
    assert written == {}
