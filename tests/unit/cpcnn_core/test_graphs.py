"""Work is captured or refused, once; a step that is captured is the step that is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from cpcnn_core import graphs, likelihood
from cpcnn_core.batches import Batches
from cpcnn_core.classify import CAPTURED, class_log_likelihoods
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PathError
from cpcnn_core.graphs import CaptureError, Work, call_by_call, captured, cuda_graph
from cpcnn_core.memory import MicroBatch, is_out_of_memory
from cpcnn_core.paths import APPLIED, BF16, SAME, HalfAppliedError, distance
from cpcnn_core.step import Step
from cpcnn_core.train import Run, fit
from tests.contract.networks import COMPOSITIONS, network
from tests.support.tape import tape
from tests.support.training import SETTINGS, comparable, tiny_dataset

EVERYTHING: dict[str, Any] = {
    "train.epochs": 13,
    "train.accumulate": 2,
    "train.ema_decay": 0.9,
    "train.class_loss_weight": 0.1,
    "train.class_loss_others": 1,
    "train.label_dropout": 0.3,
    "train.flip": True,
    "train.shift": 1,
    "train.optimizer": "adamw",
    "train.weight_decay": 0.01,
    "train.schedule": "cosine",
    "train.warmup_epochs": 1,
    "model.dropout": 0.5,
}

FAR_OFF: dict[str, Any] = {
    "train__precision": "bf16",
    "train__data_dependent_init": True,
    "train__grad_clip": None,
    "model__nr_resnet": 2,
    "model__nr_filters": 8,
}
"""Right after initialisation bf16's gradient is a tenth of its length away from float32's, though nothing is wrong."""


def run_of(folder: Path, capture: graphs.Capture | None, **settings: object) -> Run:
    config = TrialConfig.from_flat(SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})
    return Run(config, tiny_dataset(), folder, Accelerator(), capture=capture)


def steps(run: Run, count: int) -> Tensor:
    """The norms of the gradients of so many steps, the last one of each four on two images."""
    norms = []
    for _ in range(count):
        run.epoch, run.position = divmod(run.step, run.steps_per_epoch)
        order = run._order()
        norms.append(run.optimize(order[16 * run.position : 16 * (run.position + 1)]))
        run.step += 1
    return torch.stack(norms)


def state(run: Run) -> dict[str, Tensor]:
    return {
        name: torch.cat([part.detach().flatten() for part in parts]) for name, parts in run.stepper.lasting().items()
    }


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_refusals", {})


# ------------------------------------------------------------------------------------------------------------- a step


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.unmeasured
def test_fifty_captured_steps_are_those_call_by_call(tmp_path: Path, precision: str) -> None:
    """The tape freezes all that Python computes, as a CUDA graph does: what changes must come by way of tensors."""
    settings = {name.replace(".", "__"): value for name, value in EVERYTHING.items()} | {"train__precision": precision}
    eager, graph = run_of(tmp_path, None, **settings), run_of(tmp_path, tape, **settings)
    torch.testing.assert_close(steps(graph, 50), steps(eager, 50), rtol=1e-5, atol=0)
    assert (eager.paths.path, graph.paths.path) == ("eager", "graph")
    wanted, found = state(eager), state(graph)
    assert wanted.keys() == found.keys() == {"weights", "average", "sums", "step", "exp_avg", "exp_avg_sq"}
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
    assert graph.ema is not None
    assert int(graph.ema.n_averaged) == 50


@pytest.mark.parametrize("capture", [tape, call_by_call])
def test_a_captured_trial_measures_what_one_call_by_call_does(tmp_path: Path, capture: graphs.Capture) -> None:
    config = TrialConfig.from_flat(SETTINGS | {"train.epochs": 2, "train.ema_decay": 0.9})
    eager = list(fit(config, tiny_dataset(), tmp_path / "eager"))
    graph = list(fit(config, tiny_dataset(), tmp_path / "graph", capture=capture))
    assert [comparable(epoch.replaced(path="graph")) for epoch in eager] == [comparable(epoch) for epoch in graph]
    assert [epoch.path for epoch in graph] == ["graph", "graph"]
    assert str(graph[0].path_note).startswith("graph: gradient 0 from")
    assert eager[0].path_note is None
    assert graph[0].compile_seconds > graph[1].compile_seconds == 0


@pytest.mark.parametrize("fusion", ["block_film", *COMPOSITIONS])
def test_a_captured_trial_in_bf16_measures_what_one_call_by_call_does(tmp_path: Path, fusion: str) -> None:
    """Over two epochs: a cast that a graph has kept from its first step is of other weights than those it trains."""
    settings = {"train.epochs": 2, "train.precision": "bf16", "train.lr": 0.02, "model.fusion": fusion}
    config = TrialConfig.from_flat(SETTINGS | settings)
    eager = list(fit(config, tiny_dataset(), tmp_path / "eager"))
    graph = list(fit(config, tiny_dataset(), tmp_path / "graph", capture=tape))
    assert [epoch.path for epoch in graph] == ["graph", "graph"]
    for found, wanted in zip(graph, eager, strict=True):
        assert found.train_bpd == pytest.approx(wanted.train_bpd, rel=1e-5)
        assert found.val_bpd == pytest.approx(wanted.val_bpd, rel=1e-5)


def test_a_step_that_was_captured_reads_no_number_of_pythons(tmp_path: Path) -> None:
    """Of each of them another value is another step, though no line of Python runs."""
    run = run_of(tmp_path, tape, train__ema_decay=0.9)
    steps(run, 2)
    before = run.stepper.snapshot()

    def after(change: Callable[[], object]) -> dict[str, Tensor]:
        run.stepper.restore(before)
        batch = run.batches.draw(torch.arange(16), 5)
        run.stepper.load(batch, 16)
        change()
        run.paths.take(run.micro_batch)
        return state(run)

    def moved(change: Callable[[], object]) -> set[str]:
        plain, other = after(lambda: None), after(change)
        return {name for name in plain if not torch.equal(plain[name], other[name])}

    assert run.ema is not None
    lr, rate = run.optimizer.param_groups[0]["lr"], run.ema.rate
    assert moved(lambda: lr.fill_(0.5)) == {"weights", "average"}
    lr.fill_(0.01)
    assert moved(lambda: rate.fill_(0.75)) == {"average"}
    assert {"exp_avg", "weights"} < moved(lambda: run.stepper.load(run.batches.draw(torch.arange(16), 5), 8))
    assert {"exp_avg", "weights", "sums"} < moved(lambda: run.stepper.load(run.batches.draw(torch.arange(2), 5), 2))


def test_sizes_of_micro_batches_have_graphs_of_their_own(tmp_path: Path) -> None:
    made: list[Work] = []

    def noted(work: Work) -> Callable[[], object]:
        made.append(work)
        return tape(work)

    run = run_of(tmp_path, noted)
    steps(run, 3)
    assert len(made) == 1
    run.micro.halve()
    steps(run, 2)
    assert len(made) == 2
    run.micro.begin_epoch()
    assert run.micro_batch == 16
    steps(run, 2)
    assert len(made) == 3
    plain = run_of(tmp_path / "plain", None)
    steps(plain, 7)
    torch.testing.assert_close(state(run)["weights"], state(plain)["weights"], rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- evaluation


def likelihoods(capture: graphs.Capture | None, *, bf16: bool = False) -> Tensor:
    """Of 32 images in passes of 7 under three classes each."""
    model = network("input_map+block_film", (1, 8, 8))
    pixels = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return class_log_likelihoods(model, pixels, batch_size=7 * model.nr_classes, bf16=bf16, capture=capture)


@pytest.mark.parametrize("bf16", [False, True])
def test_evaluation_is_captured_once_and_gives_the_same(bf16: bool) -> None:
    made = 0

    def noted(work: Work) -> Callable[[], object]:
        nonlocal made
        made += 1
        return tape(work)

    plain = likelihoods(None, bf16=bf16)
    torch.testing.assert_close(likelihoods(noted, bf16=bf16), plain, rtol=CAPTURED[bf16], atol=0)
    assert made == 1


@pytest.mark.parametrize("says", ["CUDA out of memory.", "operation not permitted"])
def test_evaluation_that_is_not_captured_is_done_call_by_call(says: str) -> None:
    def refused(_work: Work) -> Callable[[], object]:
        raise (RuntimeError if "memory" in says else CaptureError)(says)

    torch.testing.assert_close(likelihoods(refused), likelihoods(None), rtol=CAPTURED[False], atol=0)


def test_a_captured_evaluation_that_gives_something_else_is_an_error() -> None:
    def wrong(_work: Work) -> Callable[[], object]:
        return lambda: None

    with pytest.raises(PathError, match=r"gives 0 nats on average where .*train\.graph=false"):
        likelihoods(wrong)


# --------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_captured_is_done_call_by_call_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def refused(_work: Work) -> Callable[[], object]:
        nonlocal tries
        tries += 1
        raise CaptureError("operation not permitted when stream is capturing")

    config = TrialConfig.from_flat(
        SETTINGS | {"train.epochs": 1, "eval.fid_every": 1, "eval.fid_extractor": "classifier"}
    )
    [eager] = fit(config, tiny_dataset(), tmp_path / "eager")
    for name in "ab":
        [epoch] = fit(config, tiny_dataset(), tmp_path / name, capture=refused)
        assert comparable(epoch) == comparable(eager)
        assert epoch.path_note == "no graph: operation not permitted when stream is capturing"
    assert tries == 1
    assert caplog.text.count("was not captured") == 1


def test_a_setting_takes_no_graph_and_is_no_part_of_the_identity(tmp_path: Path) -> None:
    run = run_of(tmp_path, tape, train__graph=False)
    steps(run, 2)
    assert (run.paths.path, run.paths.note) == ("eager", "no graph: train.graph is false")
    assert run.config.trial_id == run_of(tmp_path, None).config.trial_id


class Stream(NamedTuple):
    """A stream of a GPU that is not there."""

    name: str
    device: str = "cuda:0"


@pytest.mark.parametrize("memory_ends", [False, True])
def test_a_capture_that_fails_leaves_the_callers_stream(memory_ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refuse(*_: object, stream: object, **__: object) -> Iterator[None]:
        assert stream == beside
        streams.append(Stream("the graph's"))  # where torch before 2.15 leaves the caller
        yield
        raise RuntimeError("CUDA out of memory." if memory_ends else "operation not permitted when stream is capturing")

    streams, beside = [Stream("the caller's")], Stream("the one beside")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(graphs, "_side_stream", {beside.device: beside}.get)
    calls: list[int] = []
    for _ in range(2):
        if memory_ends:  # which a smaller batch mends
            with pytest.raises(RuntimeError, match="out of memory"):
                captured(partial(calls.append, 1), cuda_graph, what="a call")
        else:
            assert captured(partial(calls.append, 1), cuda_graph, what="a call") is None
        assert streams[-1] == Stream("the caller's")
    assert len(calls) == 1 + memory_ends, "what was refused is not tried again"
    assert (graphs.refusal(cuda_graph) is None) == memory_ends


# ---------------------------------------------------------------------------------------------- what computes wrongly


@pytest.mark.parametrize("of", ["gradient", "sums"])
def test_a_graph_with_another_gradient_or_loss_fails_the_trial(tmp_path: Path, of: str) -> None:
    def wrong(work: Work) -> Callable[[], object]:
        replay = tape(work)

        def replayed() -> None:
            replay()
            assert isinstance(work, partial)
            step = work.func
            assert isinstance(step, Step)
            changed = step.gradients()[-1] if of == "gradient" else step.sums.objective
            changed.add_(changed.norm(), alpha=10 * SAME)

        return replayed

    run = run_of(tmp_path, wrong)
    with pytest.raises(PathError, match=r"gradient is \S+ of its length .* loss .* instead of .*train\.graph=false"):
        steps(run, 1)


@pytest.mark.parametrize("of", ["weights", "average", "exp_avg", "step"])
def test_a_graph_that_applies_a_gradient_otherwise_fails_the_trial(tmp_path: Path, of: str) -> None:
    def wrong(work: Work) -> Callable[[], object]:
        replay = tape(work)

        def replayed() -> None:
            assert isinstance(work, partial)
            step = work.func
            assert isinstance(step, Step)
            before = [value.clone() for value in step.lasting()[of]]
            replay()
            with torch.no_grad():
                for value, was in zip(step.lasting()[of], before, strict=True):
                    value.add_(value - was, alpha=5 * APPLIED)

        return replayed

    run = run_of(tmp_path, wrong, train__ema_decay=0.9)
    with pytest.raises(PathError, match=rf"changes {of} by .* away from .*train\.graph=false"):
        steps(run, 1)


@pytest.mark.parametrize("off", [0.1, -1.0, 0.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_step_with_another_gradient_fails_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, off: float
) -> None:
    def wrongly(function: Callable[..., Tensor], **_: object) -> Callable[..., Tensor]:
        def compiled(*arguments: Any, **named: Any) -> Tensor:
            value = function(*arguments, **named)
            # The likelihood is as it is, and its gradient is not.
            return value if "force_eager" in stances else value + off * (value - value.detach())

        return compiled if function is likelihood.log_prob else function

    stances: list[str] = []

    @contextmanager
    def stance(name: str) -> Iterator[None]:
        stances.append(name)
        yield
        stances.pop()

    monkeypatch.setattr(torch, "compile", wrongly)
    monkeypatch.setattr(torch.compiler, "set_stance", stance)
    run = run_of(tmp_path, None, train__compile=True, **FAR_OFF | {"train__precision": precision})
    if off == 0:
        steps(run, 1)
        assert "compiled: gradient 0 from" in str(run.paths.note)
        return
    with pytest.raises(PathError, match=r"first compiled step .* (0\.1|1) of its length .*train\.compile=false"):
        steps(run, 1)


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1, -1.0])
def test_a_bf16_gradient_that_rounding_does_not_explain_fails_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    exact = Step.gradient_of_bpd

    def wrong(self: Step, *arguments: Any, bf16: bool) -> Tensor:
        return exact(self, *arguments, bf16=bf16) * (factor if bf16 else 1)

    monkeypatch.setattr(Step, "gradient_of_bpd", wrong)
    with pytest.raises(PathError, match=r"bf16's gradient, of length .*float32's, .*train\.precision=fp32"):
        steps(run_of(tmp_path, None, **FAR_OFF), 1)


def test_where_bf16_is_far_off_it_is_compared_at_smaller_scales(tmp_path: Path) -> None:
    run = run_of(tmp_path, None, **FAR_OFF)
    run.stepper.load(run.batches.draw(torch.arange(16), 0), 16)
    gradient = partial(run.stepper.gradient_of_bpd, run._loss(), 8)
    assert distance(gradient(bf16=True), gradient(bf16=False)) > 2 * BF16
    before = state(run)
    run.paths._compare_bf16(8, run.stepper.snapshot())
    note = str(run.paths.note)
    assert note.endswith(
        ("from float32's, scales and biases times 0.5", "from float32's, scales and biases times 0.25")
    )
    assert 0 < float(note.split()[2]) < BF16 / 5
    torch.testing.assert_close(state(run), before, rtol=0, atol=0)


def test_a_bf16_graph_is_held_to_the_same_kernels_call_by_call(tmp_path: Path) -> None:
    def wrong(work: Work) -> Callable[[], object]:
        replay = tape(work)

        def replayed() -> None:
            replay()
            assert isinstance(work, partial)
            step = work.func
            assert isinstance(step, Step)
            for part in step.gradients():
                part.mul_(1 + 5 * SAME)

        return replayed

    with pytest.raises(PathError, match=r"first graph step .* rounding explains 0\.001; set train\.graph=false"):
        steps(run_of(tmp_path, wrong, **FAR_OFF), 1)


def test_bf16_is_within_its_bound_by_far_which_is_recorded_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train__precision": "bf16", "train__class_loss_weight": 0.5, "train__data_dependent_init": True}
    run = run_of(tmp_path, None, **settings)
    steps(run, 1)
    note = str(run.paths.note)
    assert note.startswith("bf16: gradient ")
    assert 0 < float(note.split()[2]) < BF16 / 5
    plain = run_of(tmp_path, None, **settings)
    monkeypatch.setattr(plain.paths, "_compare_bf16", lambda *_: None)
    steps(plain, 1)
    torch.testing.assert_close(state(run)["weights"], state(plain)["weights"], rtol=0, atol=0)


def test_a_loss_that_is_not_finite_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, call_by_call, train__precision="bf16")
    with torch.no_grad():
        next(run.model.parameters()).fill_(math.nan)
    assert steps(run, 1).isnan().all()
    assert str(run.paths.note).count("not compared, for the loss is not finite") == 2


# -------------------------------------------------------------------------------------------------------- memory ends


class Ending:
    """Memory that ends once, at a call of `where` that comes when so many were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, at: int) -> None:
        real = getattr(owner, name)
        self.calls = 0

        def ends(*arguments: Any, **settings: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
            return real(*arguments, **settings)

        monkeypatch.setattr(owner, name, ends)


@pytest.mark.parametrize("capture", [None, tape])
@pytest.mark.parametrize("at", [40, 130])  # of the 154 moments' halves: in the middle of either group of parameters
def test_memory_that_ends_in_adams_first_step_costs_a_smaller_micro_batch_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: graphs.Capture | None, at: int
) -> None:
    settings: dict[str, Any] = {"train__optimizer": "adamw", "train__weight_decay": 0.1, "train__ema_decay": 0.9}
    plain = run_of(tmp_path, None, **settings)
    plain.micro.halve()
    wanted = steps(plain, 5)
    run = run_of(tmp_path, capture, **settings)
    with monkeypatch.context() as patched:
        ending = Ending(patched, torch, "zeros_like", at)
        found = steps(run, 1)
    assert ending.calls > at
    assert run.micro_batch == 8
    torch.testing.assert_close(torch.cat([found, steps(run, 4)]), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(state(run)["weights"], state(plain)["weights"], rtol=1e-6, atol=0)


def test_memory_that_ends_while_weights_change_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, None, train__ema_decay=0.9)
    steps(run, 2)
    Ending(monkeypatch, torch, "_foreach_sub", 1)  # of the average, after Adam's own step
    with pytest.raises(HalfAppliedError, match=r"cannot be taken back; set train\.accumulate"):
        steps(run, 1)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (HalfAppliedError("the device's memory ended while the weights were changed"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_libraries_say_in_words_of_their_own_that_memory_ended(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_a_halved_micro_batch_grows_again_and_waits_longer_after_each_failure() -> None:
    micro = MicroBatch(10)
    sizes = []
    for epoch in range(16):
        micro.begin_epoch()
        while micro.size > (3 if epoch < 9 else 10):
            micro.halve()
        sizes.append(micro.size)
    # Tried at 1, 3, 7 and, once there is room, at 15.
    assert sizes == [3] * 15 + [5]
    fresh = MicroBatch(10)
    fresh.halve()
    grown = []
    for _ in range(2):
        fresh.begin_epoch()
        grown.append(fresh.size)
    assert grown == [10, 10]


@pytest.mark.parametrize(("size", "gives"), [(16, 16), (9, 8), (8, 8), (1, 1), (99, 16)])
def test_a_trial_goes_on_with_the_size_it_ended_with(size: int, gives: int) -> None:
    micro = MicroBatch(16)
    micro.load_state_dict({"size": size})
    assert micro.size == gives


@pytest.mark.parametrize(("owner", "name"), [(Step, "apply"), (Batches, "draw")])
def test_memory_that_comes_back_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    config = TrialConfig.from_flat(SETTINGS | {"train.epochs": 3})
    with monkeypatch.context() as patched:
        ending = Ending(patched, owner, name, 1)
        epochs = list(fit(config, tiny_dataset(), tmp_path))
    assert ending.calls > 1
    assert [epoch.micro_batch for epoch in epochs] == [8, 16, 16]


def test_a_trial_that_resumes_tries_larger_sizes_when_it_would_have_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig.from_flat(SETTINGS | {"train.epochs": 4})
    add_up, most = Step.add_up, [8]

    def limited(self: Step, micro_batch: int) -> None:
        if micro_batch > most[0]:
            raise RuntimeError("CUDA error: out of memory")
        add_up(self, micro_batch)

    monkeypatch.setattr(Step, "add_up", limited)

    def trained(folder: Path, *, killed: bool) -> list[tuple[int, float]]:
        most[0] = 8
        epochs = fit(config, tiny_dataset(), folder)
        measured = [next(epochs), next(epochs)]
        most[0] = 16  # what took the memory has ended
        if killed:
            epochs.close()
            epochs = fit(config, tiny_dataset(), folder, reported=2)
        return [(epoch.micro_batch, epoch.train_bpd) for epoch in (*measured, *epochs)]

    whole = trained(tmp_path / "whole", killed=False)
    assert [size for size, _ in whole] == [8, 8, 8, 16]
    assert trained(tmp_path / "killed", killed=True) == whole


# ------------------------------------------------------------------------------------------- whatever the network is


@pytest.mark.parametrize(
    "settings",
    [
        *({"model__fusion": name} for name in COMPOSITIONS),
        {"model__label_encoding": "embedding", "model__fusion": "block_mild", "model__norm": "channel"},
        {"model__label_encoding": "sinusoidal", "model__fusion": "block_film", "model__dropout_kind": "element"},
        {"train__class_loss_weight": 0.5, "train__accumulate": 4, "model__fusion": "none", "model__dropout": 0.0},
    ],
    ids=lambda settings: "+".join(map(str, settings.values())),
)
def test_every_kind_of_network_is_captured(tmp_path: Path, settings: dict[str, object]) -> None:
    eager, graph = run_of(tmp_path, None, **settings), run_of(tmp_path, tape, **settings)
    torch.testing.assert_close(steps(graph, 3), steps(eager, 3), rtol=1e-5, atol=0)
    assert graph.paths.path == "graph"
