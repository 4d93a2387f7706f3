"""How far generated images are from real ones: FID, per-class FID, KID, each with what makes it comparable.

FID (Heusel et al. 2017) is biased upwards for few images, by about c / N with a c that depends on the model (Chong &
Forsyth 2020), so that it may even rank two models wrongly; at 25 images per class the bias can be a large part of the
value. Hence values are compared only at the same number of images, `fid_infinity` extrapolates to infinitely many
where there are enough to do so, and KID (Binkowski et al. 2018), which is unbiased, stands beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cpcnn_core import cache, image_files
from cpcnn_core.data import HIDDEN, Split, to_uint8
from cpcnn_core.errors import DataError
from cpcnn_core.features import BATCH, EXTRACTORS, Extractor, FidError, extractor

__all__ = [
    "EXTRACTORS",
    "Distance",
    "Extractor",
    "FidError",
    "Gaussian",
    "Reference",
    "Scores",
    "between_folders",
    "extractor",
    "features_of_files",
    "fid",
    "fid_infinity",
    "fid_per_class",
    "frechet_distance",
    "images_in",
    "kid",
    "reference",
    "reference_of_files",
    "score",
]

Metric = Literal["fid", "fid_infinity", "kid"]

CONFIDENCE = 0.95  # of every interval

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")

_JACKKNIFE_GROUPS = 100  # at most; one image each where there are no more images
_SUBSETS = 5  # per size, to extrapolate from
_KERNEL_ROWS = 1024  # of the kernel matrix at a time
_CACHE_FORMAT = "1"  # raise where features or their Gaussian change


# ----------------------------------------------------------------------------------------------- values that compare


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One measured distance and all that a value must share with another one to be compared with it.

    `value` is None exactly where `reason` says why. `standard_error` tells how much the value would vary over other
    sets of as many images of the same model; the reference counts as fixed for FID, as a sample for KID.
    """

    metric: Metric
    value: float | None
    standard_error: float | None = None
    reason: str | None = None
    extractor: str
    images: int
    reference: str

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise FidError(f"{self.metric} has value {self.value} and reason {self.reason!r}; expected one of the two")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where CONFIDENCE of the values of such sets of images lie; normal approximation, no bias removed."""
        if self.value is None or self.standard_error is None:
            return None
        half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * self.standard_error
        return self.value - half, self.value + half

    def difference(self, other: Distance) -> float:
        """`self - other`. Raise FidError where the two were not measured alike or one has no value."""
        for name in ("metric", "extractor", "images", "reference"):
            own, others = getattr(self, name), getattr(other, name)
            if own != others:
                raise FidError(f"two distances of different {name} cannot be compared: {own} and {others}")
        for distance in (self, other):
            if distance.value is None:
                raise FidError(f"{distance.metric} has no value to compare: {distance.reason}")
        assert self.value is not None
        assert other.value is not None
        return self.value - other.value

    def __lt__(self, other: Distance) -> bool:
        return self.difference(other) < 0

    def __le__(self, other: Distance) -> bool:
        return self.difference(other) <= 0

    def __gt__(self, other: Distance) -> bool:
        return self.difference(other) > 0

    def __ge__(self, other: Distance) -> bool:
        return self.difference(other) >= 0


# ------------------------------------------------------------------------------------------------- Frechet distance


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution over features, its covariance held as `factor.T @ factor`, which rounding keeps valid."""

    mean: Tensor  # (D,) float64
    factor: Tensor  # (R, D) float64, any number of rows

    @classmethod
    def of_features(cls, features: Tensor) -> Gaussian:
        """The one with the mean and the (unbiased) covariance of `features` (N, D)."""
        mean, centred = _centred(features)
        factor = centred / math.sqrt(len(features) - 1)
        if len(factor) > factor.shape[1]:
            factor = torch.linalg.qr(factor, mode="r").R  # the same covariance in D rows
        return cls(mean, factor)

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """The one with this mean (D,) and covariance (D, D). Raise FidError where the latter cannot be one."""
        values, vectors = torch.linalg.eigh(covariance.double())
        if values.min() < -1e-6 * max(values.max().item(), 0.0) or not values.isfinite().all():
            raise FidError(f"the covariance has the eigenvalue {values.min().item():.3g}; expected none below zero")
        return cls(mean.double(), values.clamp(min=0).sqrt()[:, None] * vectors.T)

    @property
    def trace(self) -> float:
        """The sum of the variances."""
        return self.factor.square().sum().item()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Dowson & Landau 1982.

    With S = F^T F, the square root's trace is the sum of the singular values of F_a F_b^T. Unlike the root of the
    product it exists for singular covariances, is never complex, and is as small as the number of images.
    """
    root_trace = _singular_values(a.factor @ b.factor.T).sum().item()
    return _not_negative((a.mean - b.mean).square().sum().item() + a.trace + b.trace - 2 * root_trace)


def _not_negative(value: float) -> float:
    """Without the few digits below zero that rounding leaves of equal distributions."""
    if not math.isfinite(value):
        raise FidError(f"the distance is {value}")
    return max(0.0, value)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    if len(features) < 2:
        raise FidError(f"{len(features)} image(s) have no covariance; expected at least 2")
    features = features.double()
    if not features.isfinite().all():
        raise FidError("the features of some images are not finite")
    mean = features.mean(0)
    return mean, features - mean


def _singular_values(matrix: Tensor) -> Tensor:
    try:
        return torch.linalg.svdvals(matrix)  # type: ignore[no-any-return]
    except RuntimeError as error:
        raise FidError(f"the covariances' square root did not converge ({error})") from None


# ---------------------------------------------------------------------------------------------------- the reference


@dataclass(frozen=True, eq=False)
class Reference:
    """The real images, as features. `name` tells the data set, the split, and by a hash the very images."""

    name: str
    extractor: str
    features: Tensor  # (N, D) float32
    labels: Tensor  # (N,) int64
    gaussian: Gaussian

    def of_class(self, label: int) -> Reference:
        """The images of one class. Raise FidError where the labels are hidden or too few have this one."""
        if (self.labels == HIDDEN).any():
            raise FidError(f"the labels of {self.name} are hidden, so that it has no images of class {label}")
        features = self.features[self.labels == label]
        return Reference(
            f"{self.name}[{label}]",
            self.extractor,
            features,
            self.labels[self.labels == label],
            Gaussian.of_features(features),
        )


def reference(extract: Extractor, split: Split, name: str) -> Reference:
    """The images of `split` as the model is to generate them: at its size, on the 8-bit grid. Kept in the cache.

    `name` says what they are (`cpen455/test`); a hash of the pixels is added to it.
    """
    images = to_uint8(split.images)
    return _reference(extract, cache.digest([images]), name, split.labels, lambda: extract(images))


def reference_of_files(extract: Extractor, files: Sequence[Path], name: str, labels: Tensor | None = None) -> Reference:
    """The images in `files` at their own size, as pytorch-fid reads them: what the course's FID measures against."""
    labels = torch.full((len(files),), HIDDEN) if labels is None else labels
    digest = cache.digest(map(_content, files))
    return _reference(extract, digest, name, labels, lambda: features_of_files(extract, files))


def features_of_files(extract: Extractor, files: Iterable[Path]) -> Tensor:
    """Features (N, D) of images at their own size. Raise FidError for one that cannot be read or is of another size."""
    # A batch in memory at a time: photographs are large.
    found = []
    images = (_fitting(extract, file) for file in files)
    for _, alike in itertools.groupby(images, key=lambda image: image.shape):
        while batch := list(itertools.islice(alike, BATCH)):
            found.append(extract(torch.stack(batch)))
    return torch.cat(found) if found else torch.empty(0, extract.dims)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and of those within it, in order. Raise FidError where there are none."""
    if not folder.is_dir():
        raise FidError(f"{folder}: no such folder; FID is between two folders of images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise FidError(f"{folder}: {len(files)} image(s) ({', '.join(IMAGE_SUFFIXES)}); FID needs at least 2")
    return files


def between_folders(extract: Extractor, images: Path, of: Path) -> tuple[Distance, Distance]:
    """FID and KID of the images in a folder against those in another. Raise FidError."""
    files, real = images_in(images), images_in(of)
    against = reference_of_files(extract, real, of.name)
    features = features_of_files(extract, files)
    return fid(features, against), kid(features, against)


def _reference(extract: Extractor, digest: str, name: str, labels: Tensor, features: Callable[[], Tensor]) -> Reference:
    def make() -> dict[str, Tensor]:
        of_images = features()
        gaussian = Gaussian.of_features(of_images)
        return {"features": of_images, "mean": gaussian.mean, "factor": gaussian.factor}

    kept = cache.tensors("reference", cache.digest([_CACHE_FORMAT, extract.name, digest]), make)
    gaussian = Gaussian(kept["mean"], kept["factor"])
    return Reference(f"{name}-{digest[:8]}", extract.name, kept["features"], labels, gaussian)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FidError(f"a reference image cannot be read: {error}") from None


def _fitting(extract: Extractor, path: Path) -> Tensor:
    image = _read_image(path)
    if extract.shape is None:
        return image
    channels, height, width = extract.shape
    if image.shape[1:] != (height, width):
        raise FidError(
            f"{path} is of {image.shape[1]}x{image.shape[2]} pixels; {extract.name} knows images of {height}x{width} "
            "only. Resize them, or choose an Inception"
        )
    return image if channels == len(image) else _luma(image)


def _luma(image: Tensor) -> Tensor:
    """RGB as one channel, as PIL's convert("L") has it (ITU-R 601-2)."""
    weights = torch.tensor([19595, 38470, 7471])[:, None, None]
    return ((image.int() * weights).sum(0, keepdim=True) + 0x8000 >> 16).to(torch.uint8)


def _read_image(path: Path) -> Tensor:
    try:
        return torch.from_numpy(image_files.decode(_content(path))).permute(2, 0, 1)
    except DataError as error:
        raise FidError(f"the reference image {path} {error}") from None


# ------------------------------------------------------------------------------------------------------- the metrics


def fid(features: Tensor, of: Reference) -> Distance:
    """Frechet distance between the Gaussians fitted to the two sets of features, with its standard error.

    The standard error is the jackknife's, which leaves out each image in turn (each of 100 groups, where there are
    more images). The bootstrap is not used: its repeated images lower the rank of the covariance, and with fewer
    images than features it overstates the spread two- to threefold.
    """

    def measure() -> tuple[float, float | None]:
        images = _Images(features, of.gaussian)
        groups = min(len(features), _JACKKNIFE_GROUPS)
        if len(features) < 3:
            return images.fid(), None
        group_of = torch.arange(len(features)) % groups
        left_out = [images.fid(torch.nonzero(group_of != group).flatten()) for group in range(groups)]
        return images.fid(), _jackknife(torch.tensor(left_out, dtype=torch.float64)) ** 0.5

    return _measured("fid", features, of, measure)


def fid_infinity(features: Tensor, of: Reference, generator: torch.Generator) -> Distance:
    """FID extrapolated to infinitely many generated images, Chong & Forsyth 2020, section 3.

    FID is nearly linear in 1 / N where N is well above the number of features; the line through its values for 15
    sizes from half the images to all is followed to 1 / N = 0. Subsets are drawn with `generator`, five per size.
    """
    n, dims = features.shape

    def measure() -> tuple[float, None]:
        if n <= 2 * dims:
            raise FidError(f"{n} images of {dims} features are too few to extrapolate; expected more than {2 * dims}")
        images = _Images(features, of.gaussian)
        sizes = [round(size) for size in np.linspace(n / 2, n, 15)]
        values = [
            sum(images.fid(torch.randperm(n, generator=generator)[:size]) for _ in range(_SUBSETS)) / _SUBSETS
            for size in sizes
        ]
        _, intercept = np.polyfit([1 / size for size in sizes], values, 1)
        return float(intercept), None

    return _measured("fid_infinity", features, of, measure)


def fid_per_class(features: Tensor, labels: Tensor, of: Reference) -> dict[int, Distance]:
    """FID of the images generated for each class against the reference's images of that class."""
    distances = {}
    for label in sorted(set(labels.tolist())):
        of_class = features[labels == label]
        try:
            distances[label] = fid(of_class, of.of_class(label))
        except FidError as error:
            distances[label] = _unmeasured("fid", of_class, f"{of.name}[{label}]", of.extractor, str(error))
    return distances


def kid(features: Tensor, of: Reference) -> Distance:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, Binkowski et al. 2018.

    As it is unbiased it may be below zero, and is slightly so for perfect images in equal shares of every class, which
    vary less than independent ones. All images enter it, where the paper averages over subsets for speed; the
    standard error is the jackknife's over the images of both sets.
    """

    def measure() -> tuple[float, float | None]:
        _centred(features)  # for its errors
        x, y = features.double(), of.features.double()
        n, m = len(x), len(y)
        within_x, within_y = _kernel_sums(x, x) - _self_kernel(x), _kernel_sums(y, y) - _self_kernel(y)
        x_to_y, y_to_x = _kernel_sums(x, y), _kernel_sums(y, x)
        sum_x, sum_y, between = within_x.sum(), within_y.sum(), x_to_y.sum()
        value = sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2 * between / (n * m)
        if n < 3 or m < 3:
            return value.item(), None
        without_x = (
            (sum_x - 2 * within_x) / ((n - 1) * (n - 2))
            + sum_y / (m * (m - 1))
            - 2 * (between - x_to_y) / ((n - 1) * m)
        )
        without_y = (
            sum_x / (n * (n - 1))
            + (sum_y - 2 * within_y) / ((m - 1) * (m - 2))
            - 2 * (between - y_to_x) / (n * (m - 1))
        )
        return value.item(), (_jackknife(without_x) + _jackknife(without_y)) ** 0.5

    return _measured("kid", features, of, measure)


@dataclass(frozen=True)
class Scores:
    """All distances of one set of generated images from one reference."""

    fid: Distance
    kid: Distance
    per_class: dict[int, Distance]
    extrapolated: Distance | None  # fid_infinity, where asked for


def score(
    images: Tensor,
    labels: Tensor,
    extract: Extractor,
    of: Reference,
    *,
    extrapolate_with: torch.Generator | None = None,
) -> Scores:
    """Measure generated uint8 images (N, C, H, W) of the classes `labels` (N,) against the reference.

    What cannot be measured is a Distance without value; FidError is raised for images and references that do not fit.
    """
    if extract.name != of.extractor:
        raise FidError(f"the images' features are of {extract.name}, the reference's of {of.extractor}")
    if len(images) != len(labels):
        raise FidError(f"{len(images)} images and {len(labels)} labels; expected one label for each image")
    return score_features(extract(images), labels, of, extrapolate_with=extrapolate_with)


def score_features(
    features: Tensor,
    labels: Tensor,
    of: Reference,
    *,
    of_each_class: bool = True,
    extrapolate_with: torch.Generator | None = None,
) -> Scores:
    """`score` of images whose features (N, D), by the reference's extractor, are known."""
    return Scores(
        fid(features, of),
        kid(features, of),
        fid_per_class(features, labels, of) if of_each_class else {},
        None if extrapolate_with is None else fid_infinity(features, of, extrapolate_with),
    )


def _measured(
    metric: Metric, features: Tensor, of: Reference, measure: Callable[[], tuple[float, float | None]]
) -> Distance:
    if features.shape[1:] != of.features.shape[1:]:
        raise FidError(
            f"{features.shape[1:].numel()} features per image, {of.features.shape[1:].numel()} in the reference"
        )
    try:
        value, error = measure()
    except FidError as reason:
        return _unmeasured(metric, features, of.name, of.extractor, str(reason))
    return Distance(
        metric=metric,
        value=value,
        standard_error=error,
        extractor=of.extractor,
        images=len(features),
        reference=of.name,
    )


def _unmeasured(metric: Metric, features: Tensor, of_name: str, of_extractor: str, reason: str) -> Distance:
    return Distance(
        metric=metric, value=None, reason=reason, extractor=of_extractor, images=len(features), reference=of_name
    )


class _Images:
    """Generated images prepared so that the FID of many subsets of them is cheap.

    The singular values that FID needs are those of X F^T, X the centred features and F the reference's factor. Its
    rows are replaced by points with the same inner products in as few dimensions as there are images.
    """

    def __init__(self, features: Tensor, reference: Gaussian) -> None:
        self.mean, self.centred = _centred(features)
        self.reference = reference
        try:
            left, values, _ = torch.linalg.svd(self.centred @ reference.factor.T, full_matrices=False)
        except RuntimeError as error:
            raise FidError(f"the covariances' square root did not converge ({error})") from None
        self.points = left * values

    def fid(self, subset: Tensor | None = None) -> float:
        """`frechet_distance` of the images at the indices `subset`, or of all."""
        centred, points = (self.centred, self.points) if subset is None else (self.centred[subset], self.points[subset])
        freedom = len(centred) - 1
        shift = centred.mean(0)
        trace = (centred - shift).square().sum().item() / freedom
        root_trace = _singular_values(points - points.mean(0)).sum().item() / math.sqrt(freedom)
        apart = (self.mean + shift - self.reference.mean).square().sum().item()
        return _not_negative(apart + trace + self.reference.trace - 2 * root_trace)


def _jackknife(left_out: Tensor) -> float:
    """The variance of an estimate, from its values with one image (or group) left out; Efron & Stein 1981."""
    return ((len(left_out) - 1) * left_out.var(correction=0)).item()


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of `x` (N, D), the sum over the rows of `y` of (x.y / D + 1)^3."""
    return torch.cat([(rows @ y.T / x.shape[1] + 1).pow(3).sum(1) for rows in torch.split(x, _KERNEL_ROWS)])


def _self_kernel(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)
