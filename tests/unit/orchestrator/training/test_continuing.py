"""Which trial goes on from which, with what, and that a kill on the way leaves nothing half."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cpcnn_core import checkpoint
from cpcnn_core.checkpoint import CheckpointError, fingerprint, load_weights
from cpcnn_core.config import ConfigError, Scalar, TrialConfig
from cpcnn_core.files import write_atomically
from cpcnn_core.starter import export_starter
from orchestrator.records import lineage
from orchestrator.records.columns import config_of
from orchestrator.records.recording import Recording
from orchestrator.records.store import Row, Store, StoreError
from orchestrator.training import by_hand, continuing, replaying
from orchestrator.training.continuing import Length, Start
from tests.support.paths import local
from tests.support.stores import tiny_store
from tests.support.training import SETTINGS, TIMES

NOT_COMPARED = {"trial_id", "attempt", "checkpoint", *TIMES}
ONE_MORE = Length(1, None)


class Killed(BaseException):
    """As if the process were gone."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return tiny_store(tmp_path / "trials", monkeypatch)


def train(store: Store, config: TrialConfig, start: Start | None = None) -> list[Row]:
    error = by_hand.train(config, store, None, on_epoch=lambda _row: None, on_progress=lambda *_: None, start=start)
    assert error is None
    return store.epochs_of(config.trial_id)


def parent(store: Store, epochs: int = 2, **settings: Scalar) -> TrialConfig:
    config = TrialConfig.from_flat(SETTINGS | settings | {"train.epochs": epochs})
    train(store, config)
    return config


def of(store: Store, config: TrialConfig, length: Length = ONE_MORE, **given: Scalar) -> Start:
    return continuing.of_trial(store, config.trial_id, length, given)


def compared(rows: list[Row]) -> list[Mapping[str, Any]]:
    return [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]


def test_a_child_goes_on_where_its_parent_ended(store: Store) -> None:
    config = parent(store)
    start = of(store, config)
    assert start.remarks == ()
    rows = train(store, start.config, start)
    longer = parent(store, 3)
    assert compared(rows) == compared(store.epochs_of(longer.trial_id))[2:]
    files = [local(store.folder) / str(each["checkpoint"]) for each in (rows[-1], store.epochs_of(longer.trial_id)[-1])]
    ends = [load_weights(file).model.state_dict() for file in files]
    assert fingerprint(ends[0]) == fingerprint(ends[1])
    [attempt] = store.attempts_of(start.config.trial_id)
    named = {name: attempt[f"lineage.{name}"] for name in ("parent", "root", "epochs_before", "steps_before")}
    assert named == {"parent": config.trial_id, "root": config.trial_id, "epochs_before": 2, "steps_before": 8}
    assert (attempt["train.epochs"], attempt["epochs"], attempt["state"]) == (3, 3, "COMPLETE")
    assert len({config.trial_id, start.config.trial_id, longer.trial_id}) == 3
    assert config_of(attempt) == start.config
    assert by_hand.is_finished(store, start.config)


def test_a_child_of_a_child_has_the_first_as_its_root(store: Store) -> None:
    config = parent(store, 1)
    child = of(store, config)
    train(store, child.config, child)
    grandchild = of(store, child.config, Length(None, 4))
    assert grandchild.config.lineage.root == config.trial_id
    assert grandchild.config.lineage.parent == child.config.trial_id
    assert [row["epoch"] for row in train(store, grandchild.config, grandchild)] == [3, 4]


def test_the_same_command_is_the_same_trial_and_another_length_or_setting_another(store: Store) -> None:
    config = parent(store, 1)
    assert of(store, config).config == of(store, config, Length(None, 2)).config
    ids = {
        of(store, config).config.trial_id,
        of(store, config, Length(2, None)).config.trial_id,
        of(store, config, **{"train.batch_size": 8}).config.trial_id,
    }
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("model.nr_filters", 8, "of the network as it was"),
        ("model.fusion", "none", "of the network as it was"),
        ("data.train_fraction", 0.5, "with the data that it began with"),
        ("data.name", "cpen455", "with the data that it began with"),
        ("train.epochs", 9, "--more-epochs says"),
        ("train.data_dependent_init", True, "before the first step"),
        ("source", "a" * 64, "an imported file's"),
        ("train.epoch", 3, "no such field; did you mean train.epochs"),
    ],
)
def test_what_cannot_change_is_refused_by_name(name: str, value: Scalar, why: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*{why}"):
        continuing.check_settings(TrialConfig.from_flat(SETTINGS), {name: value})


def test_every_field_either_may_change_or_is_refused_with_a_reason() -> None:
    """A new section of the configuration has to be decided on."""
    sections = {name.partition(".")[0] for name in TrialConfig().flat()}
    assert sections == {"data", "model", "train", "eval", "seed", "source", "lineage", "protocol"}


@pytest.mark.parametrize(("more", "total"), [(None, None), (1, 3), (None, 2), (None, 1)])
def test_a_length_is_one_number_and_more_than_there_is(more: int | None, total: int | None) -> None:
    with pytest.raises(ConfigError, match="--more-epochs"):
        Length(more, total).after(2)


@pytest.mark.parametrize(("state", "refused"), [("RUNNING", True), ("INTERRUPTED", True), ("FAILED", False)])
def test_one_that_has_not_come_to_its_end_is_not_continued(store: Store, state: Any, refused: bool) -> None:
    config = parent(store, 1)
    recording = Recording(store, config, None)
    if state != "RUNNING":
        recording.finish(state)
    if refused:
        with pytest.raises(StoreError, match=f"is {state}: it has not come to its end"):
            of(store, config)
    else:
        assert of(store, config).config.lineage.epochs_before == 1


def test_a_lost_state_is_said_and_makes_another_trial(store: Store) -> None:
    config = parent(store, 1)
    whole = of(store, config).config
    for file in local(store.checkpoint_folder(config.trial_id)).glob("state-*"):
        file.unlink()
    start = of(store, config)
    assert start.config.lineage.fresh_optimizer
    assert start.config.trial_id != whole.trial_id
    [remark] = start.remarks
    assert "the optimizer's state begins anew" in remark
    train(store, start.config, start)


def test_lost_weights_are_named(store: Store) -> None:
    config = parent(store, 1)
    for file in local(store.checkpoint_folder(config.trial_id)).glob("weights-*"):
        file.unlink()
    with pytest.raises(StoreError, match=rf"the weights of trial {config.trial_id} after epoch 1 are gone"):
        of(store, config)


def test_another_optimizer_and_a_schedule_over_all_epochs_are_said(store: Store) -> None:
    config = parent(store, 1, **{"train.schedule": "cosine"})
    start = of(store, config, **{"train.optimizer": "adamw", "train.ema_decay": 0.9})
    optimizer, average, schedule = start.remarks
    assert optimizer.startswith("train.optimizer=adamw: its state begins anew")
    assert average.startswith("train.ema_decay: the average of the weights begins with")
    assert "the learning rate goes on at 0.005, where it was 0 after epoch 1. This is a warm restart" in schedule
    train(store, start.config, start)


def test_a_file_of_weights_is_a_parent_without_a_name(store: Store, tmp_path: Path) -> None:
    config = parent(store, 1)
    file = local(store.folder) / str(store.epochs_of(config.trial_id)[-1]["checkpoint"])
    model = load_weights(file).model
    export_starter(tmp_path / "theirs.pth", model)
    given: dict[str, Scalar] = {"data.name": "digits", "model.fusion": "stem_add", "train.batch_size": 16}
    start = continuing.of_file(tmp_path / "theirs.pth", Length(2, None), given)
    own = start.config.lineage
    assert (own.parent, own.root, own.epochs_before, own.fresh_optimizer) == (None, None, 0, True)
    assert own.weights == fingerprint(model.state_dict())
    assert [row["epoch"] for row in train(store, start.config, start)] == [1, 2]
    with pytest.raises(StoreError, match="continues a file of weights; run it again by the command that began it"):
        continuing.recorded(store, start.config)
    with pytest.raises(ConfigError, match=r"say with --set model\.fusion=NAME"):
        continuing.of_file(tmp_path / "theirs.pth", ONE_MORE, {"data.name": "digits"})
    with pytest.raises(ConfigError, match=r"model\.nr_filters: is read off the shapes"):
        continuing.of_file(tmp_path / "theirs.pth", ONE_MORE, {**given, "model.nr_filters": 4})
    with pytest.raises(CheckpointError, match=r"is imported first, and continued under its trial's id: .* import"):
        continuing.of_file(tmp_path / "theirs.pth", ONE_MORE, {**given, "model.fusion": "input_map"})


def test_it_is_replayed_from_its_parent_s_end(store: Store, tmp_path: Path) -> None:
    config = parent(store)
    start = of(store, config)
    train(store, start.config, start)
    scratch = Store(tmp_path / "trials-replays")
    scratch.create()
    again = replaying.prepared(store, start.config.trial_id, (), scratch)
    train(again.store, again.config, again.start)
    assert again.differences() == []


def test_only_a_line_that_went_straight_on_is_what_a_longer_trial_would_have_been(store: Store) -> None:
    config = parent(store, 1)
    child = of(store, config)
    train(store, child.config, child)
    grandchild = of(store, child.config)
    longer = lineage.from_the_start(store, grandchild.config)
    assert longer == config.with_settings({"train.epochs": 3})
    assert lineage.from_the_start(store, config) == config
    bent = of(store, child.config, **{"train.batch_size": 8})
    train(store, bent.config, bent)
    for other in (bent.config, of(store, bent.config).config, of(store, config, **{"train.schedule": "linear"}).config):
        assert lineage.from_the_start(store, other) is None


KillAt = Callable[[pytest.MonkeyPatch], None]


def _at_write(number: int) -> KillAt:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        write, done = write_atomically, []

        def killed(path: Path, content: Any) -> None:
            done.append(path)
            if len(done) == number:
                raise Killed
            write(path, content)

        monkeypatch.setattr(checkpoint, "write_atomically", killed)

    return patch


def _at_row(method: str, call: int) -> KillAt:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        write, done = getattr(Store, method), []

        def killed(self: Store, *given: Any, **named: Any) -> None:
            done.append(method)
            if len(done) == call:
                raise Killed
            write(self, *given, **named)

        monkeypatch.setattr(Store, method, killed)

    return patch


MOMENTS = {
    **{f"file {number}": _at_write(number) for number in range(1, 9)},
    "the first row": _at_row("write_attempts", 1),
    "the first epoch's row": _at_row("add_epoch", 1),
    "the second epoch's row": _at_row("add_epoch", 2),
    "its last row": _at_row("write_attempt", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_between_any_two_steps_the_same_command_comes_to_the_same_end(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    config = parent(store, 1)
    start = of(store, config, Length(2, None))
    whole = Store(tmp_path / "whole")
    whole.create()
    expected = compared(train(whole, start.config, start))
    with monkeypatch.context() as patch:
        MOMENTS[moment](patch)
        # What an exception still does on its way out, a killed process does not.
        patch.setattr(by_hand._Training, "interrupt", lambda _self, _why: None)
        with pytest.raises(Killed):
            train(store, start.config, start)
    again = of(store, config, Length(2, None))
    assert again.config == start.config, "the parent is as it was"
    assert compared(train(store, again.config, again)) == expected
    last = store.attempts_of(start.config.trial_id)[-1]
    assert (last["state"], last["epochs"]) == ("COMPLETE", 3)
