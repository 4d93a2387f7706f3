"""What the finalists draw: side by side by class, beside the nearest training images, and epoch by epoch."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow

from cpcnn_core import alarms
from cpcnn_core.class_names import MOST_DRAWN
from orchestrator.choosing.finalists import FINALISTS
from orchestrator.records.location import Folder, RemoteError
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Row, Store, as_int, as_number
from orchestrator.text.formatting import measured
from orchestrator.views.page.blocks import Block, Comparison, Gallery, Image, Paragraph
from orchestrator.views.page.classification import WITHOUT, finalists, shape_of, uri
from orchestrator.views.page.subject import Subject

_EPOCHS = 3  # whose pictures are shown of the best trial
_BYTES = 100_000  # of such a picture, unless one column has more
_COLUMNS = 4  # images of each class in them
_IN_A_GRID = 25  # that it has at most, as `cpcnn_core.grid` draws it
_GAP = 2  # pixels between two images there
_ROWS = 20  # classes that are shown
_SIDE = 40  # pixels that an image is shown wide and high


def drawn(subject: Subject) -> list[Block]:
    """The finalists side by side; how near they come to the training images; how the best one learnt to draw."""
    found = finalists(subject)
    if not found:
        return [Paragraph(WITHOUT), *_by_epoch(subject)]
    labels = sorted({one.label for *_, of in found for one in of})
    rows = [
        (subject.class_of(label), [[_drawn(subject, one) for one in of if one.label == label] for *_, of in found])
        for label in labels
    ]
    heads = [f"{name} (epoch {epoch})" for name, _, epoch, _ in found]
    told = (
        f"The best {len(found)} trials that have pictures, side by side: a row is a class. Not chosen by eye: these "
        "are the first images that each network draws."
    )
    if len(labels) < len(subject.class_names):
        told += f" Of {len(subject.class_names)} classes {len(labels)} are shown, at equal steps."
    drawn = Comparison("Images that the finalists draw", told, heads, rows)
    return [drawn, _nearest(subject, found[0]), *_by_epoch(subject)]


def _drawn(subject: Subject, one: Picture) -> Image:
    return Image(uri(one.png), f"Drawn as {subject.class_of(one.label)}", side=_SIDE, shape=shape_of(one.png))


def _nearest(subject: Subject, best: tuple[str, str, int, list[Picture]]) -> Gallery:
    """Pairs of a drawn image and the training image that is nearest to it, the nearest pairs first."""
    name, _, _, pictures = best
    pairs = sorted((one for one in pictures if one.nearest_png is not None), key=lambda one: one.distance or 0.0)
    images = [
        Image(
            uri(both),
            f"Left: drawn as {subject.class_of(one.label)}. Right: the nearest training image, {one.nearest}, of "
            f"{subject.class_of(one.nearest_label)}, at a distance of {measured(one.distance)}.",
            f"{measured(one.distance, 3)}",
            side=2 * _SIDE,
            shape=shape_of(both),
        )
        for one in pairs
        for both in [_beside(one.png, one.nearest_png or b"")]
    ]
    caption = (
        f"All {len(images)} images of {name}, each beside the training image that is nearest to it: left the drawn "
        "one, right the training image, the nearest pairs first. The number is their distance, the root mean square "
        "over pixels in [-1, 1]: 0 is a copy. Pairs that look the same tell of a network that recites."
    )
    return Gallery("Memorisation: the nearest training images", caption, images)


def _beside(left: bytes, right: bytes) -> bytes:
    with Pillow.open(io.BytesIO(left)) as one, Pillow.open(io.BytesIO(right)) as other:
        parts = [np.asarray(each.convert("RGB")) for each in (one, other)]
    both = Pillow.fromarray(np.concatenate(parts, axis=1))
    buffer = io.BytesIO()
    both.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------- pictures of kept epochs


def _by_epoch(subject: Subject) -> list[Block]:
    """How the best of the finalists that drew images during training learnt to draw."""
    stores = {store.folder.name: store for store in subject.selected.stores}
    for one in subject.standings[:FINALISTS]:
        entry = subject.by_id(one.trial_id, one.sweep)
        files = _files(stores[one.sweep], one.trial_id)
        if entry is None or not files:
            continue
        spread = sorted({round(float(at)) for at in np.linspace(0, len(files) - 1, _EPOCHS)})
        rows = {row["epoch"]: row for row in entry.epochs}
        shown = min(MOST_DRAWN, len(subject.class_names))  # an earlier release did not say of how many
        columns = min(_IN_A_GRID, as_int(entry.settings().get("eval.fid_images_per_class") or _IN_A_GRID))
        images = [
            Image(uri(_part(file.read_bytes(), columns, shown)), f"Images after epoch {epoch}, a row per class", told)
            for file in (files[at] for at in spread)
            for epoch in [int(file.stem.rpartition("-")[2])]
            for told in [_told(epoch, rows.get(epoch, {}))]
        ]
        caption = (
            f"Trial {one.trial_id}: a row is a class, in the order of their numbers, the first {_ROWS} at most. Every "
            "picture is drawn from the same noise, so that what differs "
            "between two of them is what the network learnt meanwhile. The command best --trial exports an epoch whose "
            "weights were kept."
        )
        return [Gallery("How it learnt to draw", caption, images)]
    return [Paragraph("No images were drawn during training: eval.fid_every was 0.")]


def _files(store: Store, trial_id: str) -> list[Folder]:
    try:
        return sorted(store.samples_folder.glob(f"{trial_id}-*.png"), key=str)
    except RemoteError:
        return []


def _part(content: bytes, columns: int, rows: int) -> bytes:
    """The first of a grid's columns, fewer where they take much room, and the first of its rows."""
    with Pillow.open(io.BytesIO(content)) as picture:
        column, height = (picture.width + _GAP) / columns, picture.height
        if rows > _ROWS:
            height = round((picture.height + _GAP) / rows * _ROWS) - _GAP
        fitting = int(columns * _BYTES / (len(content) * height / picture.height))
        width = max(1, round(column * max(1, min(_COLUMNS, fitting))) - _GAP)
        part = picture.crop((0, 0, min(width, picture.width), height))
        buffer = io.BytesIO()
        part.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _told(epoch: int, row: Row) -> str:
    text = f"epoch {epoch}"
    if row.get("fid") is not None:
        text += f", FID {measured(as_number(row['fid']), 1)}"
    if row.get("checkpoint") is not None:
        text += ", weights kept"
    if row.get("fid_class_error"):
        text += f"; not of every class: {row['fid_class_error']}"
    return text + "".join(f"; {sentence}" for sentence in alarms.of_epoch(row))
