"""The class posterior: Bayes' rule over log p(x | y)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cpcnn_core.data import to_model
from cpcnn_core.errors import PathError
from cpcnn_core.graphs import Capture, captured, warmed_up
from cpcnn_core.likelihood import log_prob
from cpcnn_core.memory import is_out_of_memory
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32

CPU_PIXELS = 32 * 32 * 32
"""On a CPU, pixels per forward pass: larger tensors leave its caches, and each is memory fresh from the system."""

WORTH_CAPTURING = 4
"""Forward passes of evaluation from which on capturing one, which takes the time of two, is worth it."""

CAPTURED = {False: 1e-5, True: 1e-2}
"""Relative difference of log-likelihoods, without and with bf16, that rounding explains where kernels differ."""

CLOSE_CALLS = 32
"""How many of bf16's close calls are computed again at a time, and the fewest."""

SURE = 2.0
"""In bf16, how many times the largest error found two classes must lie apart to be believed."""


@torch.inference_mode()
@whole_float32()
def class_log_likelihoods(
    model: ConditionalPixelCNN,
    images: Tensor,
    *,
    batch_size: int,
    bf16: bool = False,
    on_images: Callable[[int, int], None] | None = None,
    capture: Capture | None = None,
) -> Tensor:
    """Log p(x | y) in nats for every image and class: images (N, C, H, W) -> (N, Y) float64 on the CPU.

    `batch_size` is the most images times classes per forward pass, of an image under many classes several passes; on a
    CPU, which is faster with few, `CPU_PIXELS` is another limit. What does not depend on the class, with late fusions
    the larger part of the network, is computed once per image. With `bf16` the network runs under autocast, the
    likelihood in float32 all the same; whoever wants to know the likeliest class has `with_close_calls_settled` look at
    the result. `on_images` hears (images done, images in all). `capture` makes one call of a pass's many, where there
    are enough passes.

    Raise PathError where a captured pass gives something else than the same pass call by call.
    """
    device = next(model.parameters()).device
    Y = model.nr_classes
    if device.type == "cpu":
        batch_size = max(1, min(batch_size, CPU_PIXELS // images.shape[2:].numel()))
    was_training = model.training
    model.eval()
    rows: list[Tensor] = []
    done = 0
    size = max(1, batch_size // Y)
    classes = torch.arange(Y, device=device).split(min(Y, batch_size))
    look: Look = partial(_of_classes, model, bf16=bf16)
    with model.weights.ready(torch.bfloat16 if bf16 else None):  # once, not once per batch
        if capture is not None and len(images) * len(classes) > WORTH_CAPTURING * size:
            look = _Captured(look, images[:size].to(device), classes[0], capture, explained=CAPTURED[bf16])
        for chunk in images.split(size):
            of_chunk = chunk.to(device)
            rows.append(torch.cat([look(of_chunk, some) for some in classes], dim=1))
            done += len(chunk)
            if on_images is not None:
                on_images(done, len(images))
    model.train(was_training)
    return torch.cat(rows).cpu().double()


Look = Callable[[Tensor, Tensor], Tensor]
"""A forward pass: images, and classes (n,) -> log p(x | y), (images, n) float32."""


def _of_classes(model: ConditionalPixelCNN, chunk: Tensor, classes: Tensor, *, bf16: bool) -> Tensor:
    """Log p(x | y) of one forward pass, (images, classes) float32."""
    x, n = to_model(chunk), len(classes)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        params = model(x, classes.repeat(len(x)))
    log_p = log_prob(x.repeat_interleave(n, dim=0), params.float(), n_mix=model.config.nr_logistic_mix)
    return log_p.view(-1, n)


class _Captured:
    """A forward pass over so many images and classes, captured: fewer are filled up with what was there before."""

    def __init__(self, look: Look, first: Tensor, classes: Tensor, capture: Capture, *, explained: float) -> None:
        self._look = look
        self._images, self._classes = first.clone(), classes.clone()
        self._rows = warmed_up(self._pass, first.device).clone()
        try:
            replay = captured(self._pass_into_rows, capture, what="a pass of evaluation")
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            replay = None  # a graph keeps memory of its own; what fits without is done without
        self._call = replay or self._pass_into_rows
        if replay is not None:
            self._check(replay, explained)

    def __call__(self, chunk: Tensor, classes: Tensor) -> Tensor:
        self._images[: len(chunk)].copy_(chunk)
        self._classes[: len(classes)].copy_(classes)
        self._call()
        return self._rows[: len(chunk), : len(classes)].clone()

    def _pass(self) -> Tensor:
        return self._look(self._images, self._classes)

    def _pass_into_rows(self) -> None:
        self._rows.copy_(self._pass())

    def _check(self, replay: Callable[[], object], explained: float) -> None:
        wanted = self._rows.clone()
        self._rows.zero_()
        replay()
        off = (self._rows - wanted).norm() / wanted.norm()
        if wanted.isfinite().all() and not off <= explained:
            raise PathError(
                f"a captured pass of evaluation gives {self._rows.mean().item():.7g} nats on average where the same "
                f"pass call by call gives {wanted.mean().item():.7g}; they are {off.item():.2g} of their size apart, "
                f"and rounding explains {explained:g}; set train.graph=false"
            )


def with_close_calls_settled(table: Tensor, log_prior: Tensor, exact: Callable[[Tensor], Tensor]) -> Tensor:
    """Put float32's rows into bf16's table (N, Y) of log p(x | y), wherever the likeliest class might be another.

    A trained network's errors in bf16 are some nats, and its close calls no further apart. `exact` gives the rows, in
    float32, of images by their numbers (n,). It is asked for the images whose two likeliest classes are closest, until
    the next ones are further apart than `SURE` times the largest error that was found. That leaves hardly a prediction
    that is not float32's; a guarantee it is not, for among the others an error might be larger still.
    """
    N, Y = table.shape
    if Y == 1 or N == 0:
        return table
    first, second = log_joint(table, log_prior).topk(2, dim=1).values.unbind(dim=1)
    # What is no number says nothing of float32's: it is computed again first, and left as it is then.
    leads, order = (first - second).where(table.isfinite().all(dim=1), 0.0).sort()
    table = table.clone()
    errors: list[float] = []  # of differences of two classes, the largest of each chunk
    for lead, chunk in zip(leads.split(CLOSE_CALLS), order.split(CLOSE_CALLS), strict=True):
        if errors and lead[0] >= SURE * max(errors):
            break
        rows = exact(chunk)
        error = table[chunk] - rows
        errors.append((error.amax(dim=1) - error.amin(dim=1)).max().nan_to_num(nan=math.inf).item())
        table[chunk] = rows
    return table


def log_joint(log_likelihood: Tensor, log_prior: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log p(y | x), but for a constant of each row, from log p(x | y) (N, Y) and log p(y) (Y,), nats.

    `temperature` divides the log-likelihoods. The largest of a row is taken off before the prior is added: beside a
    likelihood of -1e8 nats a prior would be lost.
    """
    largest = log_likelihood.detach().amax(dim=1, keepdim=True)
    return (log_likelihood - largest) / temperature + log_prior


def log_posterior(log_likelihood: Tensor, log_prior: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log p(y | x), (N, Y), from the same as `log_joint`."""
    return log_joint(log_likelihood, log_prior, temperature=temperature).log_softmax(dim=1)


def predict(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """Argmax over classes of log p(x | y) + log p(y): (N, Y) -> (N,)."""
    return log_joint(log_likelihood, log_prior).argmax(dim=1)
