"""A picture of images in rows, one class each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cpcnn_core.files import write_atomically

COLUMNS = 25  # images of a class that are shown at most

_SHOWN_SIDE = 64  # pixels; smaller images are enlarged by a whole factor, so that one sees their pixels
_GAP = 2  # pixels between two images
_LETTERS = 16  # pixels that a row's name is high
_MARGIN = 8  # pixels around it


def write(path: Path, images: Tensor, labels: Tensor, names: Mapping[int, str] | None = None) -> None:
    """Write a PNG with one row per class, of its first images (N, C, H, W) uint8; with `names` each row has its own."""
    pixels = Image.fromarray(_rows(images, labels).permute(1, 2, 0).contiguous().numpy())
    if names is not None:
        pixels = _named(pixels, [names[label] for label in labels.unique().tolist()])
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))


def _rows(images: Tensor, labels: Tensor) -> Tensor:
    """The grid, (3, H, W) uint8."""
    classes = labels.unique().tolist()
    columns = min(COLUMNS, max(int((labels == label).sum()) for label in classes))
    channels, height, width = images.shape[1:]
    factor = max(1, _SHOWN_SIDE // max(height, width))
    height, width = factor * height + _GAP, factor * width + _GAP
    grid = torch.full((channels, len(classes) * height - _GAP, columns * width - _GAP), 255, dtype=torch.uint8)
    for row, label in enumerate(classes):
        for column, image in enumerate(images[labels == label][:columns]):
            enlarged = image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
            top, left = row * height, column * width
            grid[:, top : top + enlarged.shape[1], left : left + enlarged.shape[2]] = enlarged
    return grid.expand(3, -1, -1)


def _named(grid: Image.Image, names: list[str]) -> Image.Image:
    """The grid with each row's name to the left of it."""
    font = ImageFont.load_default(_LETTERS)
    left = 2 * _MARGIN + max(round(font.getlength(name)) for name in names)
    whole = Image.new("RGB", (left + grid.width, grid.height), "white")
    whole.paste(grid, (left, 0))
    drawing = ImageDraw.Draw(whole)
    height = (grid.height + _GAP) / len(names)
    for row, name in enumerate(names):
        middle = (left - _MARGIN, row * height + (height - _GAP) / 2)
        drawing.text(middle, name, fill="black", font=font, anchor="rm")
    return whole
