"""Training yields what it measured, resumes what was cut off, and stops with a reason."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cpcnn_core import evaluate as evaluation
from cpcnn_core import fid, quality
from cpcnn_core import train as training
from cpcnn_core.checkpoint import load_weights
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import ConfigError, TrainConfig, TrialConfig
from cpcnn_core.data import HIDDEN, Dataset, Split
from cpcnn_core.evaluate import evaluate, log_prior
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.keeping import kept_epochs
from cpcnn_core.loss import Loss
from cpcnn_core.metrics import EpochMetrics
from cpcnn_core.quality import Drawn
from cpcnn_core.train import TrainingError, fit
from tests.support.fakes import metrics
from tests.support.training import SETTINGS, TIMES, comparable, tiny_dataset


def config(**settings: object) -> TrialConfig:
    return TrialConfig.from_flat(SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})


def losses(dataset: Dataset, folder: Path, **settings: object) -> list[float | None]:
    return [epoch.train_loss for epoch in fit(config(**settings), dataset, folder)]


def test_the_score_is_known_when_weights_are_chosen_to_be_kept(tmp_path: Path) -> None:
    def score(epoch: EpochMetrics) -> tuple[float | None, str | None]:
        return (epoch.val_bpd, None) if epoch.epoch < 3 else (None, "for a reason")  # the worse, the better

    epochs = list(fit(config(), tiny_dataset(), tmp_path, score=score))
    assert [epoch.score for epoch in epochs] == [epochs[0].val_bpd, epochs[1].val_bpd, None]
    assert [epoch.score_error for epoch in epochs] == [None, None, "for a reason"]
    best = 1 if (epochs[0].val_bpd or 0) > (epochs[1].val_bpd or 0) else 2
    assert best in epochs[-1].kept_epochs
    assert load_weights(tmp_path / f"weights-{best:04d}.safetensors").metrics["score"] == epochs[best - 1].val_bpd
    again = list(fit(config(), tiny_dataset(), tmp_path, score=score))
    assert [epoch.score for epoch in again] == [epoch.score for epoch in epochs]


def test_every_epoch_is_measured_over_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, Evaluation]] = []
    progress: list[tuple[str, int, int]] = []
    dataset = tiny_dataset()
    epochs = list(
        fit(
            config(),
            dataset,
            tmp_path,
            on_evaluation=lambda epoch, result: seen.append((epoch, result)),
            on_progress=lambda *heard: progress.append(heard),
        )
    )
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert [epoch.step for epoch in epochs] == [4, 8, 12]  # 50 images in batches of 16: the last one counts
    assert progress[:4] == [("trained", done, 50) for done in (16, 32, 48, 50)]
    assert progress[4:6] == [("evaluated", 9, 9), ("evaluated", 10, 10)]
    first, last = epochs[0].train_bpd, epochs[-1].train_bpd
    assert first is not None
    assert last is not None
    assert last < first
    for epoch, (number, result) in zip(epochs, seen, strict=True):
        assert number == epoch.epoch
        assert len(result.names) == len(dataset.validation)
        assert epoch.val_bpd == result.bpd
        assert epoch.seconds >= epoch.train_seconds > 0
        assert epoch.extra["val_acc.b"] == result.per_class_accuracy[1]
    assert epochs[-1].peak_memory_bytes > 10**7


EVALUATED = (
    *("train_acc", "val_acc", "val_bpd", "val_class_nll", "val_ece", "val_ece_calibrated", "val_f1"),
    *("val_images", "val_images_of", "val_temperature", "scoring_seconds"),
)


def test_an_epoch_in_between_claims_nothing_and_is_trained_all_the_same(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    asked: dict[str, object] = {"eval__every": 3, "eval__max_images": 5, "eval__fid_every": 2}
    asked |= {"eval__fid_extractor": "classifier", "eval__fid_images_per_class": 2, "train__epochs": 4}
    seen: list[tuple[int, tuple[str, ...]]] = []

    def keep(epoch: int, result: Evaluation) -> None:
        seen.append((epoch, result.names))

    epochs = list(fit(config(**asked), dataset, tmp_path / "some", on_evaluation=keep))
    for epoch in epochs:
        due = epoch.epoch in {3, 4}  # every third, and the last
        row = epoch.row()
        assert {name: row[name] is not None for name in EVALUATED} == dict.fromkeys(EVALUATED, due)
        assert any(name.startswith("val_acc.") for name in epoch.extra) == due
        assert (epoch.fid is not None) == (epoch.epoch in {2, 4})
        assert None not in (epoch.activation_max, epoch.grad_norm, epoch.train_bpd)
        assert 0 <= (epoch.scoring_seconds or 0) <= epoch.eval_seconds
    assert (epochs[2].val_images, epochs[2].val_images_of) == (5, 9)
    assert (epochs[-1].test_images, epochs[-1].test_images_of) == (3, 3)
    names = evaluation.scored(dataset.validation, 5).names
    assert seen == [(3, names), (4, names)]
    by_accuracy = max(epochs[2:], key=lambda epoch: epoch.val_acc or 0)
    assert set(epochs[-1].kept_epochs) >= {2, 4, by_accuracy.epoch}  # drawn, last, best
    assert 1 not in epochs[-1].kept_epochs
    assert losses(dataset, tmp_path / "all", train__epochs=4) == [epoch.train_loss for epoch in epochs]


def test_without_test_images_none_are_scored(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    [epoch] = fit(config(train__epochs=1), replace(dataset, test=dataset.test.take([])), tmp_path)
    assert (epoch.test_acc, epoch.test_acc_error, epoch.test_images) == (None, None, None)


def test_the_kept_weights_give_the_recorded_metrics(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    *_, last = fit(config(train__ema_decay=0.9), dataset, tmp_path)
    assert last.checkpoint is not None
    loaded = load_weights(tmp_path / last.checkpoint)
    result = evaluate(loaded.model, dataset.validation, log_prior("uniform", dataset.train.labels, 3), batch_size=7)
    assert result.bpd == pytest.approx(last.val_bpd, abs=1e-6)
    assert loaded.metrics["val_bpd"] == last.val_bpd


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train__ema_decay": 0.9, "train__schedule": "cosine", "train__warmup_epochs": 0.5},
        {"train__flip": True, "train__shift": 1, "train__label_dropout": 0.3, "train__optimizer": "adamw"},
        {"train__class_loss_weight": 0.5, "train__accumulate": 2, "model__dropout_kind": "element"},
        {"train__class_loss_weight": 0.5, "train__class_loss_others": 1, "train__label_dropout": 0.3},
        {"train__schedule": "linear", "model__norm": "channel"},
        {"train__data_dependent_init": True, "train__schedule": "exponential", "train__lr_gamma": 0.99},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)
def test_resuming_equals_not_having_stopped_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    dataset, wanted = tiny_dataset(), config(**settings)
    whole = list(fit(wanted, dataset, tmp_path / "whole"))
    broken = fit(wanted, dataset, tmp_path / "broken")
    first = next(broken)
    broken.close()
    torch.rand(3)  # what the process draws in between must not matter
    rest = list(fit(wanted, dataset, tmp_path / "broken", reported=1))
    assert [comparable(epoch) for epoch in [first, *rest]] == [comparable(epoch) for epoch in whole]
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "broken")


def test_resuming_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    whole = list(fit(config(), dataset, tmp_path / "whole"))
    calls = 0

    def stop_in_the_second_epoch(stage: str, done: int, total: int) -> None:
        nonlocal calls
        calls += stage == "trained"
        if calls == 7:
            raise KeyboardInterrupt

    always = config(train__save_every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        list(fit(always, dataset, tmp_path / "cut", on_progress=stop_in_the_second_epoch))
    heard: list[tuple[str, int]] = []
    rest = list(fit(config(), dataset, tmp_path / "cut", reported=1, on_progress=lambda *at: heard.append(at[:2])))
    assert heard[:2] == [("trained", 48), ("trained", 50)], "six of eight steps were done, the last saved is the sixth"
    assert [comparable(epoch) for epoch in rest] == [comparable(epoch) for epoch in whole[1:]]


def test_epochs_that_were_not_reported_are_yielded_again_and_not_trained_again(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    done = list(fit(config(), dataset, tmp_path))
    again = list(fit(config(), dataset, tmp_path, reported=1, on_progress=lambda *_: pytest.fail("trains again")))
    assert again == done[1:]
    assert list(fit(config(), dataset, tmp_path, reported=3)) == []


FID = {"eval__fid_every": 2, "eval__fid_images_per_class": 5, "eval__fid_extractor": "classifier"}


def test_every_so_many_epochs_and_after_the_last_images_are_drawn_and_measured(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    drawn: list[tuple[int, Drawn]] = []
    stages: list[str] = []
    epochs = list(
        fit(
            config(**FID),
            dataset,
            tmp_path / "measured",
            on_drawn=lambda *made: drawn.append(made),
            on_progress=lambda stage, *_: stages.append(stage),
        )
    )
    assert [epoch.fid is not None for epoch in epochs] == [False, True, True]
    assert [epoch for epoch, _ in drawn] == [2, 3]
    assert "drawn" in stages
    for epoch, (_, made) in zip(epochs[1:], drawn, strict=True):
        assert made.images.shape == (15, *dataset.image_shape)
        assert made.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        evaluator = quality.evaluator(config(**FID), dataset)
        assert epoch.fid == pytest.approx(
            fid.score(made.images, made.labels, evaluator.extract, evaluator.reference).fid.value
        )
        assert (epoch.fid_images, epoch.fid_error, epoch.kid_error) == (15, None, None)
        assert epoch.sample_path in {"calls", "graph"}
        assert (epoch.fid_extractor, epoch.fid_reference) == (evaluator.extract.name, evaluator.reference.name)
        assert {"fid.a", "fid.b", "fid.c"} <= set(epoch.extra)
        assert epoch.sample_seconds is not None
        assert 0 < epoch.sample_seconds <= epoch.eval_seconds
    best = min(epochs[1:], key=lambda epoch: epoch.fid or 0)
    assert best.epoch in epochs[-1].kept_epochs

    # looking does not change what is trained, and a resumed trial draws the same images
    assert losses(dataset, tmp_path / "unmeasured") == [epoch.train_loss for epoch in epochs]
    next(fit(config(**FID), dataset, tmp_path / "cut"))
    rest = list(fit(config(**FID), dataset, tmp_path / "cut", reported=1))
    assert [comparable(epoch) for epoch in rest] == [comparable(epoch) for epoch in epochs[1:]]


def test_a_distance_that_cannot_be_measured_is_null_with_its_reason(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    hidden = replace(dataset, test=replace(dataset.test, labels=torch.full((3,), HIDDEN)))
    settings = FID | {"eval__fid_reference": "test", "train__epochs": 1}
    [epoch] = fit(config(**settings), hidden, tmp_path)
    assert epoch.fid is not None
    assert str(epoch.fid_class_error).startswith("a: the labels of tiny/test")
    assert not [name for name in epoch.extra if name.startswith("fid.")]


def test_a_measurement_that_breaks_does_not_cost_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no more")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quality.Evaluator, "measure", out_of_memory)
    epochs = list(fit(config(**FID), tiny_dataset(), tmp_path, on_drawn=disk_full))
    assert [epoch.fid for epoch in epochs] == [None] * 3
    assert epochs[0].fid_error is None  # it was not due
    assert epochs[1].fid_error == epochs[1].kid_error == "OutOfMemoryError: no more"
    assert epochs[2].checkpoint is not None


def test_fids_by_different_rulers_are_not_compared_when_weights_are_kept() -> None:
    def measured(epoch: int, value: float, extractor: str) -> EpochMetrics:
        return metrics(epoch, val_acc=0.5, val_bpd=3.0, fid=value, fid_extractor=extractor, fid_images=100)

    history = [measured(1, 1.0, "a"), measured(2, 30.0, "b"), measured(3, 20.0, "b"), measured(4, 25.0, "b")]
    assert kept_epochs(history, TrainConfig(), range(1, 5)) == (
        1,
        3,
        4,
    )  # the first as the earliest best val_acc, not for its FID
    history[0] = history[0].replaced(val_acc=0.4, val_bpd=4.0)
    assert kept_epochs(history, TrainConfig(), range(1, 5)) == (2, 3, 4)


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    whole = losses(dataset, tmp_path / "1", model__dropout=0.5)
    for accumulate in (2, 8):
        parts = losses(dataset, tmp_path / str(accumulate), model__dropout=0.5, train__accumulate=accumulate)
        assert parts == pytest.approx(whole, abs=1e-4)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = tiny_dataset()
    expected = losses(dataset, tmp_path / "roomy")
    forward = Loss.forward

    def small_memory(self: Loss, images: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        if len(images) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, images, *rest)

    monkeypatch.setattr(Loss, "forward", small_memory)
    epochs = list(fit(config(), dataset, tmp_path / "tight"))
    assert [epoch.micro_batch for epoch in epochs] == [4, 4, 4]
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(expected, abs=1e-4)
    assert "micro-batches of 4" in caplog.text


def test_memory_that_ends_at_one_image_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Loss, "forward", no_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(fit(config(), tiny_dataset(), tmp_path))


@pytest.mark.parametrize(("value", "in_gradient"), [(math.nan, True), (math.inf, False), (math.nan, False)])
def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, in_gradient: bool
) -> None:
    forward, calls = Loss.forward, 0

    def poisoned(self: Loss, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal calls
        calls += 1
        total, loss, bpd = forward(self, *args)
        if calls != 6:
            return total, loss, bpd
        return (total * value, loss, bpd) if in_gradient else (total, loss + value, bpd)

    monkeypatch.setattr(Loss, "forward", poisoned)
    epochs: list[EpochMetrics] = []
    with pytest.raises(TrainingError, match="epoch 2, step 2 of 4"):
        epochs.extend(fit(config(), tiny_dataset(), tmp_path))
    assert calls == 6, "it went on after the loss was lost"
    assert load_weights(tmp_path / "weights-0001.safetensors").epoch == 1


NOT_THE_TRUE_CLASS = (4, 2)  # of the fifth image, whose class is 1


@pytest.mark.parametrize("split", ["validation", "training"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.0])
def test_likelihoods_that_are_none_fail_the_trial_and_its_sound_epochs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, split: str
) -> None:
    measure, tables = class_log_likelihoods, 0

    def diverged(*args: Any, **settings: Any) -> Tensor:
        nonlocal tables
        tables += 1
        table = measure(*args, **settings).clone()
        if tables == {"validation": 3, "training": 4}[split]:  # of the second epoch
            table[NOT_THE_TRUE_CLASS if value else ...] = value
        return table

    monkeypatch.setattr(evaluation, "class_log_likelihoods", diverged)
    epochs: list[EpochMetrics] = []
    images = {"validation": 9, "training": 10}[split]
    says = f"not finite for 1 of {images} images; it is {value} for image 5 under class 2" if value else "bpd is -?0,.*"
    with pytest.raises(TrainingError, match=f"diverged in epoch 2: .*{says}; lower train.lr, .*Epoch 1 is kept"):
        epochs.extend(fit(config(), tiny_dataset(), tmp_path))
    assert [epoch.epoch for epoch in epochs] == [1]
    assert load_weights(tmp_path / "weights-0001.safetensors").epoch == 1
    assert not (tmp_path / "weights-0002.safetensors").exists()


def test_a_learning_rate_that_explodes_is_a_failure_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"epoch \d"):
        list(fit(config(train__lr=1e30, train__grad_clip=None), tiny_dataset(), tmp_path))


def test_a_batch_larger_than_the_split_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: 64 .* 50 images"):
        next(fit(config(train__batch_size=64), tiny_dataset(), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_hidden_labels_cannot_be_trained_on(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    hidden = Split(dataset.train.images, torch.full_like(dataset.train.labels, -1), dataset.train.names)
    with pytest.raises(ConfigError, match="train split has hidden labels"):
        next(fit(config(), Dataset("tiny", hidden, dataset.validation, dataset.test, ("a", "b", "c")), tmp_path))


def test_the_global_generator_neither_matters_nor_moves(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = losses(dataset, tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert losses(dataset, tmp_path / "b") == first
    assert losses(dataset, tmp_path / "c", seed=1) != first


# What torch 2.11's own compiler does with functions that have a gradient of their own, and where it leaves the graph.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script(_method)?` is deprecated:DeprecationWarning")
@pytest.mark.unmeasured
def test_compiled_training_is_the_same_and_its_warm_up_is_reported_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs are captured as for any backend; generating C++ for them would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    dataset = tiny_dataset()
    plain = losses(dataset, tmp_path / "plain", train__epochs=2)
    epochs = list(fit(config(train__compile=True, train__epochs=2), dataset, tmp_path / "compiled"))
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(plain, abs=1e-4)
    assert epochs[0].compile_seconds > epochs[1].compile_seconds == 0.0
    assert epochs[0].train_seconds > epochs[0].compile_seconds


def test_no_step_waits_for_a_number_from_the_device(tmp_path: Path) -> None:
    """What reads a number here would stop a GPU's queue; the counts of steps lie on the CPU there too."""
    settings = {
        "train__ema_decay": 0.9,
        "train__class_loss_weight": 0.5,
        "train__class_loss_others": 1,
        "train__label_dropout": 0.3,
    }
    augmented = {"train__flip": True, "train__shift": 1, "train__accumulate": 2, "train__schedule": "cosine"}
    run = training.Run(config(**settings, **augmented), tiny_dataset(), tmp_path, Accelerator())
    chosen = torch.arange(14)  # the last batch, padded
    run.optimize(chosen)
    assert run.ema is not None
    counts = [run.ema.n_averaged, *(state["step"] for state in run.optimizer.state.values())]
    on_the_cpu = {count.data_ptr() for count in counts}

    class Reads(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if call is torch.ops.aten._local_scalar_dense.default:
                self.seen += 1
                assert args[0].data_ptr() in on_the_cpu, f"a step reads {args[0]}"
            assert call is not torch.ops.aten.nonzero.default, "a step waits for how many there are"
            return call(*args, **(kwargs or {}))

    with Reads() as reads:  # type: ignore[no-untyped-call]
        run.optimize(chosen)
    assert reads.seen > 0


def test_a_resumed_step_waits_for_no_number_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's counts of steps stay where they are loaded to, which is the CPU whatever trains."""
    places: list[object] = []
    load = torch.load

    def noted(*args: Any, map_location: str, **settings: Any) -> Any:
        places.append(map_location)
        return load(*args, map_location=map_location, **settings)

    next(fit(config(), tiny_dataset(), tmp_path))
    monkeypatch.setattr(torch, "load", noted)
    assert training.Run(config(), tiny_dataset(), tmp_path, Accelerator()).step == 4
    assert places == ["cpu"]


def test_a_step_s_noise_follows_from_seed_and_step_alone(tmp_path: Path) -> None:
    """No state of a generator is kept, so none can be lost, or be of another kind of device."""
    run = training.Run(config(model__dropout=0.5), tiny_dataset(), tmp_path, Accelerator())
    assert "noise" not in run._state_dict()
    chosen = torch.arange(16)

    def masks(step: int) -> torch.Tensor:
        drawn = run.batches.draw(chosen, step).masks
        assert drawn is not None
        return drawn

    first, second = masks(7), masks(8)
    assert torch.equal(masks(7), first)
    assert not torch.equal(first, second)


def test_film_statistics_are_logged_each_epoch(tmp_path: Path) -> None:
    epochs = list(fit(config(model__fusion="block_film", train__lr=1e-3), tiny_dataset(), tmp_path))
    assert epochs[0].row()["fusion.block_film.gamma_mean"] == pytest.approx(1.0, abs=0.05)
    deviations = [epoch.extra["fusion.block_film.gamma_std"] for epoch in epochs]
    assert 0 < deviations[0] < deviations[2]


@pytest.mark.parametrize("settings", [{"train__precision": "bf16"}, {"train__grad_clip": None}])
def test_other_ways_to_train_learn_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    found = losses(tiny_dataset(), tmp_path, **settings)
    assert found[0] is not None
    assert found[-1] is not None
    assert found[-1] < found[0]


@pytest.mark.parametrize("units", [False, True])
def test_bf16_that_a_cpu_has_no_units_for_is_warned_of(
    tmp_path: Path, units: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": units})
    training.Run(config(eval__precision="bf16"), tiny_dataset(), tmp_path, Accelerator())
    assert ("bf16: this CPU has no units for it" in caplog.text) != units


def test_the_times_are_the_only_thing_that_differs_between_two_runs(tmp_path: Path) -> None:
    one, two = (list(fit(config(), tiny_dataset(), tmp_path / name)) for name in "ab")
    assert [comparable(epoch) for epoch in one] == [comparable(epoch) for epoch in two]
    assert set(TIMES) < set(one[0].record())
    assert training.GPU_CHECK_EVERY > 1


def _weights(folder: Path) -> list[bytes]:
    newest = max(folder.glob("weights-*.safetensors"))
    return [bytes(t.detach().numpy().tobytes()) for t in load_weights(newest).model.state_dict().values()]
