"""Image files: the formats that are read, upright and on white; whatever else comes is one error."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cpcnn_core import image_files
from cpcnn_core.errors import DataError
from cpcnn_core.image_files import FORMATS

OTHERS = ("EPS", "PDF", "TGA", "ICO", "PCX", "SGI", "DDS", "IM")
MUTATIONS = int(os.environ.get("CPCNN_MUTATIONS", "200"))  # of each format

GRADIENT = np.stack(np.meshgrid(np.arange(0, 240, 16), np.arange(0, 160, 16)), axis=-1).astype(np.uint8)
PIXELS = np.concatenate([GRADIENT, 255 - GRADIENT[..., :1]], axis=-1)  # (10, 15, 3)


def file(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_that_is_read_gives_its_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = image_files.decode(file(kind, **options))
    assert found.shape == PIXELS.shape
    atol = {"JPEG": 4, "GIF": 0}.get(kind, 0)
    np.testing.assert_allclose(found.astype(int), PIXELS.astype(int), atol=atol)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_format_is_refused_whatever_it_is_called(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr("subprocess.Popen", started)  # EPS is drawn by Ghostscript
    monkeypatch.setattr("subprocess.check_call", started)
    with pytest.raises(DataError, match=r"cannot be decoded \(no known image format\); expected .* one of JPEG, PNG"):
        image_files.decode(file(kind))


def _damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Cut, overwritten, with bytes put in or taken out, at one to eight places."""
    data = bytearray(content)
    for _ in range(random.integers(1, 9)):
        at = int(random.integers(0, max(1, len(data))))
        match random.integers(0, 5):
            case 0:
                data[at : at + 1] = random.bytes(1)
            case 1:
                data[at:at] = random.bytes(int(random.integers(1, 40)))
            case 2:
                del data[at : at + int(random.integers(1, 40))]
            case 3:
                data[at : at + 4] = random.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
            case _:
                del data[max(8, at) :]
    return bytes(data)


@pytest.mark.parametrize("kind", [*FORMATS, *OTHERS])
def test_a_damaged_file_gives_an_image_or_one_error(kind: str) -> None:
    random = np.random.default_rng(0)
    whole = file(kind)
    errors = []
    for _ in range(MUTATIONS):
        try:
            found = image_files.decode(_damaged(whole, random))
        except DataError as error:
            errors.append(str(error))
        else:
            assert found.ndim == 3
            assert found.shape[2] == 3
    assert errors
    assert not any("\n" in said for said in errors)


def test_a_large_text_chunk_and_a_bomb_are_one_error_each() -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("comment", "x" * 80_000_000, zip=True)
    with pytest.raises(DataError, match=r"cannot be decoded \(.*; expected a whole image"):
        image_files.decode(file("PNG", pnginfo=text))
    bomb = file("PNG", Image.new("1", (12_000, 12_000)))
    with pytest.raises(DataError, match=r"cannot be decoded \(Image size .*pixels.* exceeds limit"):
        image_files.decode(bomb)


@pytest.mark.parametrize("state", ["error", "ignore", "default"])
def test_the_filters_of_warnings_have_no_part_in_it(state: str) -> None:
    content = bytearray(file("JPEG", exif=b"Exif\0\0II*\0\xff\0\0\0"))  # broken EXIF, which Pillow warns of
    with warnings.catch_warnings():
        warnings.simplefilter(state)
        assert image_files.decode(bytes(content)).shape == PIXELS.shape


TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_is_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = image_files.decode(file(kind, exif=exif))
    np.testing.assert_array_equal(found, TURNS[orientation](PIXELS))


def _with_alpha(mode: str) -> Image.Image:
    """Left half opaque black, right half transparent black."""
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 3, 3), fill=(0, 0, 0, 255))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    found = image_files.decode(file("PNG", _with_alpha(mode)))
    assert found[:, :4].max() == 0
    assert found[:, 4:].min() == 255


def test_a_transparent_colour_is_white_and_half_of_it_half() -> None:
    found = image_files.decode(file("PNG", Image.fromarray(PIXELS), transparency=(0, 0, 255)))
    assert found[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(found[1:], PIXELS[1:])
    half = image_files.decode(file("PNG", Image.new("RGBA", (2, 2), (255, 0, 0, 128))))
    assert half[0, 0].tolist() == pytest.approx([255, 127, 127], abs=1)


def test_an_opaque_alpha_changes_nothing() -> None:
    found = image_files.decode(file("PNG", Image.fromarray(PIXELS).convert("RGBA")))
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_several_frames_are_refused(kind: str) -> None:
    others = [Image.fromarray(255 - PIXELS)]
    with pytest.raises(DataError, match="has 2 frames; expected a single image"):
        image_files.decode(file(kind, Image.fromarray(PIXELS), save_all=True, append_images=others))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=f"has pixels of mode {mode}.*expected 8 bits per channel"):
        image_files.decode(file("TIFF", Image.new(mode, (4, 4))))
