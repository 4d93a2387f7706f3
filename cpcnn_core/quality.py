"""How good the images are that a model draws: some of each class, their distances from real ones, and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cpcnn_core import data, fid, grid, seeds
from cpcnn_core.class_names import MOST_MEASURED, of_classes
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.data import Dataset
from cpcnn_core.features import Extractor, FidError, extractor
from cpcnn_core.fid import Reference, Scores
from cpcnn_core.memorisation import Neighbours
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.sampling import PATHS, SamplePath, draw_noise, sample

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images that a model drew, class by class."""

    images: Tensor  # (N, C, H, W) uint8, on the CPU
    labels: Tensor  # (N,) int64
    path: str | None = None  # how, in any process: those of `PATHS` that were used, joined by +

    def write_grid(self, path: Path) -> None:
        """A PNG with one row per class, of its first 25 images at most, and of the first 100 classes at most."""
        grid.write(path, self.images, self.labels)


def draw(
    model: ConditionalPixelCNN,
    per_class: int,
    *,
    seed: int,
    classes: Sequence[int] | None = None,
    accelerator: Accelerator | None = None,
    on_row: Callable[[int, int], None] | None = None,
) -> Drawn:
    """Draw `per_class` images of each of `classes`, by default of all.

    With several processes each draws its share and all get the whole.

    The noise follows from `seed` alone, so that the same seed shows two epochs on the same noise: what differs between
    their images, and much of what differs between their FIDs, is then the model.
    """
    labels = torch.tensor(range(model.nr_classes) if classes is None else classes).repeat_interleave(per_class)
    device = model.nin_out.conv.bias.device
    generator = seeds.generator(seed, seeds.Purpose.SAMPLES)  # the CPU's, whatever draws: the same noise everywhere
    paths: list[SamplePath] = []
    drawing = partial(sample, model, generator=generator, on_row=on_row, on_path=paths.append)
    if accelerator is None or accelerator.num_processes == 1:
        images = drawing(labels.to(device))
        return Drawn(images.cpu(), labels, _joined([path in paths for path in PATHS]))
    share = math.ceil(len(labels) / accelerator.num_processes)
    start = accelerator.process_index * share
    # Each process needs the same number of images to gather; the surplus ones are cut off again.
    mine = torch.arange(start, start + share).clamp(max=len(labels) - 1)
    draw_noise(model, min(start, len(labels)), generator)  # that of the processes before this one
    images = drawing(labels[mine].to(device))
    gathered = accelerator.gather(images.to(accelerator.device))
    own = torch.tensor([[path in paths for path in PATHS]], dtype=torch.int64, device=accelerator.device)
    return Drawn(gathered[: len(labels)].cpu(), labels, _joined(accelerator.gather(own).amax(0).tolist()))


def _joined(used: Iterable[int]) -> str:
    """Those of `PATHS` that were used, the fastest first."""
    return "+".join(path for path, was_used in zip(PATHS, used, strict=True) if was_used)


@dataclass(frozen=True, eq=False)
class Quality:
    """How good drawn images are: their distances, and how near they come to the training images."""

    scores: Scores
    nearest_train: float  # median distance of a drawn image to the nearest training image, in features
    nearest_train_validation: float  # the same of the validation images


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What drawn images are measured against, and by whose features."""

    extract: Extractor
    reference: Reference
    extrapolate: bool
    neighbours: Neighbours

    def measure(self, drawn: Drawn, *, seed: int) -> Quality:
        """FID, per-class FID and KID, where what cannot be measured is a Distance with a reason; and memorisation."""
        generator = seeds.generator(seed, seeds.Purpose.EXTRAPOLATION) if self.extrapolate else None
        features = self.extract(drawn.images)
        each = len(drawn.labels.unique()) <= MOST_MEASURED
        scores = fid.score_features(
            features, drawn.labels, self.reference, of_each_class=each, extrapolate_with=generator
        )
        return Quality(scores, self.neighbours.of_samples(features), self.neighbours.of_validation)


def evaluator(config: TrialConfig, dataset: Dataset, device: torch.device | str = "cpu") -> Evaluator:
    """The evaluator that `config.eval` asks for.

    Raise ConfigError where Inception's weights cannot be had or too few images are drawn to extrapolate, DataError
    where the data set has no such reference.
    """
    asked = config.eval
    # The classifier learns from every training image, whatever fraction of them the model sees: all are measured alike.
    whole = dataset
    if config.data.train_fraction < 1:
        whole = data.load(config.data.model_copy(update={"train_fraction": 1.0}))
    weights = None if asked.fid_weights is None else Path(asked.fid_weights)
    of = {"train": whole.train, "validation": whole.validation}.get(asked.fid_reference, whole.test)
    if not len(of):
        raise ConfigError(
            f"eval.fid_reference={asked.fid_reference}: {dataset.name} has no test images; choose validation or train"
        )
    try:
        extract = extractor(asked.fid_extractor, whole.train, weights=weights, device=device)
        drawn = asked.fid_images_per_class * dataset.nr_classes
        if asked.fid_extrapolate and drawn <= 2 * extract.dims:
            raise ConfigError(
                f"eval.fid_extrapolate: {drawn} images of {extract.dims} features are too few to extrapolate; set "
                f"eval.fid_images_per_class to {2 * extract.dims // dataset.nr_classes + 1} or more, or choose an "
                "extractor of fewer features"
            )
        if asked.fid_reference == "test_files":
            files = data.files(config.data, of)
            reference = fid.reference_of_files(extract, files, f"{dataset.name}/test_files", of.labels)
        else:
            reference = fid.reference(extract, of, f"{dataset.name}/{asked.fid_reference}")
        # What the model has seen, that is, and no more of the training images.
        seen, unseen = (
            fid.reference(extract, split, f"{dataset.name}/{name}").features
            for name, split in (("train", dataset.train), ("validation", whole.validation))
        )
    except FidError as error:
        raise ConfigError(f"eval.fid_extractor={asked.fid_extractor}: {error}") from None
    return Evaluator(extract, reference, asked.fid_extrapolate, Neighbours.of_splits(seen, unseen))


def metrics(quality: Quality, class_names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, float]]:
    """The fields of an EpochMetrics that hold `quality`, and the values `fid.CLASS` for its `extra`."""
    scores = quality.scores
    per_class = {class_names[label]: distance for label, distance in scores.per_class.items()}
    failed = [f"{name}: {distance.reason}" for name, distance in per_class.items() if distance.value is None]
    fields = {
        "fid": scores.fid.value,
        "fid_extractor": scores.fid.extractor,
        "fid_images": scores.fid.images,
        "fid_reference": scores.fid.reference,
        "fid_standard_error": scores.fid.standard_error,
        "fid_error": scores.fid.reason,
        "fid_class_error": failed[0] if failed else None,
        "kid": scores.kid.value,
        "kid_standard_error": scores.kid.standard_error,
        "kid_error": scores.kid.reason,
        "nearest_train": quality.nearest_train,
        "nearest_train_validation": quality.nearest_train_validation,
    }
    if scores.extrapolated is not None:
        fields |= {"fid_infinity": scores.extrapolated.value, "fid_infinity_error": scores.extrapolated.reason}
    return fields, of_classes("fid", ((name, found.value) for name, found in per_class.items()), len(class_names))
