"""Drawing images: `sample`, and two samplers that draw the same image from the same noise.

`sample_reference` makes one full forward pass per pixel. `sample_cached` (cached/) keeps what later pixels need.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Literal, get_args

import torch
from torch import Tensor

from cpcnn_core import graphs, likelihood
from cpcnn_core.cached import CachedNetwork
from cpcnn_core.data import to_model, to_uint8
from cpcnn_core.graphs import Capture
from cpcnn_core.memory import is_out_of_memory
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32

logger = logging.getLogger(__name__)

SMALLEST_UNIFORM = 1e-5  # as OpenAI's code: keeps the logistic's tails finite
BATCH_CPU, BATCH_ELSEWHERE = 128, 512  # images at a time where the caller does not say
SMALLEST_PART = 16  # images per CPU thread: with fewer, threads wait for Python's lock rather than compute

CHECKED_ON_CPU, CHECKED_AT_ONCE = 4, 128  # images of a batch whose pixels a full forward pass draws again
MOVED = 0.01  # share of pixels that rounding may draw otherwise; a wrong sampler moves nearly all

OnRow = Callable[[int, int], None]
"""Is told (image rows done, image rows in all), after each row of a batch."""

SamplePath = Literal["graph", "calls", "reference"]
"""How images were drawn: by the cached network, its rows as graphs or call by call, or by full forward passes."""

PATHS: tuple[SamplePath, ...] = get_args(SamplePath)
"""All of them, the fastest first."""


def sample(
    model: ConditionalPixelCNN,
    labels: Tensor,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    batch_size: int | None = None,
    given: Tensor | None = None,
    from_row: int = 0,
    on_row: OnRow | None = None,
    capture: Capture | None = None,
    on_path: Callable[[SamplePath], None] | None = None,
) -> Tensor:
    """Draw one image per label (N,) -> (N, C, H, W) uint8, on the model's device. Label -1 withholds the label.

    `given` (N, C, H, W) uint8 are images to complete: their first `from_row` rows are kept. An image depends on its
    place among the labels and on the generator, not on `batch_size`: where memory runs out, smaller batches go on
    with the same noise. `capture` makes one call of a row's many; by default it is `graphs.cuda_graph` on a GPU.

    A full forward pass over the images must draw the same pixels from the same noise (on a CPU over a few of them).
    Where it does not, they are drawn again without the graph, then by the reference; `on_path` hears which it was.
    """
    _check(model, labels, temperature, given, from_row)
    device = model.nin_out.conv.bias.device
    size = batch_size or (BATCH_CPU if device.type == "cpu" else BATCH_ELSEWHERE)
    height, total = model.image_shape[1], len(labels)
    noise = draw_noise(model, 0, generator)
    images = [to_uint8(torch.zeros(0, *model.image_shape, device=device))]
    done = 0

    def report(rows: int, _: int) -> None:
        if on_row is not None:
            on_row(done * height + rows, total * height)

    capture = capture or graphs.default_capture(device)
    heard = on_path or (lambda _: None)
    draw = partial(
        _confirmed, model, temperature=temperature, from_row=from_row, on_row=report, capture=capture, on_path=heard
    )
    while done < total:
        batch = slice(done, min(done + size, total))
        count = batch.stop - done
        if count > noise.shape[2]:
            noise = torch.cat([noise, draw_noise(model, count - noise.shape[2], generator)], dim=2)
        try:
            images.append(draw(labels[batch], noise[:, :, :count], given=None if given is None else given[batch]))
        except RuntimeError as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            size = count // 2
            continue
        noise = noise[:, :, count:]
        done = batch.stop
    return torch.cat(images)


def _confirmed(
    model: ConditionalPixelCNN,
    labels: Tensor,
    noise: Tensor,
    *,
    temperature: float,
    given: Tensor | None,
    from_row: int,
    on_row: OnRow,
    capture: Capture | None,
    on_path: Callable[[SamplePath], None],
) -> Tensor:
    """Draw by the fastest sampler whose images a full forward pass confirms."""
    reference = partial(sample_reference, model, labels, noise, temperature=temperature, from_row=from_row)
    cached = partial(sample_cached, model, labels, noise, temperature=temperature, from_row=from_row)
    check = partial(moved_pixels, model, labels, noise, temperature=temperature, from_row=from_row)
    ways: list[tuple[SamplePath, Capture]] = [("calls", graphs.call_by_call)]
    if capture is not None and graphs.refusal(capture) is None:
        ways.insert(0, ("graph", capture))
    for path, by in ways:
        images = cached(given=given, on_row=on_row, capture=by)
        moved = check(images)
        if not moved > MOVED:
            on_path(path if graphs.refusal(by) is None else "calls")
            return images
        logger.warning(
            "images drawn (%s) are not what a full forward pass draws from the same noise: %.1f %% of their pixels are "
            "others, and rounding explains %.0f %%; they are drawn again by a slower sampler",
            path,
            100 * moved,
            100 * MOVED,
        )
    on_path("reference")
    return reference(given=given, on_row=on_row)


@torch.inference_mode()
@whole_float32()
def moved_pixels(
    model: ConditionalPixelCNN,
    labels: Tensor,
    noise: Tensor,
    images: Tensor,
    *,
    temperature: float = 1.0,
    from_row: int = 0,
) -> float:
    """The share of sub-pixels of images (B, C, H, W) uint8 that one full forward pass draws otherwise from `noise`.

    All pixels before a pixel are given to that pass as they were drawn, so that it does not pass differences on.
    """
    channels = model.image_shape[0]
    checked = len(images) if images.device.type != "cpu" else min(len(images), CHECKED_ON_CPU)
    moved: list[Tensor] = []  # NaN is not where it was
    for start in range(0, checked, CHECKED_AT_ONCE):
        part = slice(start, min(start + CHECKED_AT_ONCE, checked))
        x = to_model(images[part])
        params = model(x, labels[part]).permute(2, 3, 0, 1)
        again = likelihood.sample(
            params,
            noise[:, :, part].to(x.device),
            channels=channels,
            n_mix=model.config.nr_logistic_mix,
            temperature=temperature,
        )
        moved.append(~((again.permute(2, 3, 0, 1) - x)[:, :, from_row:].abs() * 127.5 <= 0.5).flatten())
    compared = sum(len(each) for each in moved)
    return torch.cat(moved).float().mean().item() if compared else 0.0


def draw_noise(model: ConditionalPixelCNN, batch: int, generator: torch.Generator) -> Tensor:
    """Uniforms (H, W, B, K + C) for a batch of images, all the randomness that a sampler uses.

    They are drawn image by image: two batches get the noise that one of both their images would get.
    """
    channels, height, width = model.image_shape
    noise = torch.empty(batch, height, width, model.config.nr_logistic_mix + channels, device=generator.device)
    for image in noise:
        image.uniform_(SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM, generator=generator)
    return noise.permute(1, 2, 0, 3)


@torch.inference_mode()
@whole_float32()
def sample_reference(
    model: ConditionalPixelCNN,
    labels: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    given: Tensor | None = None,
    from_row: int = 0,
    on_row: OnRow | None = None,
) -> Tensor:
    """Draw one image per label (B,) with `noise` from `draw_noise` -> (B, C, H, W) uint8; else as `sample`.

    A full forward pass for each of the H x W pixels: slow, and what every faster sampler is tested against.
    """
    _check(model, labels, temperature, given, from_row)
    channels, height, width = model.image_shape
    like = model.nin_out.conv.bias
    x = like.new_zeros(len(labels), channels, height, width)
    if given is not None:
        x[:, :, :from_row] = to_model(given[:, :, :from_row])
    for row in range(from_row, height):
        for column in range(width):
            params = model(x, labels)[:, :, row, column]
            x[:, :, row, column] = likelihood.sample(
                params,
                noise[row, column].to(like.device),
                channels=channels,
                n_mix=model.config.nr_logistic_mix,
                temperature=temperature,
            )
        if on_row is not None:
            on_row((row + 1) * len(labels), height * len(labels))
    return to_uint8(x)


@torch.inference_mode()
@whole_float32()
def sample_cached(
    model: ConditionalPixelCNN,
    labels: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    given: Tensor | None = None,
    from_row: int = 0,
    on_row: OnRow | None = None,
    capture: Capture | None = None,
) -> Tensor:
    """The image of `sample_reference`, hundreds of times as fast.

    On a CPU each of `torch.get_num_threads()` threads draws a part of the batch and computes alone: the matrix products
    of one pixel are too small to be worth sharing, the more so where other processes want the cores too.
    """
    _check(model, labels, temperature, given, from_row)
    channels, height, width = model.image_shape
    batch, device = len(labels), model.nin_out.conv.bias.device
    capture = capture or graphs.default_capture(device)
    image = torch.zeros(height, width, channels, batch, dtype=torch.uint8, device=device)
    if given is not None:
        image[:from_row] = given[:, :, :from_row].permute(2, 3, 1, 0)
    rows = from_row * batch

    def draw(part: slice) -> Iterator[int]:
        network = CachedNetwork(model, labels[part], capture)
        return _draw(network, noise[:, :, part], temperature, from_row, image[..., part])

    def report(drawn: int) -> None:
        nonlocal rows
        rows += drawn
        if on_row is not None:
            on_row(rows, height * batch)

    parts = _parts(batch, torch.get_num_threads()) if device.type == "cpu" else 1
    if parts == 1:
        for drawn in draw(slice(0, batch)):
            report(drawn)
    else:
        bounds = [batch * i // parts for i in range(parts + 1)]
        _draw_in_threads(draw, [slice(*pair) for pair in itertools.pairwise(bounds)], report)
    return image.permute(3, 2, 0, 1).contiguous()


def _draw_in_threads(
    draw: Callable[[slice], Iterator[int]], parts: Sequence[slice], report: Callable[[int], None]
) -> None:
    """Draw each part in a thread of its own, and report in this one. An error in one thread stops the others."""
    threads = torch.get_num_threads()
    events: SimpleQueue[int] = SimpleQueue()  # rows drawn, and 0 at the end of a part
    stop = threading.Event()

    @torch.inference_mode()
    def work(part: slice) -> None:
        try:
            for drawn in draw(part):
                events.put(drawn)
                if stop.is_set():
                    break
        except BaseException:
            stop.set()
            raise
        finally:
            events.put(0)

    with ThreadPoolExecutor(len(parts), "sample", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            at_work = len(parts)
            while at_work:
                drawn = events.get()
                if drawn:
                    report(drawn)
                else:
                    at_work -= 1
        finally:
            stop.set()
    torch.set_num_threads(threads)  # the matrix library's count is the process's, not the thread's
    for future in futures:
        future.result()


def _parts(batch: int, threads: int) -> int:
    return max(1, min(threads, batch // SMALLEST_PART))


def _draw(network: CachedNetwork, noise: Tensor, temperature: float, from_row: int, image: Tensor) -> Iterator[int]:
    """Fill `image` (H, W, C, B) uint8 from row `from_row` on, those above being given; after each row yield B."""
    height, _, channels, batch = image.shape
    for row in range(height):
        if row < from_row:
            network.give_row(row, to_model(image[row]))
            continue
        uniform = noise[row].permute(0, 2, 1).to(image.device)  # (W, K + C, B)
        logits, logistic = uniform[:, :-channels], uniform[:, -channels:]
        gumbel = -torch.log(-torch.log(logits))
        logistic = torch.log(logistic) - torch.log1p(-logistic)
        image[row] = network.draw_row(row, gumbel * temperature, logistic * temperature)
        yield batch


def _check(model: ConditionalPixelCNN, labels: Tensor, temperature: float, given: Tensor | None, from_row: int) -> None:
    height = model.image_shape[1]
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(f"labels: {labels.dtype} of shape {tuple(labels.shape)}, expected one integer per image")
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < model.nr_classes:
        raise ValueError(
            f"labels: from {int(labels.min())} to {int(labels.max())}, expected -1 (withheld) to {model.nr_classes - 1}"
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: {temperature}, expected a finite number of at least 0")
    if not 0 <= from_row <= height:
        raise ValueError(f"from_row: {from_row}, expected 0 to {height}")
    if given is None and from_row:
        raise ValueError(f"from_row: {from_row} without `given`, the images whose rows above are kept")
    if given is not None and (given.shape != (len(labels), *model.image_shape) or given.dtype != torch.uint8):
        raise ValueError(
            f"given: {given.dtype} of shape {tuple(given.shape)}, "
            f"expected uint8 of shape {(len(labels), *model.image_shape)}"
        )
