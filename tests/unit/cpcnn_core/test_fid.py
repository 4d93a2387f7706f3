"""FID and KID against closed forms, brute force and pytorch-fid; and what may be compared with what."""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import sys
import urllib.error
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy import linalg
from torch import Tensor
from torch.testing import assert_close

from benchmarks import frechet
from cpcnn_core import cache, data, features, fid, quality
from cpcnn_core.config import DataConfig
from cpcnn_core.fid import Distance, Extractor, FidError, Gaussian, Reference, frechet_distance
from cpcnn_core.files import sha256
from cpcnn_core.metrics import EpochMetrics

variances = st.lists(st.floats(0, 1e6).map(lambda value: value if value > 1e-30 else 0.0), min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more, and lose much where other processes hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, dims: int) -> Tensor:
    turn: Tensor = torch.linalg.qr(normal(seed, dims, dims)).Q
    return turn


def reference_of(values: Tensor, labels: Tensor | None = None) -> Reference:
    labels = torch.full((len(values),), data.HIDDEN) if labels is None else labels
    return Reference("real/test-0", "stub", values, labels, Gaussian.of_features(values))


def stub(name: str = "stub") -> Extractor:
    """Its features are the mean of each channel and of each half of the rows."""

    def network(images: Tensor) -> Tensor:
        height = images.shape[2] // 2
        parts = [images, images[:, :, :height], images[:, :, height:]]
        return torch.cat([part.float().mean((2, 3)) for part in parts], 1) / 255

    return Extractor(name, 9, torch.device("cpu"), network)


def pictures(seed: int, count: int, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def split_of(images: Tensor, labels: Tensor) -> data.Split:
    return data.Split(images, labels, tuple(str(index) for index in range(len(images))))


# ------------------------------------------------------------------------------------- closed forms between Gaussians


@given(a=variances, b=variances, shift=st.floats(-1e3, 1e3))
def test_independent_features_differ_by_the_squared_differences_of_their_deviations(
    a: list[float], b: list[float], shift: float
) -> None:
    dims = min(len(a), len(b))
    s, t = (torch.tensor(values[:dims], dtype=torch.float64) for values in (a, b))
    turn = rotation(0, dims)
    left = Gaussian.of_moments(torch.zeros(dims), turn.T @ s.diag() @ turn)
    right = Gaussian.of_moments(torch.full((dims,), shift, dtype=torch.float64), turn.T @ t.diag() @ turn)
    expected = (s.sqrt() - t.sqrt()).square().sum().item() + dims * shift**2
    scale = s.sum().item() + t.sum().item() + expected
    # A variance below the rounding of the largest one is lost in the covariance; its root is what is left of it.
    assert abs(frechet_distance(left, right) - expected) <= 1e-6 * scale + 1e-60


@given(scale=st.floats(1e-12, 1e12))
def test_it_scales_with_the_square_of_the_features(scale: float) -> None:
    a, b = normal(1, 20, 5), normal(2, 30, 5) * 2 + 1
    plain = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    scaled = frechet_distance(Gaussian.of_features(a * scale), Gaussian.of_features(b * scale))
    assert_close(scaled / scale**2, plain, rtol=1e-9, atol=0)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 30), m=st.integers(2, 30), dims=st.integers(1, 20))
def test_it_is_a_distance(seed: int, n: int, m: int, dims: int) -> None:
    x, y = normal(seed, n, dims), normal(seed + 1, m, dims) * 3 + 1
    a, b = Gaussian.of_features(x), Gaussian.of_features(y)
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert_close(frechet_distance(b, a), distance, rtol=1e-9, atol=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12 * a.trace)
    turn = rotation(seed, dims)
    turned = frechet_distance(Gaussian.of_features(x @ turn), Gaussian.of_features(y @ turn))
    assert_close(turned, distance, rtol=1e-9, atol=1e-9)
    # The definition, by the eigenvalues of the product of the covariances.
    s, t = (np.cov(z.numpy(), rowvar=False).reshape(dims, dims) for z in (x, y))
    root_trace = np.sqrt(np.linalg.eigvals(s @ t).real.clip(0)).sum()
    expected = (a.mean - b.mean).square().sum().item() + np.trace(s) + np.trace(t) - 2 * root_trace
    assert distance == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("lacks_disp", [False, True])
def test_it_is_pytorch_fids_where_that_is_well_conditioned(lacks_disp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(3, 200, 24), normal(4, 300, 24) @ normal(5, 24, 24) + 0.3
    moments = [moment for z in (x.numpy(), y.numpy()) for moment in (z.mean(0), np.cov(z, rowvar=False))]
    root = linalg.sqrtm
    if lacks_disp:  # as SciPy does that took the argument away
        monkeypatch.setattr(linalg, "sqrtm", lambda matrix: root(matrix))
    expected = frechet.distance(*moments)
    assert frechet_distance(Gaussian.of_features(x), Gaussian.of_features(y)) == pytest.approx(expected, rel=1e-9)


def test_a_product_whose_square_root_is_complex_by_rounding_has_a_real_distance() -> None:
    spread = torch.logspace(0, -20, 12, dtype=torch.float64)
    a = Gaussian(torch.zeros(12, dtype=torch.float64), spread.sqrt()[:, None] * rotation(6, 12))
    b = Gaussian(torch.zeros(12, dtype=torch.float64), 2 * a.factor)
    product = (a.factor.T @ a.factor) @ (b.factor.T @ b.factor)
    assert np.linalg.eigvals(product.numpy()).real.min() < 0  # what the root of the product stumbles over
    assert frechet_distance(a, b) == pytest.approx(a.trace, rel=1e-12)


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    with pytest.raises(FidError, match=r"eigenvalue -1; expected none below zero"):
        Gaussian.of_moments(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])))


@pytest.mark.parametrize("count", [5, 40])
def test_the_gaussian_has_the_covariance_of_the_features(count: int) -> None:
    values = normal(7, count, 12)
    gaussian = Gaussian.of_features(values)
    assert_close(gaussian.factor.T @ gaussian.factor, values.T.cov())
    assert len(gaussian.factor) <= 12
    assert gaussian.trace == pytest.approx(values.var(0).sum().item())


# ------------------------------------------------------------------------------------------------- awkward samples


def test_one_image_has_no_distance_and_says_why() -> None:
    for measure in (fid.fid, fid.kid):
        distance = measure(normal(0, 1, 4), reference_of(normal(1, 20, 4)))
        assert distance.value is None
        assert distance.reason == "1 image(s) have no covariance; expected at least 2"
        assert (distance.images, distance.reference, distance.extractor) == (1, "real/test-0", "stub")


def test_features_that_are_not_finite_have_no_distance() -> None:
    broken = normal(0, 10, 4)
    broken[3, 2] = torch.nan
    for measure in (fid.fid, fid.kid):
        assert measure(broken, reference_of(normal(1, 20, 4))).reason == "the features of some images are not finite"


def test_identical_images_are_as_far_as_their_mean_and_the_references_whole_variance() -> None:
    real = normal(1, 50, 6)
    distance = fid.fid(torch.full((10, 6), 2.0), reference_of(real))
    assert distance.value == pytest.approx(((real.mean(0) - 2).square().sum() + real.var(0).sum()).item())
    assert distance.standard_error == pytest.approx(0, abs=1e-9)


def test_the_reference_itself_is_at_distance_zero() -> None:
    real = normal(1, 50, 80)
    assert fid.fid(real, reference_of(real)).value == pytest.approx(0, abs=1e-10)


def test_fewer_images_than_features_is_the_distance_of_the_singular_gaussians() -> None:
    real, made = normal(1, 200, 40) + 1, normal(2, 10, 40)
    s, t = np.cov(made.numpy(), rowvar=False), np.cov(real.numpy(), rowvar=False)
    nonzero = np.sort(np.linalg.eigvals(s @ t).real)[-9:]
    expected = (made.mean(0) - real.mean(0)).square().sum().item() + np.trace(s) + np.trace(t)
    expected -= 2 * np.sqrt(nonzero).sum()
    assert fid.fid(made, reference_of(real)).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("spread", [1e-3, 1e-8, 1e-15])
def test_images_of_almost_no_variance(spread: float) -> None:
    real = normal(1, 60, 8)
    made = 1 + spread * (real - real.mean(0))
    expected = (real.mean(0) - 1).square().sum() + (1 - spread) ** 2 * real.var(0).sum()
    assert fid.fid(made, reference_of(real)).value == pytest.approx(expected.item(), rel=1e-9)


# ------------------------------------------------------------------------------------------------ standard errors


@pytest.mark.parametrize("dims", [8, 60])
def test_the_standard_error_of_fid_is_its_spread_over_sets_of_images(dims: int) -> None:
    reference = reference_of(normal(0, 400, dims) * torch.linspace(0.2, 2, dims))
    distances = [fid.fid(normal(seed, 40, dims), reference) for seed in range(1, 61)]
    spread = torch.tensor([distance.value for distance in distances]).std().item()
    claimed = np.mean([distance.standard_error for distance in distances])
    assert claimed == pytest.approx(spread, rel=0.35)
    low, high = distances[0].interval or (math.nan, math.nan)
    assert high - low == pytest.approx(2 * 1.959964 * (distances[0].standard_error or 0), rel=1e-6)


def test_the_standard_error_of_fid_is_the_jackknife_of_the_definition() -> None:
    made, real = normal(0, 9, 12) + 1, reference_of(normal(1, 20, 12))
    left_out = [
        frechet_distance(Gaussian.of_features(torch.cat([made[:i], made[i + 1 :]])), real.gaussian) for i in range(9)
    ]
    distance = fid.fid(made, real)
    assert distance.value == pytest.approx(frechet_distance(Gaussian.of_features(made), real.gaussian))
    assert distance.standard_error == pytest.approx(math.sqrt(8 * np.var(left_out)))


def test_more_images_than_groups_are_left_out_in_groups() -> None:
    reference = reference_of(normal(0, 400, 4) * 2)
    distances = [fid.fid(normal(seed, 350, 4), reference) for seed in range(1, 31)]
    spread = torch.tensor([distance.value for distance in distances]).std().item()
    assert np.mean([distance.standard_error for distance in distances]) == pytest.approx(spread, rel=0.35)


def test_two_images_have_a_distance_without_standard_error() -> None:
    distance = fid.fid(normal(0, 2, 4), reference_of(normal(1, 20, 4)))
    assert distance.value is not None
    assert distance.standard_error is None
    assert distance.interval is None


# -------------------------------------------------------------------------------------------------- extrapolation


def test_extrapolation_is_nearer_the_truth_than_the_biased_value() -> None:
    dims, reference = 10, normal(0, 4000, 10)
    truth = 10 * (math.sqrt(2) - 1) ** 2
    plain, extrapolated = [], []
    for seed in range(1, 9):
        made = normal(seed, 120, dims) * math.sqrt(2)
        plain.append(fid.fid(made, reference_of(reference)).value)
        generator = torch.Generator().manual_seed(seed)
        extrapolated.append(fid.fid_infinity(made, reference_of(reference), generator).value)
    assert None not in [*plain, *extrapolated]
    bias = np.mean(np.asarray(plain, dtype=float)) - truth
    left = np.mean(np.asarray(extrapolated, dtype=float)) - truth
    assert bias > 0.2
    assert abs(left) < bias / 3


def test_too_few_images_to_extrapolate() -> None:
    generator = torch.Generator().manual_seed(0)
    distance = fid.fid_infinity(normal(0, 20, 10), reference_of(normal(1, 40, 10)), generator)
    assert distance.value is None
    assert distance.reason == "20 images of 10 features are too few to extrapolate; expected more than 20"


# ------------------------------------------------------------------------------------------------------------- KID


def kid_by_brute_force(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kid_and_its_standard_error_are_those_of_the_definition() -> None:
    x, y = normal(0, 7, 3), normal(1, 9, 3) + 1
    distance = fid.kid(x, reference_of(y))
    assert distance.value == pytest.approx(kid_by_brute_force(x, y))

    def variance(values: list[float]) -> float:
        return (len(values) - 1) * float(np.var(values))

    without_x = [kid_by_brute_force(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(len(x))]
    without_y = [kid_by_brute_force(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(len(y))]
    assert distance.standard_error == pytest.approx(math.sqrt(variance(without_x) + variance(without_y)))


def test_kid_is_unbiased_for_few_images_where_fid_is_not() -> None:
    dims = 12
    values, errors, fids = [], [], []
    for seed in range(100):
        real = reference_of(normal(2 * seed, 60, dims))
        made = normal(2 * seed + 1, 15, dims)
        distance = fid.kid(made, real)
        values.append(distance.value)
        errors.append(distance.standard_error)
        fids.append(fid.fid(made, real).value)
    mean, spread = np.mean(np.asarray(values, dtype=float)), np.std(np.asarray(values, dtype=float))
    assert abs(mean) < 3 * spread / 10
    assert np.mean(np.asarray(errors, dtype=float)) == pytest.approx(spread, rel=0.35)
    assert min(value or 0 for value in fids) > 1


def test_kid_is_the_same_for_any_chunk_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 17, 3), reference_of(normal(1, 23, 3))
    whole = fid.kid(x, y)
    monkeypatch.setattr(fid, "_KERNEL_ROWS", 5)
    assert fid.kid(x, y).value == pytest.approx(whole.value)


# ------------------------------------------------------------------------------------------------------- comparing


def distance(value: float | None = 1.0, **changes: Any) -> Distance:
    settings: dict[str, Any] = {"metric": "fid", "extractor": "stub", "images": 100, "reference": "real/test-0"}
    settings["reason"] = "no image" if value is None else None
    return Distance(value=value, **(settings | changes))


def test_distances_measured_alike_compare() -> None:
    near, far = distance(1.0), distance(3.0)
    assert near < far
    assert near <= far
    assert far > near
    assert far >= near
    assert far.difference(near) == 2.0
    assert min(far, near) is near
    assert sorted([far, near]) == [near, far]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "kid"}, "different metric cannot be compared: fid and kid"),
        ({"extractor": "inception-192"}, "different extractor cannot be compared: stub and inception-192"),
        ({"images": 99}, "different images cannot be compared: 100 and 99"),
        ({"reference": "real/validation-1"}, "different reference cannot be compared: real/test-0 and real/valid"),
    ],
)
def test_distances_that_differ_in_one_respect_do_not_compare(changes: dict[str, Any], said: str) -> None:
    for compare in ("__lt__", "__le__", "__gt__", "__ge__", "difference"):
        with pytest.raises(FidError, match=said):
            getattr(distance(), compare)(distance(**changes))


def test_a_distance_without_value_does_not_compare() -> None:
    with pytest.raises(FidError, match="fid has no value to compare: no image"):
        min(distance(), distance(None))


def test_a_distance_has_either_a_value_or_a_reason() -> None:
    with pytest.raises(FidError, match="expected one of the two"):
        Distance(metric="fid", value=None, extractor="stub", images=1, reference="r")
    with pytest.raises(FidError, match="expected one of the two"):
        distance(1.0, reason="why not")


# ------------------------------------------------------------------------------------------- references and scores


def test_a_reference_is_computed_once_and_named_by_its_images(own_cache: Path) -> None:
    calls = []
    plain = stub()

    def network(images: Tensor) -> Tensor:
        calls.append(len(images))
        return plain.network(images)

    extract = Extractor("stub", 9, torch.device("cpu"), network)
    split = split_of(pictures(0, 30), torch.arange(30) % 3)
    first = fid.reference(extract, split, "real/test")
    again = fid.reference(extract, split, "real/test")
    assert calls == [30]
    assert first.name == again.name
    assert first.name.startswith("real/test-")
    assert torch.equal(first.features, again.features)
    assert frechet_distance(first.gaussian, again.gaussian) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(first.gaussian, Gaussian.of_features(first.features)) == pytest.approx(0, abs=1e-12)

    other = fid.reference(extract, split_of(pictures(1, 30), split.labels), "real/test")
    assert calls == [30, 30]
    assert other.name != first.name
    fid.reference(Extractor("other", 9, torch.device("cpu"), network), split, "real/test")
    assert calls == [30, 30, 30]


def test_a_reference_of_unrounded_images_is_that_of_the_rounded_ones() -> None:
    images = pictures(0, 20)
    rounded = fid.reference(stub(), split_of(images, torch.zeros(20)), "real")
    exact = fid.reference(stub(), split_of(data.to_model(images), torch.zeros(20)), "real")
    assert exact.name == rounded.name


def test_files_are_read_as_pytorch_fid_reads_them(tmp_path: Path) -> None:
    colour, grey = pictures(0, 1)[0], np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(colour.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "b.png")
    files = [tmp_path / name for name in ("a.png", "b.png", "a.png")]
    reference = fid.reference_of_files(stub(), files, "files")
    assert_close(reference.features[0], stub()(colour[None])[0])
    assert_close(reference.features[1], stub()(torch.from_numpy(grey).expand(1, 3, 12, 12))[0])
    assert torch.equal(reference.features[0], reference.features[2])
    assert reference.labels.tolist() == [data.HIDDEN] * 3


def test_a_reference_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(FidError, match=r"cannot be read: .*nothing\.png"):
        fid.reference_of_files(stub(), [tmp_path / "nothing.png"], "files")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(FidError, match=r"text\.png cannot be decoded"):
        fid.reference_of_files(stub(), [tmp_path / "text.png"], "files")
    Image.new("RGB", (16, 8)).save(tmp_path / "wide.png")
    of_one_size = dataclasses.replace(stub(), name="classifier-0", shape=(3, 8, 8))
    with pytest.raises(FidError, match=r"wide\.png is of 8x16 pixels; classifier-0 knows images of 8x8 only"):
        fid.reference_of_files(of_one_size, [tmp_path / "wide.png"], "files")


def test_a_classifier_of_grey_images_reads_files_as_pil_makes_them_grey(tmp_path: Path) -> None:
    image = Image.fromarray(pictures(0, 1)[0].permute(1, 2, 0).numpy())
    image.save(tmp_path / "a.png")
    height, width = image.height, image.width
    of_grey = dataclasses.replace(stub(), shape=(1, height, width))
    grey = torch.from_numpy(np.array(image.convert("L")))[None, None]
    assert_close(fid.features_of_files(of_grey, [tmp_path / "a.png"]), of_grey(grey))


def test_folders_are_compared_as_their_images_are(tmp_path: Path) -> None:
    made, real = pictures(0, 30, 32), pictures(1, 40, 32)
    save_all(made, tmp_path / "made")
    save_all(real, tmp_path / "real")
    (tmp_path / "real" / "notes.txt").write_text("no image")
    extract = stub()
    distance, kernel = fid.between_folders(extract, tmp_path / "made", tmp_path / "real")
    against = fid.reference(extract, split_of(real, torch.zeros(40)), "real")
    assert distance.value == pytest.approx(fid.fid(extract(made), against).value)
    assert kernel.value == pytest.approx(fid.kid(extract(made), against).value)
    assert distance.images == 30
    assert distance.reference.startswith("real-")
    of_itself, _ = fid.between_folders(extract, tmp_path / "real", tmp_path / "real")
    assert of_itself.value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("there", [None, 0, 1])
def test_a_folder_without_images_is_named(there: int | None, tmp_path: Path) -> None:
    if there is not None:
        save_all(pictures(0, there), tmp_path / "made") if there else (tmp_path / "made").mkdir()
    with pytest.raises(FidError, match="no such folder" if there is None else rf"{there} image\(s\)"):
        fid.images_in(tmp_path / "made")


def test_scores_are_the_metrics_of_the_images_features() -> None:
    extract = stub()
    real = fid.reference(extract, split_of(pictures(0, 60), torch.arange(60) % 2), "real/validation")
    images, labels = pictures(1, 40), torch.arange(40) % 2
    scores = fid.score(images, labels, extract, real, extrapolate_with=torch.Generator().manual_seed(0))
    made = extract(images)
    assert scores.fid == fid.fid(made, real)
    assert scores.kid == fid.kid(made, real)
    for label in (0, 1):
        expected = frechet_distance(
            Gaussian.of_features(made[labels == label]), Gaussian.of_features(real.features[real.labels == label])
        )
        assert scores.per_class[label].value == pytest.approx(expected)
        assert scores.per_class[label].images == 20
        assert scores.per_class[label].reference == f"{real.name}[{label}]"
    assert scores.extrapolated is not None
    assert scores.extrapolated.value is not None
    assert fid.score(images, labels, extract, real).extrapolated is None
    fields, of_classes = quality.metrics(quality.Quality(scores, 1.0, 2.0), ("a", "b"))
    assert (fields["fid"], fields["kid"]) == (scores.fid.value, scores.kid.value)
    assert (fields["fid_extractor"], fields["fid_images"], fields["fid_reference"]) == ("stub", 40, real.name)
    assert fields["fid_infinity"] == scores.extrapolated.value
    assert of_classes == {"fid.a": scores.per_class[0].value, "fid.b": scores.per_class[1].value}
    assert set(fields) <= {field.name for field in dataclasses.fields(EpochMetrics)}


def test_a_reference_with_hidden_labels_has_no_classes() -> None:
    real = fid.reference(stub(), split_of(pictures(0, 30), torch.full((30,), data.HIDDEN)), "real/test")
    scores = fid.score(pictures(1, 20), torch.arange(20) % 2, stub(), real)
    assert scores.fid.value is not None
    for label in (0, 1):
        assert scores.per_class[label].value is None
        assert "are hidden" in (scores.per_class[label].reason or "")


def test_what_does_not_fit_together_is_refused() -> None:
    extract = stub()
    real = fid.reference(extract, split_of(pictures(0, 30), torch.arange(30) % 2), "real")
    labels = torch.zeros(20)
    with pytest.raises(FidError, match="features are of other, the reference's of stub"):
        fid.score(pictures(1, 20), labels, stub("other"), real)
    with pytest.raises(FidError, match="20 images and 19 labels"):
        fid.score(pictures(1, 20), labels[:-1], extract, real)
    with pytest.raises(FidError, match=r"torch.float32 of shape \(20, 3, 8, 8\); expected uint8"):
        fid.score(pictures(1, 20).float(), labels, extract, real)
    with pytest.raises(FidError, match="4 features per image, 9 in the reference"):
        fid.fid(normal(0, 10, 4), real)


# ------------------------------------------------------------------------------------------------- the classifier


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPCNN_CACHE", str(tmp_path_factory.mktemp("digits")))
        return data.load(DataConfig(name="digits"))


def test_the_classifier_is_trained_once_and_measures(
    digits: data.Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.random.get_rng_state()
    with torch.inference_mode():  # as a caller that evaluates
        extract = fid.extractor("classifier", digits.train)
    assert torch.equal(torch.random.get_rng_state(), before)
    classifier = features._Classifier(1, 10)
    (weights,) = own_cache.glob("classifier-*.safetensors")
    classifier.load_state_dict(load_file(weights))
    predicted = classifier.eval()(digits.validation.images).argmax(1)
    assert (predicted == digits.validation.labels).float().mean() > 0.97
    assert_close(extract(digits.test.images[:7]), classifier.features(digits.test.images[:7]).detach())

    def refuse(*_: Tensor) -> dict[str, Tensor]:
        raise FidError("trained again")

    monkeypatch.setattr(features, "_train_classifier", refuse)
    assert fid.extractor("classifier", digits.train).name == extract.name
    with pytest.raises(FidError, match="trained again"):
        fid.extractor("classifier", digits.train.take(range(1000)))

    real = fid.reference(extract, digits.validation, "digits/validation")
    digit = fid.score(digits.test.images, digits.test.labels, extract, real)
    dimmed = fid.score((digits.test.images * 0.7).to(torch.uint8), digits.test.labels, extract, real)
    noise = torch.randint(0, 256, digits.test.images.shape, dtype=torch.uint8)
    random = fid.score(noise, digits.test.labels, extract, real)
    assert digit.fid < dimmed.fid < random.fid
    assert digit.kid < dimmed.kid < random.kid
    assert all(digit.per_class[label] < random.per_class[label] for label in range(10))


def test_the_classifier_depends_on_neither_the_generators_state_nor_the_threads(
    digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(features._RECIPE, "steps", 3)
    images, labels = digits.train.images, digits.train.labels
    first = features._train_classifier(images, labels)
    torch.manual_seed(123)
    torch.set_num_threads(2)
    second = features._train_classifier(images, labels)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    for name, value in first.items():
        assert torch.equal(second[name], value)


def test_a_classifier_whose_kept_weights_were_damaged_is_trained_anew(
    digits: data.Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(features._RECIPE, "steps", 3)
    name = fid.extractor("classifier", digits.train).name
    (file,) = own_cache.glob("classifier-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-7] ^= 1  # one bit, which would give the extractor another name
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert fid.extractor("classifier", digits.train).name == name
    assert f"{file} is damaged (its checksum is not the recorded one): it is made anew" in caplog.text


@pytest.mark.parametrize("spoilt", ["not finite", "of other shapes", "missing"])
def test_a_classifier_whose_kept_weights_are_of_no_use_is_named(
    digits: data.Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    monkeypatch.setitem(features._RECIPE, "steps", 3)
    fid.extractor("classifier", digits.train)
    (file,) = own_cache.glob("classifier-*.safetensors")
    state = load_file(file)
    if spoilt == "not finite":
        state["head.bias"][0] = float("nan")
    elif spoilt == "of other shapes":
        state["head.bias"] = torch.zeros(3)
    else:
        del state["head.bias"]
    file.unlink()
    cache.tensors("classifier", file.stem.removeprefix("classifier-"), lambda: state)  # whole, as its checksum says
    said = {"not finite": "1 of .* NaN or infinite values: head.bias"}.get(spoilt, "")
    with pytest.raises(FidError, match=rf"the classifier's weights {file} cannot be used: {said}.*; delete that file"):
        fid.extractor("classifier", digits.train)


def test_a_classifier_cannot_learn_from_hidden_labels() -> None:
    with pytest.raises(FidError, match="whose labels are hidden"):
        fid.extractor("classifier", split_of(pictures(0, 4), torch.full((4,), data.HIDDEN)))


# ------------------------------------------------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file in the format of pytorch-fid's weights, with random numbers that keep the activations' scale."""
    import torchvision
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torchvision.models.Inception3, "load_state_dict", lambda *_: None)
        network = inception.fid_inception_v3()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub cache, no network, and nothing resolved yet; returns where the weights would lie."""

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    features.resolve.cache_clear()
    return tmp_path / "hub" / "checkpoints" / features.WEIGHTS_FILE


def pytorch_fid_with(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from pytorch_fid import fid_score, inception

    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.setattr(fid_score, "tqdm", lambda batches: batches)
    return fid_score


def save_all(images: Tensor, folder: Path) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{index:03d}.png" for index in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files


def test_inception_192_gives_pytorch_fids_value_of_the_same_files(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = pictures(0, 4, 32), pictures(1, 5, 64) // 2 + 40
    save_all(made, tmp_path / "made")
    files = save_all(real, tmp_path / "real")
    extract = fid.extractor("inception-192", split_of(made, torch.zeros(4)), weights=weights)
    reference = fid.reference_of_files(extract, files, "real")
    ours = fid.score(made, torch.zeros(4), extract, reference).fid
    theirs = pytorch_fid_with(weights, monkeypatch)
    with warnings.catch_warnings(), frechet.any_scipy():
        warnings.simplefilter("ignore")  # that its product of covariances is singular
        folders = [str(tmp_path / "made"), str(tmp_path / "real")]
        expected = theirs.calculate_fid_given_paths(folders, 50, "cpu", 192, num_workers=0)
    assert ours.value == pytest.approx(expected, rel=1e-4)
    assert ours.value is not None
    assert ours.value > 1e-3
    grey = torch.full((1, 1, 32, 32), 77, dtype=torch.uint8)
    assert_close(extract(grey), extract(grey.expand(1, 3, 32, 32)))
    assert extract.name == f"inception-192-{sha256(weights)[:8]}"  # not the published weights


def test_inception_2048_has_pytorch_fids_features(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save_all(pictures(0, 2, 32), tmp_path / "made")
    before = torch.random.get_rng_state()
    extract = fid.extractor("inception-2048", split_of(pictures(0, 2), torch.zeros(2)), weights=weights)
    assert torch.equal(torch.random.get_rng_state(), before)
    theirs = pytorch_fid_with(weights, monkeypatch)
    block = theirs.InceptionV3.BLOCK_INDEX_BY_DIM[2048]
    expected = theirs.get_activations(files, theirs.InceptionV3([block]), batch_size=2, num_workers=0)
    found = extract(pictures(0, 2, 32))
    assert found.shape == (2, 2048)
    assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01


def test_without_weights_and_network_one_error_says_how_to_go_on(no_weights: Path) -> None:
    with pytest.raises(FidError) as caught:
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)))
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(no_weights), "no route to host", "give the path of pt_inception-2015", "`classifier`"):
        assert words in message


def test_auto_takes_inception_where_its_weights_lie_in_the_cache(no_weights: Path) -> None:
    no_weights.parent.mkdir(parents=True)
    no_weights.write_bytes(b"the weights")
    assert features.resolve("auto") == "inception-2048"


def test_auto_falls_back_to_the_classifier_and_says_so_once(no_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert [features.resolve("auto") for _ in range(3)] == ["classifier"] * 3
    assert len(caplog.records) == 1
    assert "no route to host" in caplog.text


def test_auto_with_a_path_does_not_fall_back(no_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FidError, match=r"weights are not at .*elsewhere\.pth; give the path of"):
        fid.extractor("auto", split_of(pictures(0, 2), torch.zeros(2)), weights=tmp_path / "elsewhere.pth")


def test_a_machine_without_pytorch_fid_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_fid", None)
    with pytest.raises(FidError, match="need the package pytorch-fid"):
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)), weights=weights)


def test_a_file_of_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(FidError, match=r"weights\.pth cannot be read as weights"):
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)), weights=path)
    for content in ({"layer": torch.zeros(2)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(FidError, match=r"weights\.pth holds other weights than Inception's"):
            fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)), weights=path)


def test_weights_that_are_not_finite_are_refused_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"layer": torch.tensor([1.0, float("nan")]), "count": torch.tensor(3)}, path)
    with pytest.raises(
        FidError, match=r"weights\.pth cannot be read as weights: 1 of 2 tensors .*: layer \(1 of 2 values\)"
    ):
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)), weights=path)


def test_a_file_under_the_published_name_has_the_published_content(no_weights: Path) -> None:
    no_weights.parent.mkdir(parents=True)
    torch.save({"layer": torch.zeros(2)}, no_weights)  # as a download that was cut short leaves one
    with pytest.raises(
        FidError, match=rf"{no_weights} is damaged: its SHA-256 begins with .* {features._PUBLISHED_HASH}; delete"
    ):
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)))


def test_a_web_page_in_place_of_weights_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("<!doctype html>")
    with pytest.raises(FidError, match=r"weights\.pth cannot be read as weights: is a web page; a link or"):
        fid.extractor("inception-192", split_of(pictures(0, 2), torch.zeros(2)), weights=path)


def test_an_unknown_extractor_is_named() -> None:
    with pytest.raises(FidError, match="'inception' is no feature extractor; there are auto, inception-192"):
        features.resolve("inception")


class _Hostile:
    """An object whose unpickling would run code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda held, path: path.write_bytes(pickle.dumps(held, protocol=2))])
def test_weights_that_would_run_code_are_refused_and_not_run(save: Any, tmp_path: Path) -> None:
    file, marker = tmp_path / "weights.pth", tmp_path / "executed"
    save({"Conv2d_1a_3x3.conv.weight": _Hostile(marker)}, file)
    with pytest.raises(FidError, match=r"weights\.pth cannot be read as weights"):
        features._inception_extractor("inception-192", 192, file, torch.device("cpu"))
    assert not marker.exists()
