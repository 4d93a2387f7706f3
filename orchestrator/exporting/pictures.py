"""Pictures of the best trials for the report: what they draw, what they mistake, and where in it the evidence lies.

They need the network and the data. So they are made once, from the kept weights, and stored; a page reads them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cpcnn_core import attribution, classify, evaluate, memorisation, quality
from cpcnn_core.checkpoint import Weights
from cpcnn_core.config import TrialConfig
from cpcnn_core.data import Dataset, to_uint8
from cpcnn_core.errors import CpcnnError, RunError
from orchestrator.choosing import finalists
from orchestrator.choosing.finalists import Finalist
from orchestrator.exporting import drawing
from orchestrator.records import arrays
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Store, StoreError, config_of
from orchestrator.search import artifacts
from orchestrator.search.study_file import StudyError
from orchestrator.training import trainer

MISTAKES = 6  # validation images, the most confident first
RIGHT = 3  # classes of which a rightly classified image is shown
SECONDS = 120.0  # for the images of all finalists together: a large network on a CPU is slow

_IMAGES = 40  # drawn of a trial, shared out over the classes
_MOST, _FEWEST = 8, 2  # of each class; where there are too many classes for that, of some of them


class _TooLongError(RunError):
    """Drawing takes longer than it may."""


def draw_missing(store: Store, say: Callable[[str], None]) -> None:
    """Make the pictures of a sweep's finalists that have none yet, while weights and data are at hand.

    What its trials drew is attached to the study, for optuna-dashboard. What keeps it from that is said, and is no
    error.
    """
    if missing := finalists.without_pictures(finalists.of_sweep(store)):
        say(f"Drawing images for the report, of {len(missing)} trials.")
        draw(missing, say)
    try:
        artifacts.attach(store)
    except (StudyError, StoreError, OSError) as error:
        say(f"no pictures for optuna-dashboard: {error}")


def draw(among: Iterable[Finalist], say: Callable[[str], None]) -> None:
    """Make and store the pictures of each. What keeps one from it is said, and is no error."""
    until = time.monotonic() + SECONDS
    for one in among:
        try:
            one.store.write_pictures(one.trial_id, one.epoch, _pictures(one, until, say))
        except (CpcnnError, torch.OutOfMemoryError) as error:
            say(f"no pictures of {one.trial_id}, epoch {one.epoch}: {str(error).splitlines()[0]}")


def _pictures(one: Finalist, until: float, say: Callable[[str], None]) -> list[Picture]:
    """Raise StoreError, CheckpointError, DataError."""
    [*_, trial] = one.store.attempts_of(one.trial_id)
    config = config_of(trial)
    file = one.weights
    if file is None:
        raise StoreError("its weights are not there any more")
    weights, _ = drawing.load(file)
    weights.model.to(trainer.device())
    dataset = trainer.dataset(config.data)
    found = _classified(one, weights, config, dataset)
    try:
        return found + _drawn(weights, config.seed, dataset, until)
    except _TooLongError:
        say(f"{one.trial_id} draws no images for the report: it would take more than {SECONDS:.0f} s")
        return found


# ------------------------------------------------------------------------------------------------------ drawn images


def per_class_of(nr_classes: int) -> int:
    """How many images of each class are drawn of which any are."""
    return max(_FEWEST, min(_MOST, _IMAGES // nr_classes))


def drawn_classes(nr_classes: int) -> list[int]:
    """The classes of which images are drawn: all, or of many as many as there are images for, evenly spread."""
    most = _IMAGES // _FEWEST
    return list(range(nr_classes)) if nr_classes <= most else [at * nr_classes // most for at in range(most)]


def _drawn(weights: Weights, seed: int, dataset: Dataset, until: float) -> list[Picture]:
    """Some images of each class, each beside the training image that is nearest to it. Raise _TooLongError."""

    def on_row(_done: int, _rows: int) -> None:
        if time.monotonic() > until:
            raise _TooLongError

    per_class, classes = per_class_of(dataset.nr_classes), drawn_classes(dataset.nr_classes)
    drawn = quality.draw(weights.model, per_class, seed=seed, classes=classes, on_row=on_row)
    nearest, distances = memorisation.nearest_images(drawn.images, dataset.train.images)
    return [
        Picture(
            kind="drawn",
            label=label,
            png=_png(image),
            nearest=dataset.train.names[at],
            nearest_label=int(dataset.train.labels[at]),
            nearest_png=_png(dataset.train.images[at]),
            distance=distance,
        )
        for image, label, at, distance in zip(
            drawn.images, drawn.labels.tolist(), nearest.tolist(), distances.tolist(), strict=True
        )
    ]


# ------------------------------------------------------------------------------------------------- classified images


def _classified(one: Finalist, weights: Weights, config: TrialConfig, dataset: Dataset) -> list[Picture]:
    """The most confident mistakes, and some that are no mistakes, with the likelihood ratio of each pixel."""
    log_p, predicted = _predicted(one)
    at_name = {name: at for at, name in enumerate(dataset.validation.names)}
    if not at_name.keys() >= set(predicted):
        raise StoreError("its predictions are of other images than the data set has now")
    split = dataset.validation.take([at_name[name] for name in predicted])  # perhaps only some were evaluated
    prior = evaluate.log_prior(config.eval.prior, dataset.train.labels, dataset.nr_classes)
    posterior = classify.log_posterior(log_p, prior)
    first, second = posterior.topk(2, dim=1).indices.unbind(dim=1)
    other = torch.where(first == split.labels, second, first)
    chosen = torch.tensor(_worth_showing(posterior, split.labels), dtype=torch.int64)
    if not len(chosen):
        return []
    images = split.images[chosen]
    ratios = attribution.log_ratio(weights.model, images, split.labels[chosen], other[chosen])
    return [
        Picture(
            kind="validation",
            label=int(split.labels[at]),
            png=_png(image),
            image=split.names[at],
            predicted=int(first[at]),
            confidence=float(posterior[at].max().exp()),
            other=int(other[at]),
            log_ratio=ratio.flatten().tolist(),
        )
        for at, image, ratio in zip(chosen.tolist(), images, ratios, strict=True)
    ]


def _predicted(one: Finalist) -> tuple[Tensor, Sequence[str]]:
    """Log p(x | y) as the epoch predicted it, (N, Y), and of which images. Raise StoreError where it is not there."""
    table = one.store.predictions_table(one.trial_id, one.epoch)
    columns = sorted((name for name in table.column_names if name.startswith("log_p_")), key=_label)
    log_p = np.stack([arrays.numbers(table[name]) for name in columns], axis=1)
    return torch.from_numpy(log_p), table["image"].to_pylist()


def _label(column: str) -> int:
    return int(column.rpartition("_")[2])


def _worth_showing(posterior: Tensor, labels: Tensor) -> list[int]:
    """Images by number: the most confident mistakes, then of some classes one that lies in the middle of the sure ones.

    Of many images the log p(y | x) rounds to 0. What it lacks to a probability of 1, taken from the other classes,
    still orders them.
    """
    right = posterior.argmax(dim=1) == labels
    lead = -posterior.topk(posterior.shape[1], dim=1).values[:, 1:].logsumexp(dim=1)
    wrong = (~right).nonzero()[:, 0]
    chosen: list[int] = wrong[lead[wrong].argsort(descending=True)][:MISTAKES].tolist()
    for label in labels.unique().tolist():
        of_class = (right & (labels == label)).nonzero()[:, 0]
        if len(of_class) and len(chosen) < MISTAKES + RIGHT:
            chosen.append(int(of_class[lead[of_class].argsort()][len(of_class) // 2]))
    return chosen


def _png(image: Tensor) -> bytes:
    """An image (C, H, W) as a PNG of its own size."""
    pixels = to_uint8(image).permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
