"""A small sweep of several fusions, one of them somebody's own, as a driver writes it."""

from __future__ import annotations

from typing import ClassVar

from cpcnn_core.config import TrialConfig
from cpcnn_core.fusion import FusionOptions
from cpcnn_core.fusion.stem_add import StemAdd
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store
from tests.support.fakes import metrics

PLACE = Place("here", "cpu", 1)


class OwnOptions(FusionOptions):
    """`width` None: as wide as the network."""

    width: int | None = None
    mode: str = "plain"


class Own(StemAdd):
    """A fusion that a user registers; one of the two quantities that it logs it has not declared."""

    Options: ClassVar[type[FusionOptions]] = OwnOptions
    Diagnostics: ClassVar[tuple[str, ...]] = ("declared",)


_FILM = {f"fusion.block_film.{name}": 0.5 for name in ("gamma_mean", "gamma_std", "beta_mean", "beta_std")}
_OWN = {"fusion.own.declared": 1.5, "fusion.own.undeclared": 2.5}

TRIALS: tuple[tuple[dict[str, object], dict[str, float]], ...] = (
    ({"model.fusion": "none"}, {}),
    ({"model.fusion": "block_film", "model.fusion_options.block_film.hidden": 16}, _FILM),
    ({"model.fusion": "block_film"}, _FILM),  # with the default, which is not written
    ({"model.fusion": "input_concat+own", "model.fusion_options.input_concat.dim": 4}, _OWN),
    ({"model.fusion": "own", "model.fusion_options.own.width": 8, "model.fusion_options.own.mode": "other"}, _OWN),
)
"""The settings of each trial, and what its fusion logs; `own` is to be registered as `Own`."""


def configs() -> list[TrialConfig]:
    """The configuration of each trial."""
    return [TrialConfig.from_flat({**settings, "seed": seed}) for seed, (settings, _) in enumerate(TRIALS)]


def write(store: Store) -> None:
    """Write all trials, each with two epochs."""
    store.create()
    for number, (config, (_, logged)) in enumerate(zip(configs(), TRIALS, strict=True)):
        recording = Recording(store, config, number)
        for epoch in (1, 2):
            # Images are drawn after the last epoch alone.
            of_classes = {"val_acc.cat": 0.25, **({"fid.cat": 30.0} if epoch == 2 else {})}
            recording.add(metrics(epoch, extra={**of_classes, **logged}), PLACE)
        recording.finish("COMPLETE")
