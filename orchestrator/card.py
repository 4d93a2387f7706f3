"""The model card of an exported folder: what was searched, on what, how sure the choice is, and how to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cpcnn_core.config import LOCATIONS, PROTOCOL, Scalar, TrialConfig
from orchestrator import submission
from orchestrator.leaderboard import Entry
from orchestrator.markdown import block, code, prose
from orchestrator.progress import plain
from orchestrator.space import parse_settings
from orchestrator.store import StoreError

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset

_FILES = (
    ("weights.safetensors", "the weights, their configuration in the header"),
    ("conditional_pixelcnn.pth", "the same as a plain state_dict under the starter code's names"),
    ("config.json", "the configuration"),
    ("metrics.json", "what was recorded, what was measured again, the confusion matrix, how it was chosen"),
    (submission.PREDICTIONS, "predictions of the test images, header `id,label`, last row `fid`"),
    (submission.PREDICTIONS_WITH_PATHS, "the same without header and FID, files named as in test.csv"),
    (submission.LOGITS, "log p(x | y) + log p(y) in nats, test images x classes, in the order of test.csv"),
    (f"{submission.SAMPLES}/", f"{submission.PER_CLASS} images of each class; {submission.GRID} shows them at once"),
    ("SHA256SUMS", "for `sha256sum -c`"),
)


def written(entry: Entry, config: TrialConfig, measured: Mapping[str, Any], data: Dataset) -> str:
    """The card as Markdown. `measured` is the content of metrics.json."""
    try:
        sweep = entry.store.read_sweep() or {}
    except StoreError:
        sweep = {}
    choice, trained = measured["choice"], measured["trained"]
    epoch = measured["recorded"]["epoch"]
    lines = [
        "# Model card",
        "",
        (
            f"A class-conditional PixelCNN++ that draws and classifies {config.data.name} images of "
            f"{'x'.join(map(str, data.image_shape))} (channels, height, width) in {data.nr_classes} classes. "
            f"Epoch {epoch} of trial `{entry.trial_id}` of the sweep {code(entry.store.folder.name)}."
        ),
        "",
        "## What was searched, on what",
        "",
        prose(str(sweep.get("question") or "The sweep did not say.")),
        "",
        *_searched(sweep),
        (
            f"Data: {len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test images. The "
            "choice was made on the validation images; the test images' labels had no part in it."
        ),
        "",
        "## How sure",
        "",
        *_certainty(choice, measured),
        "",
        "## The configuration",
        "",
        *(f"- {code(name)}: {prose(plain(value))}" for name, value in config.flat().items() if value is not None),
        "",
        "## Where it comes from",
        "",
        (
            f"- trained by commit `{trained['git_commit']}` on {prose(str(trained['device']))}, {trained['started']} "
            f"to {trained['ended']}"
        ),
        f"- exported by commit `{measured['exported']['git_commit']}` at {measured['exported']['at']}",
        *(f"- {name} {version}" for name, version in measured["versions"].items()),
        "",
        "To train it again, and to check this folder:",
        "",
        *block(_commands(config, sweep)),
        "",
        "## Files",
        "",
        *(f"- `{name}`: {what}" for name, what in _FILES),
    ]
    return "\n".join(lines) + "\n"


def _searched(sweep: Mapping[str, Any]) -> list[str]:
    space = sweep.get("asked", {}).get("space", {})
    if not isinstance(space, Mapping) or not space:
        return []
    return [*(f"- {code(name)}: {prose(str(value))}" for name, value in space.items()), ""]


def _certainty(choice: Mapping[str, Any] | None, measured: Mapping[str, Any]) -> list[str]:
    said = [
        f"- measured again before the export: {name} {value:.5f}" for name, value in measured["measured_again"].items()
    ]
    if measured["as_graded"] is not None:
        own, graded = measured["measured_again"], measured["as_graded"]
        said.append(
            "- this trial rounds the pixels of resized images. On its own pixels, which the predictions handed in are "
            f"of, it has {_both(own)}; the course's scripts do not round, and give conditional_pixelcnn.pth "
            f"{_both(graded)}"
        )
    handed = measured["submission"]
    if handed["fid"] is not None:
        said.append(
            f"- FID of the {handed['fid_images']} images handed in: {handed['fid']:.3f}, features "
            f"{handed['fid_extractor']}, reference {handed['fid_reference']}; no FID measured otherwise compares"
        )
    else:
        said.append(f"- no FID of the images handed in: {prose(str(handed['fid_error']))}")
    if choice is None:
        return said
    if "confirmed" in choice:
        return [*said, *_confirmed(choice)]
    said.append(f"- chosen by `--rule {choice['rule']}` among {choice['trials']} trials")
    if choice["corrected"] is not None:
        low, high = choice["corrected"]["interval"]
        together = sum(bool(one["indistinguishable"]) for one in choice["best"])
        said += [
            (
                f"- {choice['metric']} corrected for the choice: {choice['corrected']['value']:.4f}, 95% interval "
                f"{low:.4f} to {high:.4f}; this, not the value that led to the choice, is what to expect of new images"
            ),
            f"- of the trials listed in metrics.json {together} cannot be told from the best",
        ]
    return [*said, *(f"- {prose(note)}" for note in choice["notes"])]


def _both(found: Mapping[str, float]) -> str:
    return f"val_acc {found['val_acc']:.5f} and val_bpd {found['val_bpd']:.5f}"


def _confirmed(choice: Mapping[str, Any]) -> list[str]:
    confirmed = choice["confirmed"]
    best = confirmed["finalists"][0]
    runs = ", ".join(f"{run['value']:.4f} (seed {run['seed']})" for run in best["runs"])
    interval = best["interval"]
    sure = "" if interval is None else f", 95% interval {interval[0]:.4f} to {interval[1]:.4f}"
    return [
        (
            f"- confirmed: {len(confirmed['finalists'])} finalists were trained again on {len(confirmed['seeds'])} new "
            f"seeds; this configuration has the best mean {choice['metric']}, {best['mean']:.4f}{sure}, and is the "
            f"best one with probability {best['probability_best']:.2f}"
        ),
        f"- its runs: {runs}; {best['value_before']:.4f} is what the search found, and had no part in this",
        f"- the rule, recorded before the runs: {confirmed['rule']}",
        *(f"- {prose(note)}" for note in confirmed["notes"]),
    ]


def _commands(config: TrialConfig, sweep: Mapping[str, Any]) -> list[str]:
    source = sweep.get("source")
    if source is None or config.source is not None or config.protocol != PROTOCOL:
        return ["python -m orchestrator.export FOLDER"]
    defaults = TrialConfig().flat()
    settings = {
        name: "PATH" if name == "data.root" else value
        for name, value in config.flat().items()
        if defaults.get(name) != value and name != "seed"
    }
    given = [argument for name, value in settings.items() for argument in ("--set", f"{name}={_typed(name, value)}")]
    return [
        shlex.join(["python", "-m", "orchestrator.trial", source, "--seed", str(config.seed), *given]),
        "python -m orchestrator.export FOLDER",
    ]


def _typed(name: str, value: Scalar) -> str:
    """The value as --set reads it: a string as it is, unless it would be read as a number, true, false or null."""
    if isinstance(value, str) and (name in LOCATIONS or parse_settings([f"{name}={value}"]) == {name: value}):
        return value
    return json.dumps(value)
