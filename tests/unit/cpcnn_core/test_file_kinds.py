"""What is no checkpoint is called what it is, in one sentence with the way out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from cpcnn_core.errors import CheckpointError
from cpcnn_core.file_kinds import Kind, look
from cpcnn_core.starter import read_state_dict

_WEB_PAGE = b"\n<!-- saved from the course -->\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3715210\n"


def _torch() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(300)}, stream)
    return stream.getvalue()


def _zip(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        held = tarfile.TarInfo("model.pth")
        held.size = 3
        archive.addfile(held, io.BytesIO(b"abc"))
    return stream.getvalue()


def _image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, format=kind)
    return stream.getvalue()


def _array(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


# What the file holds, and the words that have to stand in the error.
NO_CHECKPOINTS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "nothing": (lambda: b"", ("is empty", "download")),
    "page": (lambda: _WEB_PAGE, ("a web page", "download the file itself")),
    "bare page": (lambda: b"<html lang=en>", ("a web page", "download the file itself")),
    "bucket's error": (lambda: b'<?xml version="1.0"?><Error>', ("XML", "download the file itself")),
    "pointer": (lambda: _LFS, ("Git LFS pointer", "git lfs pull")),
    "gzip": (lambda: gzip.compress(_torch()), ("gzip", "unpack it")),
    "bzip2": (lambda: bz2.compress(_torch()), ("bzip2", "unpack it")),
    "xz": (lambda: lzma.compress(_torch()), ("xz", "unpack it")),
    "zstandard": (lambda: b"\x28\xb5\x2f\xfd" + bytes(20), ("zstandard", "unpack it")),
    "7-Zip": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(20), ("7-Zip", "unpack it")),
    "RAR": (lambda: b"Rar!\x1a\x07\x01\x00", ("RAR", "unpack it")),
    "tar": (_tar, ("tar archive", "unpack it")),
    "zip": (
        lambda: _zip(**{"a/model.pth": _torch(), "b": b"", "c": b"", "d": b""}),
        ("a/model.pth, b, c, ...", "unpack"),
    ),
    "empty zip": (lambda: _zip() + bytes(4), ("begins with 50 4b 05 06", "torch.save(model.state_dict(), FILE)")),
    "half a zip": (lambda: _torch()[:700], ("stopped early", "get it again")),
    "npz": (lambda: _array(a=np.zeros(2)), ("NumPy archive (a.npy)", "torch.save(model.state_dict(), FILE)")),
    "npy": (lambda: b"\x93NUMPY\x01\x00", ("NumPy array", "torch.save(model.state_dict(), FILE)")),
    "program": (lambda: _zip(**{"m/constants.pkl": b"", "m/data.pkl": b""}), ("TorchScript", "torch.jit.load(FILE)")),
    "Keras": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(20), ("HDF5", "torch.save(model.state_dict(), FILE)")),
    "PNG": (lambda: _image("PNG"), ("an image", "torch.save(model.state_dict(), FILE)")),
    "JPEG": (lambda: _image("JPEG"), ("an image", "torch.save(model.state_dict(), FILE)")),
    "BMP": (lambda: _image("BMP"), ("an image", "torch.save(model.state_dict(), FILE)")),
    "GIF": (lambda: _image("GIF"), ("an image", "torch.save(model.state_dict(), FILE)")),
    "PDF": (lambda: b"%PDF-1.7\n%\xe2\xe3", ("a PDF", "torch.save(model.state_dict(), FILE)")),
    "GGUF": (lambda: b"GGUF" + bytes(20), ("GGUF", "torch.save(model.state_dict(), FILE)")),
    "pickle": (lambda: pickle.dumps({"w": [1.0]}), ("a pickle", "could execute code", "torch.save")),
    "JSON": (lambda: json.dumps({"w": [1.0]}, indent=1).encode(), ("is JSON", "torch.save(model.state_dict(), FILE)")),
    "text": (lambda: "Gewichte für später\n".encode() * 40, ("plain text", "torch.save(model.state_dict(), FILE)")),
    "noise": (lambda: bytes([200, 1, 255]) * 99, ("begins with c8 01 ff", "torch.save(model.state_dict(), FILE)")),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    make, words = NO_CHECKPOINTS[name]
    path = tmp_path / "model.pth"
    path.write_bytes(make())
    with pytest.raises(CheckpointError) as raised:
        read_state_dict(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ")
    assert all(word in said for word in words), said
    assert "\n" not in said
    assert "weights_only" not in said  # torch's advice is to read it all the same


@pytest.mark.parametrize("cut", range(1, 14))
def test_text_that_ends_within_a_character_is_still_text(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(("a" * cut + "ü€😀" * 300).encode())  # 512 bytes end anywhere
    assert look(path).what == "plain text"


def test_formats_of_tensors_are_known_whatever_their_names(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(_torch())
    assert look(path).kind is Kind.TORCH
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    assert look(path).kind is Kind.OLD_TORCH
    path.write_bytes(save({"w": torch.zeros(2)}))
    assert look(path).kind is Kind.SAFETENSORS


@pytest.mark.parametrize("pickle_protocol", [2, 4, 5])
def test_an_old_file_of_any_pickle_protocol_is_one_of_torch(tmp_path: Path, pickle_protocol: int) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False, pickle_protocol=pickle_protocol)
    assert look(path).kind is Kind.OLD_TORCH


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth").touch()
    with pytest.raises(CheckpointError, match=r"run: is a folder; name the file in it: last\.pth"):
        read_state_dict(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        read_state_dict(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match=r"pipe\.pth: is a named pipe, not a regular file"):
        read_state_dict(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match=r"run/last\.pth/deeper: cannot be read: Not a directory"):
        read_state_dict(tmp_path / "run" / "last.pth" / "deeper")
