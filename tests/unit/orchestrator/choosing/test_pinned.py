"""A trial and an epoch that the user names are found, or what there is instead is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.choosing import candidates, pinned
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store
from tests.support.fakes import metrics

CONFIG = TrialConfig.from_flat({"train.epochs": 4})
ID = CONFIG.trial_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four epochs, of which the weights of the second and the fourth are kept."""
    made = Store(tmp_path / "sweep")
    made.create()
    for config in (CONFIG, CONFIG.with_settings({"seed": 1})):
        recording = Recording(made, config, 0)
        for epoch in range(1, 5):
            named = f"weights-{epoch:04d}.safetensors"
            recording.add(metrics(epoch, checkpoint=named, kept_epochs=(2, epoch)), Place("here", "cpu", 1))
        recording.finish("COMPLETE")
    return made


def test_an_epoch_whose_weights_are_kept_is_the_only_one_left_to_choose(store: Store) -> None:
    found = candidates.read([store], "val_acc", conditions=pinned.conditions([store], ID, 2))
    names = [str(found.trials[trial][1]["trial_id"]) for trial in found.trial]
    assert (names, found.epoch.tolist()) == ([ID], [2])
    of_trial = candidates.read([store], "val_acc", conditions=pinned.conditions([store], ID, None))
    assert set(of_trial.epoch) == {1, 2, 3, 4}
    assert pinned.conditions([store], None, None) == ()


def test_what_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(ChoiceError, match=rf"--epoch 3: .*not kept; of trial {ID} there are those of 2, 4"):
        pinned.conditions([store], ID, 3)
    with pytest.raises(ChoiceError, match="--epoch 3: of which trial"):
        pinned.conditions([store], None, 3)
    with pytest.raises(ChoiceError, match=f"no such trial with a finished epoch in sweep; did you mean {ID}"):
        pinned.conditions([store], ID[:-1], None)
