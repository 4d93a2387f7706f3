"""Image files: which formats are read, and what becomes of orientation, transparency and damage."""

from __future__ import annotations

import io
import threading
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cpcnn_core.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What is read, by Pillow's names. Others may start programs (EPS), or are read by code that hardly anybody uses."""


class _Quiet:
    """What Pillow warns of is passed over while any thread is in here.

    It (broken EXIF, say) leaves the pixels whole, but for an image so large that it may be an attack: that is refused,
    whatever Python's own filters make of warnings. The filters are the whole process's. The first thread that comes
    sets them and the last one that leaves puts them back: each by itself, as one leaves it would put back another's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


QUIET = _Quiet()
"""Entered around many images, it spares each of them setting the filters."""

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_EXPECTED = f"expected a whole image, one of {', '.join(FORMATS)}"


def decode(content: bytes) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of an image file, upright as its EXIF orientation says, on white where it is transparent.

    Raise DataError, which says what is wrong with the file but not which one it is.
    """
    try:
        with QUIET, Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check(image)
            return np.array(_on_white(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise DataError(f"cannot be decoded (no known image format); {_EXPECTED}") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot be decoded ({reason}); {_EXPECTED}") from None


def _check(image: Any) -> None:
    if image.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"has pixels of mode {image.mode}; expected 8 bits per channel")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG, with previews behind the picture
        raise DataError(f"has {frames} frames; expected a single image")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
