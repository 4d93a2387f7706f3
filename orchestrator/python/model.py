"""A trial's network, opened: it classifies images, draws them, and says where the evidence for a class lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cpcnn_core import attribution, classify
from cpcnn_core.checkpoint import Weights
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.errors import UserError
from cpcnn_core.model import ConditionalPixelCNN
from orchestrator.exporting import drawing
from orchestrator.exporting.folder import WEIGHTS
from orchestrator.records import location
from orchestrator.records.location import Folder
from orchestrator.training import trainer

Floats: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]


class ImageError(UserError, ValueError):
    """Images that the network does not take."""


class Model:
    """The weights of one epoch of a trial, on the GPU where there is one.

    Images are arrays of shape (N, H, W, C), as Pillow and matplotlib have them, or (N, H, W) where they are grey;
    `image_shape` is their (H, W, C). They are uint8, or floats from 0 to 255.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._network = weights.model.to(trainer.device()).eval()

    def __repr__(self) -> str:
        model = self.config.model
        sizes = f"{model.nr_resnet}/{model.nr_filters}/{model.nr_logistic_mix}"
        return f"Model({model.fusion} {sizes} of trial {self.config.trial_id}, epoch {self.epoch})"

    @property
    def config(self) -> TrialConfig:
        """The trial's configuration."""
        return self._weights.config

    @property
    def epoch(self) -> int:
        """The epoch whose weights these are."""
        return self._weights.epoch

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What was measured of these weights when they were trained."""
        return self._weights.metrics

    @property
    def network(self) -> ConditionalPixelCNN:
        """The torch module: images (B, C, H, W) in [-1, 1] and labels (B,) -> mixtures (B, parameters, H, W)."""
        return self._network

    @property
    def nr_classes(self) -> int:
        return self._network.nr_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, in the order of their numbers."""
        return self._weights.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        C, H, W = self._network.image_shape
        return H, W, C

    def log_likelihood(self, images: ArrayLike) -> Floats:
        """Log p(image | class) in nats of each image under each class, (N, Y). Raise ImageError."""
        table = classify.class_log_likelihoods(
            self._network, self._taken(images), batch_size=self.config.eval.batch_size
        )
        return table.numpy()

    def classify(self, images: ArrayLike, *, prior: ArrayLike | None = None) -> Floats:
        """p(class | image) by Bayes' rule, (N, Y); `argmax(1)` is the prediction.

        `prior` are the classes' probabilities (Y,), by default all alike. Raise ImageError; ConfigError where the trial
        was evaluated with the training set's frequencies (`eval.prior`) and they are not given.
        """
        if prior is None and self.config.eval.prior != "uniform":
            raise ConfigError(
                f"eval.prior is {self.config.eval.prior}: give classify(..., prior=[...]) the classes' frequencies in "
                "the training set"
            )
        Y = self.nr_classes
        given = np.full(Y, 1 / Y) if prior is None else np.asarray(prior, dtype=np.float64)
        if given.shape != (Y,) or not (given > 0).all():
            raise ConfigError(f"prior: {given.tolist()}: expected {Y} probabilities, each above 0")
        log_prior = torch.from_numpy(np.log(given / given.sum()))
        return classify.log_posterior(torch.from_numpy(self.log_likelihood(images)), log_prior).exp().numpy()

    def sample(
        self,
        per_class: int | Mapping[int, int] | Mapping[str, int] = 4,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Images, NDArray[np.int64]]:
        """Draw so many images of each class, or of each class as the mapping says: (N, H, W, C) and labels (N,).

        The mapping has classes by name or by number. Without a seed it is the trial's own. The images lie in the order
        of their classes. Raise ConfigError.
        """
        counts = dict.fromkeys(range(self.nr_classes), per_class) if isinstance(per_class, int) else dict(per_class)
        wanted: dict[int, int] = {}
        for given, count in counts.items():
            if count < 0:
                raise ConfigError(f"per_class: {count} images of class {given}: expected 0 or more")
            label = self._label(given, "per_class")
            wanted[label] = wanted.get(label, 0) + count
        wanted = {label: count for label, count in sorted(wanted.items()) if count}
        if not wanted:
            raise ConfigError("per_class: no images")
        request = drawing.Request(wanted, self.config.seed if seed is None else seed, temperature)
        drawn = drawing.draw(self._weights, request)
        return drawn.images.permute(0, 2, 3, 1).numpy(), drawn.labels.numpy()

    def _label(self, given: str | int, what: str) -> int:
        """The number of a class. Raise ConfigError for one that the model does not know."""
        if isinstance(given, str):
            return drawing.known_class(given, self.class_names, f"{what}: {given}")
        if given not in range(self.nr_classes):
            raise ConfigError(f"{what}: {given}: the model knows the classes 0 to {self.nr_classes - 1}")
        return given

    def evidence(self, images: ArrayLike, one: str | int | ArrayLike, other: str | int | ArrayLike) -> Floats:
        """Log p(pixel | those before it, one) - log p(the same | other) in nats, (N, H, W).

        `one` and `other` are classes: a name or a number for all images, or a number for each. Above 0 a pixel speaks
        for `one`. The sum over an image is log p(image | one) - log p(image | other). Raise ImageError, ConfigError.
        """
        taken = self._taken(images)
        return attribution.log_ratio(
            self._network, taken, self._classes(one, len(taken)), self._classes(other, len(taken))
        ).numpy()

    def _classes(self, given: str | int | ArrayLike, count: int) -> Tensor:
        if isinstance(given, str):
            given = self._label(given, "classes")
        labels = np.asarray(given)
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in {(), (count,)}:
            raise ConfigError(f"classes: expected a whole number, or {count} of them")
        if not ((labels >= 0) & (labels < self.nr_classes)).all():
            raise ConfigError(f"classes: the model knows the classes 0 to {self.nr_classes - 1}")
        return torch.from_numpy(np.broadcast_to(labels, (count,)).astype(np.int64))

    def _taken(self, images: ArrayLike) -> Tensor:
        """As the core has them: (N, C, H, W), uint8 or float32 in [-1, 1]. Raise ImageError."""
        array = np.asarray(images)
        H, W, C = self.image_shape
        if array.ndim == 3 and C == 1:
            array = array[..., None]
        if array.ndim != 4 or array.shape[1:] != (H, W, C):
            expected = f"(N, {H}, {W}, {C})"
            raise ImageError(f"images of shape {np.asarray(images).shape}: this network takes {expected}")
        if array.dtype != np.uint8:
            if not np.issubdtype(array.dtype, np.floating):
                raise ImageError(f"images of {array.dtype}: expected uint8, or floats from 0 to 255")
            if array.size and not (array.min() >= 0 and array.max() <= 255):  # NaN too
                raise ImageError(f"images from {array.min()} to {array.max()}: expected floats from 0 to 255")
            array = (array / 127.5 - 1).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def open_model(weights: str | Path | Folder) -> Model:
    """The model in a file of weights, or in a folder that `Choice.export` or the command `best` wrote.

    Raise StoreError, or CheckpointError for what holds no weights of this program.
    """
    file = location.given(weights)
    return Model(drawing.load(file / WEIGHTS if file.is_dir() else file)[0])
