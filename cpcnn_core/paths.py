"""The path that a trial's steps take: call by call, compiled, as a graph; and whether each computes what it should.

An answer that is wrong on one machine only helps nobody. So the first step of each path is taken by the next slower one
too, from the same state, and a bf16 gradient is compared with float32's. A difference that rounding does not explain
ends the trial, for its result must not depend on the machine. A path that is merely not available is replaced by the
slower one, whose numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cpcnn_core.compiling import Regional
from cpcnn_core.errors import PathError, RunError
from cpcnn_core.graphs import Capture, captured, refusal, warmed_up
from cpcnn_core.loss import Loss
from cpcnn_core.memory import is_out_of_memory
from cpcnn_core.step import Snapshot, Step

SAME = 1e-3
"""Relative difference of two float32 gradients that are computed in another order. Sums in another order, and atomic
ones, give some 1e-6; a wrong formula gives more than 1e-2."""

BF16 = 0.03
"""The same where bf16 rounds, at weights where that says something (`CALM`). Measured there: up to 0.003."""

BF16_TIMES = 5.0
"""A compiled bf16 gradient rounds elsewhere than the eager one does. It may be so many times as far from that as that
is from float32's, and `BF16` at most; measured, it is 0.5 to 1 times as far."""

CALM = 0.005
"""What float32's gradient may change by when the weights are rounded to bf16, for bf16 to be judged by it. Right after
data-dependent initialisation it changes by 0.02 to 0.8 of its length, and bf16's own would be as far off, right or
wrong. With all scales and biases halved, once or twice, it changes by less than this."""

LEAST_SCALE = 2.0**-8  # to which scales and biases are halved

APPLIED = 1e-2
"""The same of what a step adds to the weights, given the gradient. The sum of a weight and a small step keeps few of
the step's digits."""

COMPARED_IMAGES = 8  # of the first micro-batch: bf16 and float32 are compared on them


class HalfAppliedError(RunError, RuntimeError):
    """Memory that ended in the middle of a change of the weights."""


class Outcome(NamedTuple):
    """What a step computed and what it left, on the CPU."""

    loss: float
    gradient: Tensor
    lasting: dict[str, Tensor]


class Paths:
    """Takes steps, each size of micro-batch by the fastest path that there is."""

    def __init__(
        self,
        step: Step,
        loss: Loss,
        device: torch.device,
        *,
        capture: Capture | None,
        reason: str | None,
        compiled: bool,
    ) -> None:
        self._step = step
        self._loss = loss
        self._device = device
        self._capture = capture
        self._reason = reason  # why nothing is captured where a device could
        self._compiled = compiled
        self._call: Callable[[], object] | None = None
        self._begun: int | None = None  # the size of micro-batches that `_call` takes
        self._notes: dict[str, str] = {}
        self._scale = 1.0  # of scales and biases where bf16, and what is compiled of it, is compared
        self._compiled_explained = SAME  # of a compiled gradient, by rounding

    @property
    def begun(self) -> bool:
        """Whether this process has taken a step."""
        return self._begun is not None

    @property
    def path(self) -> str:
        """How steps are taken in this process: a value of the column `path` of `epochs`."""
        compiled = self._compiled and self._missing is None
        return "+".join(["compiled"] * compiled + ["graph"] * (self._call is not None)) or "eager"

    @property
    def note(self) -> str | None:
        """Why there is no faster path, and what the comparisons gave: the column `path_note`."""
        notes = dict(self._notes)
        if self._missing is not None:
            notes["compiled"] = f"not compiled: {self._missing}"
        if self._capture is not None and (why := refusal(self._capture)) is not None:
            notes["refused"] = f"no {'further ' * (self._call is not None)}graph: {why}"
        return "; ".join(notes.values()) or None

    @property
    def _missing(self) -> str | None:
        """Why what was to be compiled is not."""
        objective = self._step.objective
        return objective.unavailable if isinstance(objective, Regional) else None

    def take(self, micro_batch: int) -> None:
        """Take a step with the batch that was loaded. Where memory ends, nothing has changed.

        Raise PathError, and RunError where memory ended when something had.
        """
        if self._begun != micro_batch:
            self._begin(micro_batch)
        elif self._call is not None:
            self._call()
        else:
            self._step.add_up(micro_batch)
            try:
                self._step.apply()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise HalfAppliedError(
                    "the device's memory ended while the weights were changed, which cannot be taken back; set "
                    "train.accumulate higher, or let fewer programs use the device"
                ) from error
            self._step.forget_gradient()

    def forget(self) -> None:
        """Let go of graphs, and of the gradient."""
        self._call, self._begun = None, None
        self._step.forget_gradient()

    def _begin(self, micro_batch: int) -> None:
        """Take the first step of this size by each path that there is, compare them, and keep the fastest."""
        self.forget()
        before = self._step.snapshot()
        try:
            if self._loss.bf16:
                self._compare_bf16(min(micro_batch, COMPARED_IMAGES), before)
            self._call = self._fastest(micro_batch, before)
        except RuntimeError:
            self._step.restore(before, whole=False)
            raise
        self._begun = micro_batch

    def _fastest(self, micro_batch: int, before: Snapshot) -> Callable[[], object] | None:
        """Take the step that is due; a call that takes further ones, or None where they are taken call by call."""
        capture = self._capture
        work = partial(self._step, micro_batch)
        if self._reason is not None:
            self._notes["graph"] = f"no graph: {self._reason}"
        if not self._compiled and capture is None:
            work()
            self._step.forget_gradient()
            return None
        if self._compiled:
            self._check_compiled(work, before)
        called = warmed_up(partial(self._outcome, work), self._device)
        if capture is None:
            self._step.forget_gradient()
            return None
        self._step.restore(before)
        self._step.forget_gradient()
        replay = captured(work, capture, what="a training step")
        self._step.restore(before)
        if replay is None:
            work()
            self._step.forget_gradient()
            return None
        self._check_replay(replay, called, before)
        return replay

    def _eager(self) -> AbstractContextManager[object]:
        """In which nothing compiled runs; entering it loads the compiler, so it is not where nothing is compiled."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    def _check_compiled(self, work: Callable[[], object], before: Snapshot) -> None:
        """Compare a compiled step with the eager one, and take neither."""
        outcome = partial(warmed_up, partial(self._outcome, work), self._device)
        self._step.scale_weights(self._scale)
        with self._eager():
            eager = outcome()
        self._step.restore(before)
        self._step.scale_weights(self._scale)
        compiled = outcome()
        self._step.restore(before)
        self._compare("compiled", compiled, eager, self._compiled_explained, "train.compile=false")

    def _check_replay(self, replay: Callable[[], object], called: Outcome, before: Snapshot) -> None:
        """Compare a captured step with the same one call by call, in its two halves, and take it."""
        replayed = self._outcome(replay)
        # The kernels are the same, so bf16 rounds where it did before.
        self._compare("graph", replayed, called, SAME, "train.graph=false")
        # What Adam makes of a gradient close to zero follows from its sign alone, so the second half is compared given
        # the same gradient, which still lies where the graph left it.
        self._step.restore(before)
        self._step.apply()
        for name, value in self._lasting().items():
            if name == "sums":  # of which one is the norm before clipping
                continue
            start = _flat(before[name]) if name in before else torch.zeros_like(value)
            found, wanted = replayed.lasting[name] - start, value - start
            explained = APPLIED * wanted.double().norm() + torch.finfo(torch.float32).eps * value.double().norm()
            off = (found - wanted).double().norm()
            if wanted.isfinite().all() and not off <= explained:
                raise PathError(
                    f"a captured step changes {name} by {found.norm().item():.7g}, {off.item():.2g} away from what the "
                    f"same step changes call by call, {wanted.norm().item():.7g}; rounding explains "
                    f"{explained.item():.2g}; set train.graph=false"
                )
        self._step.restore(before)
        replay()

    def _outcome(self, work: Callable[[], object]) -> Outcome:
        """Do the work, a whole step."""
        work()
        return Outcome(self._step.loss.item(), _flat(self._step.gradients()), self._lasting())

    def _lasting(self) -> dict[str, Tensor]:
        return {name: _flat(part) for name, part in self._step.lasting().items()}

    def _compare(self, path: str, found: Outcome, wanted: Outcome, explained: float, way_out: str) -> None:
        """Raise PathError where two outcomes differ by more than rounding."""
        off = distance(found.gradient, wanted.gradient)
        sums_off = distance(found.lasting["sums"], wanted.lasting["sums"])
        self._notes[path] = f"{path}: gradient {off:.1g} from the one call by call"
        if not wanted.gradient.isfinite().all():
            self._notes[path] = f"{path}: not compared, for the loss is not finite"
        elif not max(off, sums_off) <= explained:
            raise PathError(
                f"the first {path} step is not what the same step gives call by call: its gradient is {off:.2g} of its "
                f"length away, its loss {found.loss:.7g} instead of {wanted.loss:.7g}, the sums of the epoch "
                f"{sums_off:.2g} of theirs away, and rounding explains {explained:.2g}; set {way_out}"
            )

    def _compare_bf16(self, images: int, before: Snapshot) -> None:
        """Compare the gradient of bpd in bf16 with float32's, on a few images.

        Without the class loss: how likely one of two close classes is may well turn on bf16's rounding. Where weights
        are such that a gradient turns on it too, scales and biases are halved until it does not.
        """
        gradient = partial(self._step.gradient_of_bpd, self._loss, images)
        with self._eager():
            rounded, self._scale = math.inf, 2.0
            while rounded > CALM and self._scale > LEAST_SCALE:
                self._scale /= 2
                self._step.restore(before)
                self._step.scale_weights(self._scale)
                found, wanted = gradient(bf16=True), gradient(bf16=False)
                self._step.round_weights(torch.bfloat16)
                rounded = distance(gradient(bf16=False), wanted)
        self._step.restore(before)
        off = distance(found, wanted)
        self._compiled_explained = min(BF16, SAME + BF16_TIMES * off)
        where = f", scales and biases times {self._scale:g}" if self._scale < 1 else ""
        self._notes["bf16"] = f"bf16: gradient {off:.1g} from float32's{where}"
        if not wanted.isfinite().all():
            self._notes["bf16"] = "bf16: not compared, for the loss is not finite"
        elif not off <= BF16:
            raise PathError(
                f"train.precision: on {images} images{where} bf16's gradient, of length {found.norm().item():.7g}, is "
                f"{off:.2g} of its length away from float32's, {wanted.norm().item():.7g}, and rounding explains "
                f"{BF16:.2g}; set train.precision=fp32"
            )


def distance(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference of two vectors over the length of the second; 0 where both are zero."""
    length = wanted.double().norm()
    off = (found.double() - wanted.double()).norm()
    return float(off / length if length > 0 else off)


def _flat(part: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten().cpu() for value in part])
