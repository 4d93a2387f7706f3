"""A picture of images in rows, one class each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cpcnn_core.class_names import MOST_DRAWN, shortened
from cpcnn_core.files import write_atomically

COLUMNS = 25  # images of a class that are shown at most
GAP = 2  # pixels between two images

_SHOWN_SIDE = 64  # pixels; smaller images are enlarged by a whole factor, so that one sees their pixels
_LETTERS = 16  # pixels that a row's name is high
_MARGIN = 8  # pixels around it
_LONGEST = 32  # characters of a name
_NO_LETTER = "\ufffe"  # of which no font has a picture


def write(path: Path, images: Tensor, labels: Tensor, names: Mapping[int, str] | None = None) -> None:
    """Write a PNG with one row per class, of its first images (N, C, H, W) uint8; with `names` each row has its own."""
    classes = labels.unique().tolist()[:MOST_DRAWN]
    pixels = Image.fromarray(_rows(images, labels, classes).permute(1, 2, 0).contiguous().numpy())
    if names is not None:
        pixels = _named(pixels, [_in_letters(label, names[label]) for label in classes])
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))


def _rows(images: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
    """The grid, (3, H, W) uint8."""
    columns = min(COLUMNS, max(int((labels == label).sum()) for label in classes))
    channels, height, width = images.shape[1:]
    factor = max(1, _SHOWN_SIDE // max(height, width))
    height, width = factor * height + GAP, factor * width + GAP
    grid = torch.full((channels, len(classes) * height - GAP, columns * width - GAP), 255, dtype=torch.uint8)
    for row, label in enumerate(classes):
        for column, image in enumerate(images[labels == label][:columns]):
            enlarged = image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
            top, left = row * height, column * width
            grid[:, top : top + enlarged.shape[1], left : left + enlarged.shape[2]] = enlarged
    return grid.expand(3, -1, -1)


def _named(grid: Image.Image, names: list[str]) -> Image.Image:
    """The grid with each row's name to the left of it."""
    font = _font()
    left = 2 * _MARGIN + max(round(font.getlength(name)) for name in names)
    height = (grid.height + GAP) / len(names)
    above = max(0, round((_LETTERS - height + GAP) / 2) + GAP)  # the letters of the first and last row stand out
    whole = Image.new("RGB", (left + grid.width, grid.height + 2 * above), "white")
    whole.paste(grid, (left, above))
    drawing = ImageDraw.Draw(whole)
    for row, name in enumerate(names):
        middle = (left - _MARGIN, above + row * height + (height - GAP) / 2)
        drawing.text(middle, name, fill="black", font=font, anchor="rm")
    return whole


def _in_letters(label: int, name: str) -> str:
    """The name of a row, as long as fits; the class's number where the font lacks a letter of it."""
    return shortened(name, _LONGEST) if _has_letters(name) else f"class {label}"


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_LETTERS)


def _has_letters(text: Iterable[str]) -> bool:
    """Whether the font has a picture of each character, and not one that stands for all that it lacks."""
    lacking = bytes(_font().getmask(_NO_LETTER))
    return all(character == " " or bytes(_font().getmask(character)) != lacking for character in text)
