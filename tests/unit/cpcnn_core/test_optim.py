"""The optimizers: torch's own, without what imports its compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cpcnn_core.optim import uncompiled


def trained(kind: type[torch.optim.Adam], steps: int, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state of the optimizer, and the weights, after some steps on a sum of squares."""
    weights = torch.nn.Parameter(torch.linspace(-1, 1, 7) if state is None else state["weights"])
    optimizer = kind([{"params": [weights], "weight_decay": 0.1}], lr=0.05, fused=True)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward((weights * torch.arange(7)).square().sum())
        optimizer.step()
        assert not optimizer.param_groups[0]["differentiable"]
    return optimizer.state_dict() | {"weights": weights.detach().clone()}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_it_computes_what_torchs_own_does_and_takes_its_state(kind: type[torch.optim.Adam]) -> None:
    own = uncompiled(kind)
    whole = trained(kind, 6)
    assert torch.equal(trained(own, 6)["weights"], whole["weights"])
    for first, second in ((own, kind), (kind, own)):
        assert torch.equal(trained(second, 3, trained(first, 3))["weights"], whole["weights"])


def test_it_is_called_as_torchs_own() -> None:
    assert uncompiled(torch.optim.AdamW).__name__ == "AdamW"
    assert issubclass(uncompiled(torch.optim.AdamW), torch.optim.AdamW)
    assert uncompiled(torch.optim.Adam) is uncompiled(torch.optim.Adam)
