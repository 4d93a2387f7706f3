"""The image features that FID and KID compare: Inception's as pytorch-fid computes them, or a small classifier's."""

from __future__ import annotations

import functools
import logging
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core import cache, tensor_files
from cpcnn_core.data import Split, to_model, to_uint8
from cpcnn_core.errors import CheckpointError, UserError
from cpcnn_core.files import cache_folder, can_hold, in_turn, sha256
from cpcnn_core.optim import uncompiled
from cpcnn_core.precision import whole_float32

EXTRACTORS = ("auto", "inception-192", "inception-2048", "classifier")
WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"  # pytorch-fid's; the last part is the start of its SHA-256

BATCH = 50  # images that a network sees at once, as in pytorch-fid

_PUBLISHED_HASH = "6726825d"
_CONNECT_SECONDS = 10  # after which a machine counts as one without a way to the download
_log = logging.getLogger(__name__)


class FidError(UserError, ValueError):
    """A distance that cannot be measured or compared; the message says what is missing and the way out."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """Maps images to feature vectors. `name` says which exactly: distances are comparable where it is the same.

    Names are `inception-192`, `inception-2048`, `classifier-<hash of its weights>`; an Inception with other weights
    than the published ones carries their hash too.
    """

    name: str
    dims: int
    device: torch.device
    network: Callable[[Tensor], Tensor]  # (B, C, H, W) uint8 -> (B, dims)
    shape: tuple[int, int, int] | None = None  # (C, H, W) of the only images that it knows; None: it takes any

    @torch.no_grad()
    @whole_float32()
    def __call__(self, images: Tensor, *, batch_size: int = BATCH) -> Tensor:
        """Features (N, dims), float32, on the CPU, of uint8 images (N, C, H, W)."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise FidError(f"images are {images.dtype} of shape {tuple(images.shape)}; expected uint8 (N, C, H, W)")
        batches = [self.network(batch.to(self.device)).float().cpu() for batch in torch.split(images, batch_size)]
        return torch.cat(batches) if len(images) else torch.empty(0, self.dims)


def extractor(name: str, train: Split, *, weights: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Build one of EXTRACTORS. Raise FidError where Inception's weights cannot be had.

    `train` is what the classifier learns from: give the whole training split, whatever fraction of it the model sees,
    or two trials are not measured alike. `weights` is a file in pytorch-fid's format, for a machine without network.
    """
    device = torch.device(device)
    name = resolve(name, weights)
    if name == "classifier":
        return _classifier_extractor(train, device)
    return _inception_extractor(name, int(name.removeprefix("inception-")), inception_weights(weights), device)


@functools.cache
def resolve(name: str, weights: Path | None = None) -> str:
    """What `auto` stands for on this machine; any other name of EXTRACTORS stands for itself.

    `auto` is inception-2048 where its weights can be had, else classifier, which is logged once. Who starts several
    processes resolves it first and hands them the answer, or a passing network failure mixes the two.
    """
    if name not in EXTRACTORS:
        raise FidError(f"{name!r} is no feature extractor; there are {', '.join(EXTRACTORS)}")
    if name != "auto":
        return name
    if weights is not None:
        return "inception-2048"
    try:
        _pytorch_fid()
        inception_weights()
    except FidError as error:
        _log.warning("FID is measured between a small classifier's features, not Inception's: %s", error)
        return "classifier"
    return "inception-2048"


def inception_weights(path: Path | None = None) -> Path:
    """`path`, else pytorch-fid's weights in torch.hub's cache, downloaded where they are not there yet."""
    way_out = f"give the path of {WEIGHTS_FILE}, or choose the extractor `classifier`"
    if path is not None:
        if not path.is_file():
            raise FidError(f"Inception's weights are not at {path}; {way_out}")
        return path
    kept = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE  # where pytorch-fid itself keeps them
    if not kept.is_file() and not (kept.is_absolute() and can_hold(kept.parent)):  # or there is no home folder
        kept = cache_folder() / WEIGHTS_FILE
    if kept.is_file():
        return kept
    url = _pytorch_fid().FID_WEIGHTS_URL
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(kept.with_suffix(".lock")):
            if not kept.is_file():
                urllib.request.urlopen(url, timeout=_CONNECT_SECONDS).close()  # noqa: S310 - the download itself has no timeout
                torch.hub.download_url_to_file(url, str(kept), hash_prefix=_PUBLISHED_HASH, progress=False)
    except (OSError, RuntimeError) as error:
        raise FidError(
            f"Inception's weights are neither at {kept} nor can they be downloaded from {url} ({error}); {way_out}"
        ) from None
    return kept


def _pytorch_fid() -> Any:
    """The module of the network; the package has no types."""
    try:
        from pytorch_fid import inception
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision that is built for another torch raises any
        raise FidError(
            f"the Inception features need the package pytorch-fid, and a torchvision that fits torch ({error}); "
            "install both, or choose the extractor `classifier`"
        ) from None
    return inception


def _inception_state(weights: Path) -> Any:
    try:
        state = tensor_files.read(weights, expected=f"expected {WEIGHTS_FILE}")
        if isinstance(state, dict):
            tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
            tensor_files.require_finite(weights, tensors)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{weights}: ")
        raise FidError(f"{weights} cannot be read as weights: {reason}") from None
    return state


def _inception_extractor(name: str, dims: int, weights: Path, device: torch.device) -> Extractor:
    inception = _pytorch_fid()
    digest = sha256(weights)[: len(_PUBLISHED_HASH)] if weights.is_file() else ""
    if weights.name == WEIGHTS_FILE and digest != _PUBLISHED_HASH:
        raise FidError(
            f"{weights} is damaged: its SHA-256 begins with {digest}, not as its name says with {_PUBLISHED_HASH}; "
            "delete it, so that it is downloaded anew, or copy it again"
        )
    state = _inception_state(weights)
    # pytorch-fid's constructor fetches the weights from the address that it holds; it is handed the file's instead.
    fetch = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *_, **__: state
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights that are thrown away leave no trace
            network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise FidError(f"{weights} holds other weights than Inception's ({reason}); expected {WEIGHTS_FILE}") from None
    finally:
        inception.load_state_dict_from_url = fetch
    network = network.to(device).eval()

    def features(images: Tensor) -> Tensor:
        batch = images.expand(-1, 3, -1, -1).float() / 255  # grey as PIL's convert("RGB"), then ToTensor
        return F.adaptive_avg_pool2d(network(batch)[0], 1).flatten(1)

    return Extractor(name if digest == _PUBLISHED_HASH else f"{name}-{digest}", dims, device, features)


class _Classifier(nn.Module):
    """Three strided convolutions and the mean over positions: 64 features, so that 100 images can fit a Gaussian."""

    dims = 64

    def __init__(self, channels: int, nr_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((channels, 32), (32, 64), (64, self.dims)):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(self.dims, nr_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(to_model(images)).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # type: ignore[no-any-return]


_RECIPE = {"version": 1, "seed": 0, "steps": 300, "batch": 64, "lr": 2e-3}  # a change makes another classifier


def _classifier_extractor(train: Split, device: torch.device) -> Extractor:
    if not train.labelled:
        raise FidError("the extractor `classifier` learns from the training split, whose labels are hidden here")
    images, labels = to_uint8(train.images), train.labels
    key = cache.digest([str(_RECIPE), images, labels])
    state = cache.tensors("classifier", key, lambda: _train_classifier(images, labels))
    with torch.device("meta"):  # without drawing initial weights from the global generator
        network = _Classifier(images.shape[1], int(labels.max()) + 1)
    kept = cache.file("classifier", key)
    try:
        tensor_files.require_finite(kept, state)
        network.load_state_dict(state, assign=True)
    except (CheckpointError, RuntimeError) as error:
        reason = str(error).splitlines()[0].removeprefix(f"{kept}: ")
        raise FidError(f"the classifier's weights {kept} cannot be used: {reason}; delete that file") from None
    network = network.to(device).eval()
    weights = cache.digest(part for item in sorted(state.items()) for part in item)
    channels, height, width = images.shape[1:]
    return Extractor(f"classifier-{weights[:8]}", network.dims, device, network.features, (channels, height, width))


@whole_float32()
def _train_classifier(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """On one thread of the CPU, whatever the rest runs on: the same weights for any number of cores and GPUs."""
    _log.info("training the classifier between whose features FID is measured; this happens once for these images")
    steps, size = int(_RECIPE["steps"]), min(int(_RECIPE["batch"]), len(images))
    generator = torch.Generator().manual_seed(int(_RECIPE["seed"]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(_RECIPE["seed"]))  # the layers' initialisation has no generator argument
            network = _Classifier(images.shape[1], int(labels.max()) + 1)
            optimizer = uncompiled(torch.optim.Adam)(network.parameters(), lr=_RECIPE["lr"])
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
            for _ in range(steps):
                batch = torch.randint(len(images), (size,), generator=generator)
                loss = F.cross_entropy(network(images[batch]), labels[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return {name: value.detach() for name, value in network.state_dict().items()}
