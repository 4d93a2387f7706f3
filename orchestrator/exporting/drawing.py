"""Images that a trial's kept weights draw on request: which weights, of which classes, into which folder."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cpcnn_core import sampling, seeds
from cpcnn_core.checkpoint import Weights, load_weights
from cpcnn_core.class_names import label_of, numbers
from cpcnn_core.config import ConfigError
from cpcnn_core.data import read_image
from cpcnn_core.errors import CpcnnError
from cpcnn_core.files import sha256
from cpcnn_core.quality import Drawn
from cpcnn_core.suggest import nearest
from orchestrator.exporting import submission
from orchestrator.records.location import Folder, given, on_disk
from orchestrator.records.store import Store, StoreError, as_int, sweeps
from orchestrator.training import trainer

REQUEST = "request.json"


@dataclass(frozen=True)
class Request:
    """What is to be drawn: images of each class by its number, from which noise, below which rows of which image."""

    counts: dict[int, int]
    seed: int
    temperature: float = 1.0
    complete: str | None = None
    from_row: int = 0


def weights_file(source: str, results: Folder, *, sweep: str | None, epoch: int | None) -> Folder:
    """The weights of a trial's epoch, its last kept one by default; `source` is a trial's id or a file of weights.

    Raise StoreError where there is no such trial, several sweeps have it, or the epoch's weights were not kept.
    """
    if Path(source).suffix == ".safetensors":
        return given(source)
    store = _holder(source, results, sweep)
    kept = {as_int(row["epoch"]): row["checkpoint"] for row in store.epochs_of(source) if row["checkpoint"] is not None}
    wanted = max(kept, default=0) if epoch is None else epoch
    if wanted not in kept:
        raise StoreError(
            f"{store.folder}: the weights of trial {source} after epoch {wanted} were not kept; "
            f"there are those of {', '.join(map(str, kept)) or 'none'}"
        )
    return store.folder / str(kept[wanted])


def _holder(trial_id: str, results: Folder, sweep: str | None) -> Store:
    """The sweep that has an epoch of the trial, `sweep` or the only one. Raise StoreError unless it is one."""
    searched = [Store(results / sweep)] if sweep is not None else sweeps(results)
    holders = [store for store in searched if store.epochs_of(trial_id)]
    if not holders:
        there = [str(row["trial_id"]) for store in searched for row in store.latest_attempts().rows()]
        where = results if sweep is None else results / sweep
        hint = nearest(trial_id, there) if there else ""
        raise StoreError(f"{where}: no trial {trial_id} with a finished epoch{hint}")
    if len(holders) > 1:
        names = ", ".join(store.folder.name for store in holders)
        raise StoreError(f"{results}: trial {trial_id} is in {names}; say which with --sweep")
    return holders[0]


def load(file: Folder) -> tuple[Weights, str]:
    """The weights in a file and its SHA-256. Raise StoreError, or CheckpointError for what holds none."""
    with _plainly(), on_disk(file) as here:
        return load_weights(here, origin=file), sha256(here)


@contextmanager
def _plainly() -> Generator[None]:
    """Raise StoreError for a file or folder that the operating system refuses."""
    try:
        yield
    except CpcnnError:
        raise
    except OSError as error:
        raise StoreError(str(error)) from None


def parse_counts(given: Sequence[str], class_names: Sequence[str]) -> dict[int, int]:
    """`N`, of each class, and `CLASS=N` arguments as images per class. Raise ConfigError for what is neither.

    CLASS is the name of a class or else its number.
    """
    counts: dict[int, int] = {}
    for item in given or [str(submission.PER_CLASS)]:
        name, equals, number = item.rpartition("=")  # of the last =: a name may have others
        if not (number.isascii() and number.isdecimal()) or (equals and not name):
            raise ConfigError(f"--count {item}: expected N, images of each class, or CLASS=N")
        if equals:
            counts[known_class(name, class_names, f"--count {item}")] = int(number)
        else:
            counts |= dict.fromkeys(range(len(class_names)), int(number))
    if not any(counts.values()):
        raise ConfigError(f"--count {', '.join(given)}: no images")
    return {label: count for label, count in sorted(counts.items()) if count}


def known_class(given: str, class_names: Sequence[str], what: str) -> int:
    """The number of the class that is called so, or else has this number. Raise ConfigError for one that is unknown."""
    label = label_of(given, class_names)
    if label is None:
        named = "" if tuple(class_names) == numbers(len(class_names)) else f" by number{nearest(given, class_names)}"
        raise ConfigError(f"{what}: the model knows the classes 0 to {len(class_names) - 1}{named}")
    return label


def requested(
    weights: Weights,
    counts: Sequence[str],
    *,
    seed: int | None,
    temperature: float,
    complete: Path | None,
    from_row: int | None,
) -> Request:
    """What the options ask of these weights: without a seed the trial's own, without a row half the height."""
    half = 0 if complete is None else weights.model.image_shape[1] // 2
    return Request(
        parse_counts(counts, weights.class_names),
        weights.config.seed if seed is None else seed,
        temperature,
        None if complete is None else str(complete),
        half if from_row is None else from_row,
    )


def draw(weights: Weights, asked: Request, on_row: Callable[[int, int], None] | None = None) -> Drawn:
    """Draw what is asked for. Raise ConfigError for what cannot be, DataError for a file that is no image.

    With the trial's own seed and as many images of each class as its FID was measured of, these are those very images.
    """
    model = weights.model
    labels = torch.tensor([label for label, count in asked.counts.items() for _ in range(count)])
    height = model.image_shape[1]
    if not 0 <= asked.temperature < math.inf:
        raise ConfigError(f"--temperature {asked.temperature}: expected a finite number of at least 0")
    if asked.complete is None and asked.from_row:
        raise ConfigError(f"--from-row {asked.from_row}: needs --complete IMAGE, whose rows above it are kept")
    if not 0 <= asked.from_row <= height:
        raise ConfigError(f"--from-row {asked.from_row}: expected 0 to {height}, the height of the model's images")
    given = None
    if asked.complete is not None:
        given = read_image(Path(asked.complete), model.image_shape).expand(len(labels), -1, -1, -1)
    device = trainer.device()
    with torch.inference_mode():
        images = sampling.sample(
            model.to(device),
            labels.to(device),
            generator=seeds.generator(asked.seed, seeds.Purpose.SAMPLES),
            temperature=asked.temperature,
            given=given,
            from_row=asked.from_row,
            on_row=on_row,
        )
    return Drawn(images.cpu(), labels)


def write(
    out: Path, drawn: Drawn, asked: Request, weights: Folder, checksum: str, *, class_names: Sequence[str]
) -> None:
    """Write each image, the picture of all, and what was asked for of which weights, to the new folder `out`.

    Raise StoreError where it cannot be written.
    """
    with _plainly():
        _write(out, drawn, {"weights": str(weights), "sha256": checksum} | asdict(asked) | {"class_names": class_names})


def _write(out: Path, drawn: Drawn, content: Mapping[str, object]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        submission.write_samples(temporary, drawn)
        (temporary / REQUEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
