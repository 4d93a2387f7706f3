"""The model card of an exported folder: what was searched, on what, how sure the choice is, and how to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cpcnn_core import alarms
from cpcnn_core.class_names import DISTANCE, class_in, numbers, pair_in
from cpcnn_core.config import LOCATIONS, PROTOCOL, Scalar, TrialConfig
from orchestrator.exporting import card_header, submission
from orchestrator.exporting.export_record import Choice, ExportRecord
from orchestrator.records.ranking import Entry, is_of_training
from orchestrator.records.store import StoreError, as_number
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search.settings import PRESET, parse_settings
from orchestrator.text.formatting import interval, measured, plain, probability
from orchestrator.text.markdown import block, code, prose

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset

_MODEL_FILE = "model.py"
_LISTED = 20  # classes; of more the card names the first ones

_OF_TEST = frozenset({submission.PREDICTIONS, submission.PREDICTIONS_WITH_PATHS, submission.LOGITS})
_FILES = (
    ("weights.safetensors", "the weights, their configuration in the header"),
    ("conditional_pixelcnn.pth", "the same as a plain state_dict under the starter code's names"),
    (_MODEL_FILE, "the network in one file that needs PyTorch alone and loads conditional_pixelcnn.pth"),
    ("config.json", "the configuration"),
    (
        "metrics.json",
        "what was recorded, what was measured again, the classes, the confusion matrix, how it was chosen",
    ),
    (submission.PREDICTIONS, "predictions of the test images, header `id,label`, last row `fid`"),
    (submission.PREDICTIONS_WITH_PATHS, "the same without header and FID, files named as the data set does"),
    (submission.LOGITS, "log p(x | y) + log p(y) in nats, test images x classes, in the data set's order"),
    (f"{submission.SAMPLES}/", f"images of each class, named by its number; {submission.GRID} shows them at once"),
    ("SHA256SUMS", "for `sha256sum -c`"),
)


def written(
    entry: Entry, config: TrialConfig, record: ExportRecord, data: Dataset, *, has_model_file: bool = True
) -> str:
    """The card as Markdown. `record` is the content of metrics.json."""
    network = (
        f"A class-conditional PixelCNN++ that draws and classifies {config.data.title} images of "
        f"{'x'.join(map(str, data.image_shape))} (channels, height, width) in {data.nr_classes} classes."
    )
    images = f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test) or 'no'} test images"
    described = _imported if entry.is_imported else _trained
    commands = _commands(config, _sweep(entry))
    left_out = (frozenset() if has_model_file else {_MODEL_FILE}) | (frozenset() if len(data.test) else _OF_TEST)
    lines = [
        *card_header.written(config, record),
        "# Model card",
        "",
        *described(entry, config, record, network, images),
        f"- exported by commit `{record.exported['git_commit']}` at {record.exported['at']}",
        *(f"- {name} {version}" for name, version in record.versions.items()),
        "",
        "To check this folder:" if len(commands) == 1 else "To train it again, and to check this folder:",
        "",
        *block(commands),
        "",
        "## Files",
        "",
        *(f"- `{name}`: {what}" for name, what in _FILES if name not in left_out),
    ]
    return "\n".join(lines) + "\n"


def _classes(names: Sequence[str]) -> list[str]:
    """Which class has which number, where the names are not the numbers themselves."""
    if tuple(names) == numbers(len(names)):
        return []
    listed = ", ".join(f"{label} {code(name)}" for label, name in enumerate(names[:_LISTED]))
    more = f" and {len(names) - _LISTED} more, which metrics.json names" if len(names) > _LISTED else ""
    return [f"Classes by number: {listed}{more}.", ""]


def _of_test(record: ExportRecord) -> str:
    """What part the test images had in the choice."""
    return " The test images' labels had no part in it." if record.submission.get("test_images") else ""


def _trained(entry: Entry, config: TrialConfig, record: ExportRecord, network: str, images: str) -> list[str]:
    """What there is to say of a network that was trained here."""
    sweep, trained = _sweep(entry), record.origin
    trial = (
        f"Epoch {record.recorded['epoch']} of trial `{entry.trial_id}` of the sweep {code(entry.store.folder.name)}."
    )
    place = f"on {prose(str(trained['device']))}, {trained['started']} to {trained['ended']}"
    return [
        f"{network} {trial}",
        "",
        "## What was searched, on what",
        "",
        prose(str(sweep.question or "The sweep did not say.")),
        "",
        *_searched(sweep),
        f"Data: {images}. The choice was made on the validation images.{_of_test(record)}",
        "",
        *_classes(record.class_names),
        *_accuracy(record),
        "## How sure",
        "",
        *_certainty(record),
        "",
        *_seen(record),
        "## The configuration",
        "",
        *(f"- {code(name)}: {prose(plain(value))}" for name, value in config.flat().items()),
        "",
        "## Where it comes from",
        "",
        f"- trained by commit `{trained['git_commit']}` {place}",
    ]


def _imported(entry: Entry, config: TrialConfig, record: ExportRecord, network: str, images: str) -> list[str]:
    """What there is to say of a network of which the weights are all that is known."""
    known = {name: value for name, value in config.flat().items() if not is_of_training(name) and name != "source"}
    of_file = {name: value for name, value in known.items() if name.startswith("model.")}
    read = record.origin
    return [
        f"{network} It was not trained here: its weights were imported from a file.",
        "",
        "## What is known of it",
        "",
        (
            "The file holds weights. On which images they were trained, for how many epochs, with which optimizer, "
            "learning rate, dropout and seed, it does not say. `config.json` has defaults there, which nobody chose."
        ),
        "",
        f"- SHA-256 of the file: `{config.source}`",
        *(f"- {code(name)}: {prose(plain(value))}" for name, value in of_file.items()),
        "",
        "## How it was measured here",
        "",
        (
            f"Data: {images}. It was measured on the validation images, and chosen by them; whether it was trained on "
            f"some of them is not known.{_of_test(record)}"
        ),
        "",
        *_classes(record.class_names),
        *(f"- {code(name)}: {prose(plain(value))}" for name, value in known.items() if name not in of_file),
        f"- `seed`: {plain(config.seed)}, of the images drawn here",
        "",
        *_accuracy(record),
        "## How sure",
        "",
        *_certainty(record),
        "",
        *_seen(record),
        "## Where it comes from",
        "",
        f"- trial `{entry.trial_id}` in {code(entry.store.folder.name)}",
        f"- read and measured by commit `{read['git_commit']}` on {prose(str(read['device']))} at {read['started']}",
    ]


def _sweep(entry: Entry) -> SweepRecord:
    try:
        return entry.store.read_sweep() or SweepRecord()
    except StoreError:
        return SweepRecord()


def _searched(sweep: SweepRecord) -> list[str]:
    if sweep.asked is None or not sweep.asked.space:
        return []
    return [*(f"- {code(name)}: {prose(str(value))}" for name, value in sweep.asked.space.items()), ""]


def _certainty(record: ExportRecord) -> list[str]:
    choice, own, graded = record.choice, record.measured_again, record.as_graded
    lines = [f"- measured again before the export: {name} {measured(value, 5)}" for name, value in own.items()]
    if graded is not None:
        lines.append(
            "- this trial rounds the pixels of resized images. On its own pixels, which the predictions handed in are "
            f"of, it has {_both(own)}; the course's scripts do not round, and give conditional_pixelcnn.pth "
            f"{_both(graded)}"
        )
    handed = record.submission
    if handed["fid"] is not None:
        lines.append(
            f"- FID of the {handed['fid_images']} images handed in: {measured(as_number(handed['fid']), 3)}, features "
            f"{handed['fid_extractor']}, reference {handed['fid_reference']}; no FID measured otherwise compares"
        )
    else:
        lines.append(f"- no FID of the images handed in: {prose(str(handed['fid_error']))}")
    if choice is None:
        return lines
    if "confirmed" in choice:
        return [*lines, *_confirmed(choice)]
    sweeps = ", ".join(code(name) for name in choice["sweeps"])
    lines.append(f"- chosen by `--rule {choice['rule']}` among {choice['trials']} trials of {sweeps}")
    if choice["corrected"] is not None:
        lines += [
            (
                f"- {choice['metric']} corrected for the choice: {measured(choice['corrected']['value'])}, "
                f"95% interval {interval(*choice['corrected']['interval'])}; this, not the value that led to the "
                "choice, is what to expect of new images"
            ),
            (
                f"- {choice['indistinguishable']} of {choice['judged']} trials cannot be told from the best; with 95% "
                "confidence the truly best one is among them"
            ),
        ]
    return [*lines, *(f"- {prose(note)}" for note in choice["notes"])]


def _accuracy(record: ExportRecord) -> list[str]:
    """The exported weights' accuracy on each split."""
    lines = ["## Accuracy", "", "| split | accuracy | images |", "| --- | --- | --- |"]
    for split, found in record.accuracy.items():
        value = measured(found.value) if found.reason is None else found.reason
        images = f"{found.images}" if found.images in {0, found.of} else f"{found.images} of {found.of}"
        lines.append(f"| {split.capitalize()} | {value} | {images} |")
    return [*lines, ""]


def _seen(record: ExportRecord) -> list[str]:
    """What the epoch's row says of the images drawn then, of copies among them, and of how it tells the classes."""
    row = record.recorded
    lines = [f"- **{prose(sentence)}**" for sentence in alarms.of_epoch(row)]
    found = {of[1]: as_number(value) for name, value in row.items() if (of := class_in(name)) and of[0] == "fid"}
    if known := {name: value for name, value in found.items() if value is not None}:
        listed = ", ".join(f"{code(name)} {measured(value, 3)}" for name, value in known.items())
        lines.append(f"- FID of each class: {listed}")
    if (reason := row.get("fid_class_error")) is not None:
        lines.append(f"- FID of some classes is missing: {prose(str(reason))}")
    nearest, of_validation = (as_number(row.get(name)) for name in ("nearest_train", "nearest_train_validation"))
    if nearest is not None and of_validation is not None:
        lines.append(
            f"- distance to the nearest training image, between features, median: images drawn {measured(nearest)}, "
            f"validation images {measured(of_validation)}"
        )
    distances = {
        pair_in(name, record.class_names) or name.partition(".")[2]: as_number(value)
        for name, value in row.items()
        if name.startswith(f"{DISTANCE}.")
    }
    if distances:
        listed = ", ".join(f"{code(name)} {measured(value)}" for name, value in distances.items())
        lines.append(f"- distance between classes, in what the network does for each: {listed}")
    return ["## What was seen of the images drawn and the classes", "", *lines, ""] if lines else []


def _both(found: Mapping[str, float]) -> str:
    return f"val_acc {measured(found['val_acc'], 5)} and val_bpd {measured(found['val_bpd'], 5)}"


def _confirmed(choice: Choice) -> list[str]:
    confirmed = choice["confirmed"]
    best = confirmed["finalists"][0]
    runs = ", ".join(f"{measured(run['value'])} (seed {run['seed']})" for run in best["runs"])
    sure = "" if best["interval"] is None else f", 95% interval {interval(*best['interval'])}"
    return [
        (
            f"- confirmed: {len(confirmed['finalists'])} finalists were trained again on {len(confirmed['seeds'])} new "
            f"seeds; this configuration has the best mean {choice['metric']}, {measured(best['mean'])}{sure}, and is "
            f"the best one with probability {probability(best['probability_best'])}"
        ),
        f"- its runs: {runs}; {measured(best['value_before'])} is what the search found, and had no part in this",
        f"- the rule, recorded before the runs: {confirmed['rule']}",
        *(f"- {prose(note)}" for note in confirmed["notes"]),
    ]


def _commands(config: TrialConfig, sweep: SweepRecord) -> list[str]:
    source = sweep.source
    if config.continues and config.lineage.parent is not None:
        place = [] if config.data.root is None else ["--set", "data.root=PATH"]
        return [
            shlex.join(["python", "-m", "orchestrator.trial", "replay", config.trial_id, *place]),
            "python -m orchestrator.export FOLDER",
        ]
    if config.continues or source is None or config.source is not None or config.protocol != PROTOCOL:
        return ["python -m orchestrator.export FOLDER"]
    defaults = TrialConfig().flat()
    said = {} if sweep.asked is None else {**sweep.asked.space, **sweep.asked.settings}
    settings = {
        name: "PATH" if name == "data.root" else value
        for name, value in config.flat().items()
        # What the space file or its preset says of a field counts before its default does.
        if (defaults.get(name) != value or name in said) and name != "seed"
    }
    file, _, preset = source.partition(PRESET)
    under = ["--preset", preset] if preset else []
    given = [argument for name, value in settings.items() for argument in ("--set", f"{name}={_typed(name, value)}")]
    return [
        shlex.join(["python", "-m", "orchestrator.trial", file, *under, "--seed", str(config.seed), *given]),
        "python -m orchestrator.export FOLDER",
    ]


def _typed(name: str, value: Scalar) -> str:
    """The value as --set reads it: a string as it is, unless it would be read as a number, true, false or null."""
    if isinstance(value, str) and (name in LOCATIONS or parse_settings([f"{name}={value}"]) == {name: value}):
        return value
    return json.dumps(value)
