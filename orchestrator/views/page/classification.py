"""How the chosen network classifies: splits, confusion, calibration, mistakes, and where the evidence lies."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from orchestrator.choosing.decision import Decision
from orchestrator.choosing.finalists import FINALISTS
from orchestrator.records import arrays
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Store, StoreError, as_number
from orchestrator.text.formatting import measured, probability
from orchestrator.views.page import palette
from orchestrator.views.page.blocks import Block, Cell, Figure, Gallery, Image, Line, Paragraph, Table
from orchestrator.views.page.figures import Axis, Trace, figure
from orchestrator.views.page.subject import Subject

_BINS = 15
_MOST_IN_CONFUSION = 20  # classes of which there is the whole table: a thousand would have a million cells
_MOST_CONFUSED = 30  # pairs of classes, where there are more
_SIDE = 144  # pixels that a picture with its evidence is shown wide and high
_STRONG = 0.98  # of the pixels' ratios lie below the strongest colour


def classification(subject: Subject) -> list[Block]:
    """Accuracy of each split, and confusion and calibration of the chosen epoch."""
    decision = subject.decision
    if decision is None:
        return [Paragraph("No epoch can be chosen yet.")]
    blocks: list[Block] = [_splits(subject)]
    store, trial = decision.epochs.trials[decision.epochs.trial[decision.row]]
    try:
        table = store.predictions_table(str(trial["trial_id"]), decision.epoch)
    except StoreError as error:
        return [*blocks, Paragraph(f"{error}.")]
    Y = sum(name.startswith("log_p_") for name in table.column_names)
    log_p = np.stack([arrays.numbers(table[f"log_p_{label}"]) for label in range(Y)], axis=1)
    label = arrays.integers(table["label"])
    images = f"{len(label)}{_of_all(decision)} validation images"
    of = f"Epoch {decision.epoch} of {decision.trial_id}, {images}, uniform prior. "
    counts = np.zeros((Y, Y), int)
    np.add.at(counts, (label, log_p.argmax(axis=1)), 1)
    names = [subject.class_of(each) for each in range(Y)]
    if Y > _MOST_IN_CONFUSION:
        told = [_confused(counts, names, of), _by_class(counts, names, of)]
    else:
        told = [_confusion(counts, names, of)]
    return [*blocks, *told, _calibration(log_p, label, of)]


def _of_all(decision: Decision) -> str:
    """Of how many, where not all were scored."""
    _, row = decision.epochs.entry(decision.row)
    images, of = (as_number(row.get(name)) for name in ("val_images", "val_images_of"))
    return "" if images is None or of is None or images >= of else f" of {of:.0f}"


def _splits(subject: Subject) -> Table:
    """What the best trials reach on the images that they learnt from, that they were chosen by, and on others."""
    shown = subject.ranked[:5]
    columns = ("train_acc", "val_acc", "test_acc", "train_bpd", "val_bpd")
    lines = []
    for entry in shown:
        row = next((row for row in reversed(entry.epochs) if row.get("val_bpd") is not None), entry.epochs[-1])
        cells = [Cell(subject.name(entry), link=f"trial-{entry.trial_id}", head=True), Cell(str(row["epoch"]))]
        cells += [Cell(measured(as_number(row.get(column)))) for column in columns]
        lines.append(Line(cells))
    caption = (
        "Training, validation and test, after the last epoch of the best trials that was evaluated. Trials are chosen "
        "by validation images, so that val_acc is a little too good; nothing is chosen by test_acc. - : not measured."
    )
    return Table("splits", caption, ["trial", "epoch", *columns], lines, frozenset(range(1, 7)))


def _confusion(counts: NDArray[np.int64], names: Sequence[str], of: str) -> Table:
    """How many images of each class, a row, were taken for each class, a column."""
    Y = len(names)
    most = counts.max() or 1
    lines = []
    for true in range(Y):
        cells = [Cell(names[true], head=True)]
        cells += [Cell(str(counts[true, each]), shade=float(counts[true, each] / most)) for each in range(Y)]
        lines.append(Line(cells))
    caption = f"Confusion. {of}A row is a true class, a column the class that was predicted; the diagonal is right."
    heads = ["true class", *(f"as {name.removeprefix('class ')}" for name in names)]
    return Table("confusion", caption, heads, lines, frozenset(range(1, Y + 1)))


def _by_class(counts: NDArray[np.int64], names: Sequence[str], of: str) -> Table:
    """How many of each class's images are classified rightly, the least first."""
    images, right = counts.sum(axis=1), counts.diagonal()
    share = right / np.maximum(images, 1)
    lines = []
    for true in np.lexsort((-images, np.where(images > 0, share, np.inf))):
        accuracy = Cell(measured(float(share[true])), sort=float(share[true])) if images[true] else Cell("-")
        found = [Cell(str(counts[:, true].sum())), Cell(str(images[true])), accuracy]
        lines.append(Line([Cell(names[true], head=True), *found]))
    caption = (
        f"Each class. {of}Predicted: how many images were taken for the class, rightly or not. Accuracy: the share of "
        "the class's own images that were taken for it; - : it has none."
    )
    heads = ["class", "predicted", "images", "accuracy"]
    return Table("classes", caption, heads, lines, frozenset({1, 2, 3}), sorts=True, of="classes")


def _confused(counts: NDArray[np.int64], names: Sequence[str], of: str) -> Table:
    """The pairs of classes of which most images are taken for one another."""
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [divmod(int(at), len(names)) for at in order]
    images = counts.sum(axis=1)
    lines = [
        Line(
            [
                Cell(names[true], head=True),
                Cell(names[taken]),
                Cell(str(wrong[true, taken])),
                Cell(measured(float(wrong[true, taken] / images[true]))),
            ]
        )
        for true, taken in pairs
        if wrong[true, taken]
    ]
    caption = (
        f"Confusion: of {len(names)} classes the pairs of which most images were taken for one another, {len(lines)} "
        f"at most. {of}The table predictions has all."
    )
    heads = ["true class", "taken for", "images", "share of the true class"]
    return Table("confused", caption, heads, lines, frozenset({2, 3}))


def _calibration(log_p: NDArray[np.float64], label: NDArray[np.int64], of: str) -> Figure:
    posterior = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    confidence = (posterior / posterior.sum(axis=1, keepdims=True)).max(axis=1)
    right = log_p.argmax(axis=1) == label
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    there = [one for one in range(_BINS) if (bins == one).any()]
    sizes = [int((bins == one).sum()) for one in there]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": [0, 1],
            "y": [0, 1],
            "mode": "lines",
            "line": {"dash": "dot", "color": palette.GREY},
            "name": "as sure as right",
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "x": [float(confidence[bins == one].mean()) for one in there],
            "y": [float(right[bins == one].mean()) for one in there],
            "mode": "markers",
            "marker": {"color": palette.SERIES[0], "size": [8 + 24 * (size / max(sizes)) ** 0.5 for size in sizes]},
            "name": "measured",
            "text": [f"{size} images" for size in sizes],
            "hovertemplate": "%{text}<br>confidence %{x:.3f}, right %{y:.3f}<extra></extra>",
        },
    ]
    return figure(
        "calibration",
        "Calibration",
        traces,
        Axis("confidence: p(predicted class given image)", span=(-0.03, 1.06)),
        Axis("share that is classified rightly", span=(-0.05, 1.1)),
        caption=f"{of}Each point stands for the images of which the network is about so sure; the more images, the "
        "larger. Below the dotted line it is too sure of itself.",
        alternative=f"Mean confidence {float(confidence.mean()):.3f}, share of right ones {float(right.mean()):.3f}.",
    )


# ------------------------------------------------------------------------------------------ mistakes and the evidence


def evidence(subject: Subject) -> list[Block]:
    """The most confident mistakes of the chosen epoch, and what in the image spoke for which class."""
    decision = subject.decision
    found = [] if decision is None else _pictures(decision)
    shown = [one for one in found if one.kind == "validation"]
    if not shown:
        return [Paragraph(WITHOUT)]
    ratios = [np.array(one.log_ratio, float) for one in shown if one.log_ratio is not None]
    strongest = float(np.quantile(np.abs(np.concatenate(ratios)), _STRONG)) or 1.0
    groups = (
        ("The most confident mistakes", [one for one in shown if one.predicted != one.label]),
        ("Rightly classified", [one for one in shown if one.predicted == one.label]),
    )
    caption = (
        "The likelihood of an image is the product of those of its pixels, so that the evidence for a class is a sum "
        "over pixels. Blue pixels fit the true class better than the other one, red ones the other class better, each "
        "given the pixels above it and to its left. Clear ones say nothing. The number is the sum, in nats: below 0 "
        "the other class wins (under a uniform prior)."
    )
    scale = (f"{strongest:.1f} nats or more for the other class", f"{strongest:.1f} nats or more for the true class")
    return [
        Gallery(title, caption if at == 0 else "", [_with_evidence(subject, one, strongest) for one in of], scale)
        for at, (title, of) in enumerate((title, of) for title, of in groups if of)
    ]


WITHOUT = (
    "There are no pictures of the finalists. A sweep makes them at its end, and so does `report`, where weights and "
    "data are at hand."
)


def _pictures(decision: Decision) -> list[Picture]:
    store: Store
    store, trial = decision.epochs.trials[decision.epochs.trial[decision.row]]
    return pictures(store, str(trial["trial_id"]), decision.epoch)


def pictures(store: Store, trial_id: str, epoch: int) -> list[Picture]:
    """What was drawn and classified of an epoch; none where it is not there."""
    try:
        return store.pictures_of(trial_id, epoch)
    except StoreError:
        return []


def _with_evidence(subject: Subject, one: Picture, strongest: float) -> Image:
    total = float(np.sum(one.log_ratio or 0.0))
    sure = probability(one.confidence or 0.0)
    label, predicted, other = (subject.class_of(each) for each in (one.label, one.predicted, one.other))
    what = f"{label} taken for {predicted}" if one.predicted != one.label else f"{label}, against {other}"
    caption = f"{what}, confidence {sure}; evidence {total:+.1f} nats"
    return Image(
        uri(one.png),
        f"Validation image {one.image}: {caption}",
        caption,
        None if one.log_ratio is None else uri(_heat(one, strongest)),
        _SIDE,
        shape_of(one.png),
    )


def shape_of(content: bytes) -> tuple[int, int]:
    """Width and height of a picture."""
    with Pillow.open(io.BytesIO(content)) as picture:
        return picture.size


def _heat(one: Picture, strongest: float) -> bytes:
    """The evidence as a picture to lie over the image: the stronger, the less transparent."""
    width, height = shape_of(one.png)
    ratio = np.array(one.log_ratio, float).reshape(height, width) / strongest
    colors = [[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in (palette.AGAINST, palette.FOR)]
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., :3] = np.array(colors)[(ratio > 0).astype(int)]
    pixels[..., 3] = (np.minimum(1.0, np.abs(ratio)) * 235).astype(np.uint8)
    return png(pixels)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The pixels as a PNG."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def uri(content: bytes) -> str:
    """A PNG for the page itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def finalists(subject: Subject) -> Sequence[tuple[str, str, int, list[Picture]]]:
    """The first trials of the standings that have pictures: their names, ids, epochs and pictures."""
    shown = subject.standings[:FINALISTS]
    stores = {store.folder.name: store for store in subject.selected.stores}
    return [
        (subject.names[one.sweep, one.trial_id], one.trial_id, one.epoch, found)
        for one in shown
        if (found := [each for each in pictures(stores[one.sweep], one.trial_id, one.epoch) if each.kind == "drawn"])
    ]
