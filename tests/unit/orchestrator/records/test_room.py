"""A sweep's checkpoints within a number of bytes: what goes first, what never goes, and a kill in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.records.recording import Place, Recording
from orchestrator.records.room import Room, SizeError, parse_size
from orchestrator.records.store import Store
from tests.support.fakes import metrics

SIZE = 100  # bytes of each file
EPOCHS = 6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "sweep")
    made.create()
    return made


def trial(store: Store, seed: int, *, ended: bool = True, failed: bool = False) -> str:
    """A trial with weights of six epochs and two states; its first epoch is the best, each one after it worse."""
    config = TrialConfig.from_flat({"train.epochs": EPOCHS, "seed": seed})
    recording = Recording(store, config, seed)
    folder = store.training_folder(config.trial_id)
    folder.mkdir()
    for epoch in range(1, EPOCHS + 1):
        name = f"weights-{epoch:04d}.safetensors"
        (folder / name).write_bytes(b"w" * SIZE)
        kept = tuple(range(1, epoch + 1))
        values = {"val_acc": 1 / epoch, "val_bpd": float(epoch)}
        recording.add(metrics(epoch, checkpoint=name, kept_epochs=kept, **values), Place("here", "cpu", 1))
    for step in (50, 60):
        (folder / f"state-{step:08d}.pt").write_bytes(b"s" * SIZE)
    if ended:
        recording.finish("FAILED" if failed else "COMPLETE", error="lost" if failed else None)
    return config.trial_id


def files(store: Store, trial_id: str) -> list[str]:
    return sorted(path.name for path in store.training_folder(trial_id).iterdir())


def named(store: Store, trial_id: str) -> list[int]:
    return [int(str(row["epoch"])) for row in store.epochs_of(trial_id) if row["checkpoint"] is not None]


def weights(*epochs: int) -> list[str]:
    return [f"weights-{epoch:04d}.safetensors" for epoch in epochs]


@pytest.mark.parametrize(
    ("limit", "left", "states"),
    [(8, (1, 2, 3, 4, 5, 6), 2), (7, (1, 2, 3, 4, 5, 6), 1), (6, (1, 2, 3, 4, 6), 1), (4, (1, 2, 6), 1)],
)
def test_the_spare_state_goes_first_and_then_the_worst_weights(
    store: Store, limit: int, left: tuple[int, ...], states: int
) -> None:
    trial_id = trial(store, 0)
    assert Room(store, limit * SIZE, every=0).make(()) is None
    assert files(store, trial_id) == [f"state-{step:08d}.pt" for step in (50, 60)[-states:]] + weights(*left)
    assert named(store, trial_id) == list(left), "no row names a file that is gone"


def test_the_best_the_last_and_the_last_state_stay_and_that_is_said_once(store: Store) -> None:
    trial_id = trial(store, 0)
    room = Room(store, 1, every=0)
    told = room.make(())
    assert told is not None
    assert "are never deleted" in told
    assert files(store, trial_id) == ["state-00000060.pt", *weights(1, 6)]
    assert room.make(()) is None


def test_the_farthest_from_the_best_of_its_trial_goes_first_whichever_trial_it_is_of(store: Store) -> None:
    ids = [trial(store, seed) for seed in (0, 1)]
    Room(store, (2 * 8 - 2 - 2) * SIZE, every=0).make(())
    assert [named(store, trial_id) for trial_id in ids] == [[1, 2, 3, 4, 6]] * 2


def test_of_a_running_trial_both_states_stay_and_one_that_somebody_else_runs_is_left_alone(store: Store) -> None:
    own, foreign = trial(store, 0, ended=False), trial(store, 1, ended=False)
    Room(store, 1, every=0).make({own})
    assert files(store, own) == ["state-00000050.pt", "state-00000060.pt", *weights(1, 6)]
    assert len(files(store, foreign)) == 8


def test_of_a_failed_trial_both_states_stay_since_the_last_may_be_of_the_epoch_it_failed_in(store: Store) -> None:
    failed = trial(store, 1, failed=True)
    Room(store, 5 * SIZE, every=0).make(())
    assert sum(name.startswith("state") for name in files(store, failed)) == 2


def test_a_file_that_goes_while_it_is_counted_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_id = trial(store, 1)
    gone = store.training_folder(trial_id) / weights(2)[0]
    asked = Path.stat

    def stat(self: Path, **options: bool) -> object:
        if self == gone and options == {}:
            raise FileNotFoundError(self)
        return asked(self, **options)

    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "stat", stat)
    assert Room(store, 10**9, every=0).make(()) is None


def test_weights_whose_row_is_still_to_come_stay(store: Store) -> None:
    trial_id = trial(store, 0, ended=False)
    (store.training_folder(trial_id) / "weights-0007.safetensors").write_bytes(b"w" * SIZE)
    Room(store, 1, every=0).make({trial_id})
    assert (store.training_folder(trial_id) / "weights-0007.safetensors").exists()


def test_killed_between_row_and_file_the_file_goes_the_next_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_id = trial(store, 0)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        (store.training_folder(trial_id) / "state-00000050.pt").unlink()
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Room(store, 6 * SIZE, every=0).make(())
    assert named(store, trial_id) == [1, 2, 3, 4, 6]
    assert weights(5)[0] in files(store, trial_id)
    Room(store, 6 * SIZE, every=0).make(())
    assert files(store, trial_id) == ["state-00000060.pt", *weights(1, 2, 3, 4, 6)]


def test_the_disk_is_not_looked_at_all_the_time(store: Store) -> None:
    room = Room(store, 7 * SIZE, every=1000)
    room.make(())
    trial_id = trial(store, 0)
    room.make(())
    assert len(files(store, trial_id)) == 8


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2.5GiB", 5 * 2**29), ("1t", 10**12), ("12", 12)]
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "5PB", "5 G B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SizeError, match=r"--disk .*: expected a size, as 5GB"):
        parse_size(text)
