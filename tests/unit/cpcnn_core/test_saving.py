"""States in the middle of an epoch: written in the background, whole or not counted, and the same to go on from."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cpcnn_core import checkpoint, files, saving
from cpcnn_core.checkpoint import CheckpointFolder
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from cpcnn_core.graphs import Capture
from cpcnn_core.metrics import EpochMetrics
from cpcnn_core.saving import Saving, Wanted
from cpcnn_core.train import Run, fit
from tests.support.tape import tape
from tests.support.training import SETTINGS, comparable, tiny_dataset

CONFIG = TrialConfig.from_flat(
    SETTINGS
    | {"train.ema_decay": 0.9, "train.flip": True, "train.epochs": 2}
    | {"eval.fid_every": 2, "eval.fid_extractor": "classifier", "eval.fid_images_per_class": 2}
)


class Notice:
    """Is given at the n-th question."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def trained(folder: Path, stops: list[int], capture: Capture | None = None) -> tuple[list[EpochMetrics], list[str]]:
    """All epochs of a trial that is taken away after so many questions, again and again; and what was said then."""
    dataset, found, said = tiny_dataset(), list[EpochMetrics](), list[str]()
    for at in stops:
        try:
            found += fit(CONFIG, dataset, folder, reported=len(found), preempted=Notice(at), capture=capture)
        except PreemptedError as error:
            said.append(str(error))
            found = CheckpointFolder(folder, CONFIG).history
    return [*found, *fit(CONFIG, dataset, folder, reported=len(found), capture=capture)], said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[EpochMetrics]:
    return trained(tmp_path_factory.mktemp("whole"), [])[0]


@pytest.mark.parametrize(
    ("stops", "where"),
    [
        ([0], "epoch 1, after 0 of 4 steps"),
        ([3, 0, 2], "epoch 1, after 3 of 4 steps"),
        ([4, 0], "epoch 1, after all of its steps"),
        ([9], "epoch 2, after 3 of 4 steps"),
        ([12], "epoch 2, after all of its steps"),
    ],
)
def test_taken_away_at_any_step_and_gone_on_elsewhere_equals_left_alone_bit_for_bit(
    tmp_path: Path, whole: list[EpochMetrics], stops: list[int], where: str
) -> None:
    epochs, said = trained(tmp_path, stops)
    assert said[0] == f"the training state is saved in {where}"
    assert len(said) == len(stops)
    assert [comparable(epoch) for epoch in epochs] == [comparable(epoch) for epoch in whole]


@pytest.mark.parametrize("stops", [[4, 0], [12], [4, 1], [3, 0, 2]])
def test_how_the_last_step_was_taken_is_known_to_a_process_that_took_none(tmp_path: Path, stops: list[int]) -> None:
    graphs = trained(tmp_path / "graphs", [], tape)[0]
    epochs, _ = trained(tmp_path / "stopped", stops, tape)
    assert [comparable(epoch) for epoch in epochs] == [comparable(epoch) for epoch in graphs]
    assert [epoch.path for epoch in epochs] == ["graph", "graph"]
    assert [epoch.path_note for epoch in epochs] == [epoch.path_note for epoch in graphs]
    assert graphs[0].path_note is not None


def test_an_older_state_after_the_last_step_does_not_know_how_it_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dict = Run._state_dict

    def older(run: Run) -> dict[str, Any]:
        state = state_dict(run)
        return {name: part for name, part in state.items() if not name.startswith("path")}

    monkeypatch.setattr(Run, "_state_dict", older)
    epochs, _ = trained(tmp_path, [4], tape)
    assert [epoch.path for epoch in epochs] == [None, "graph"]


def test_a_kill_while_images_are_drawn_does_not_cost_the_epoch_s_steps(
    tmp_path: Path, whole: list[EpochMetrics]
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    dataset, trained = tiny_dataset(), []
    with pytest.raises(KeyboardInterrupt):
        list(fit(CONFIG, dataset, tmp_path, on_drawn=killed))

    def heard(stage: str, *_: object) -> None:
        trained.append(stage)

    [epoch] = fit(CONFIG, dataset, tmp_path, reported=1, on_progress=heard)
    assert "trained" not in trained
    assert comparable(epoch) == comparable(whole[1])


def test_a_state_is_written_while_training_goes_on_and_counts_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write, go_on = CheckpointFolder(tmp_path, CONFIG), files.write_atomically, threading.Event()

    def slow(*given: Any) -> None:
        assert go_on.wait(30)
        write(*given)

    monkeypatch.setattr(checkpoint, "write_atomically", slow)
    weights = torch.ones(3)
    folder.write_state({"model": {"w": weights}, "epoch": 0, "step": 1}, epoch=0, step=1, commit=True)
    weights.zero_()  # as the next step does
    assert not list(tmp_path.glob("*"))
    go_on.set()
    folder.wait()
    state = CheckpointFolder(tmp_path, CONFIG).load_state()
    assert state is not None
    assert state["model"]["w"].tolist() == [1.0, 1.0, 1.0]


def test_what_the_thread_could_not_write_is_raised_where_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    epochs = fit(CONFIG, tiny_dataset(), tmp_path)
    first = next(epochs)
    before = json.loads((tmp_path / "index.json").read_text())
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        next(epochs)
    monkeypatch.undo()
    assert json.loads((tmp_path / "index.json").read_text()) == before
    assert [first.epoch, *(epoch.epoch for epoch in fit(CONFIG, tiny_dataset(), tmp_path, reported=1))] == [1, 2]


def test_an_epoch_s_state_is_written_once_and_by_no_thread_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = files.write_atomically, list[tuple[str, str]]()

    def seen(path: Path, *given: Any) -> None:
        written.append((path.name.partition("-")[0], threading.current_thread().name.partition("_")[0]))
        write(path, *given)

    monkeypatch.setattr(checkpoint, "write_atomically", seen)
    epochs = list(fit(CONFIG, tiny_dataset(), tmp_path))
    assert [by for what, by in written if what == "state"] == ["checkpoint"] * len(epochs)


class Group:
    """Stands for several processes, whose questions are answered by what each of them wants."""

    def __init__(self, rank: int, others: Tensor) -> None:
        self.num_processes, self.process_index, self.device = 1 + len(others), rank, torch.device("cpu")
        self.asked = 0
        self._others = others

    def gather(self, own: Tensor) -> Tensor:
        self.asked += 1
        return torch.cat([own, self._others])


@pytest.mark.parametrize(("theirs", "wanted"), [(0.0, Wanted.NOTHING), (1.0, Wanted.SAVE), (2.0, Wanted.END)])
def test_several_processes_do_what_one_of_them_wants(theirs: float, wanted: Wanted) -> None:
    group: Any = Group(0, torch.tensor([[theirs, 0.4]]))
    asking = Saving(group, 1e9, saving.never)
    asking.begin()
    assert [asking.wanted() for _ in range(2)] == [Wanted.NOTHING, wanted]
    assert [asking.wanted() for _ in range(2)] == [Wanted.NOTHING, wanted]  # a step takes .4 s: two of them
    assert group.asked == 2


def test_quick_steps_are_not_slowed_by_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    group: Any = Group(0, torch.tensor([[0.0, 0.001]]))
    asking, now = Saving(group, 1e9, saving.never), time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    asking.begin()
    for _ in range(1001):
        asking.wanted()
    assert group.asked == 1 + 1000 // 256


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sums_of_two_processes_go_on_in_any_number_of_them(world: int) -> None:
    rows = {"bpd": torch.tensor([1.0, 2.0]), "grad_norm": torch.tensor([5.0, 5.0]), "stage_norms": torch.ones(2, 4)}
    parts = []
    for rank in range(world):
        place: Any = SimpleNamespace(process_index=rank, num_processes=world)
        parts.append(saving.own(rows, place, maxima=("grad_norm", "stage_norms")))
    assert sum(part["bpd"].item() for part in parts) == 3.0
    assert {part["grad_norm"].item() for part in parts} == {5.0}
    assert all(part["stage_norms"].shape == (4,) for part in parts)
    if world == 2:
        assert [part["bpd"].item() for part in parts] == [1.0, 2.0]


def test_how_often_it_saves_is_no_part_of_what_a_trial_is() -> None:
    assert CONFIG.with_settings({"train.save_every_seconds": 5}).trial_id == CONFIG.trial_id
