"""Files of tensors are read without executing code from them, and what is no network's weights is refused by name."""

from __future__ import annotations

import argparse
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cpcnn_core import tensor_files
from cpcnn_core.errors import CheckpointError
from cpcnn_core.state_dict import read_state_dict, read_weights


def _read(content: object, path: Path, **options: Any) -> dict[str, Tensor]:
    torch.save(content, path, **options)
    return read_state_dict(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        {
            "epoch": np.int64(3),
            "best": np.float64(0.7),
            "fast": np.bool_(True),
            "name": np.str_("a"),
            "raw": np.bytes_(b"a"),
        },
        {"losses": [np.float32(1.5), np.float16(2)], "curve": np.linspace(0, 1, 9), "empty": np.zeros((0, 2), np.int8)},
        {"objects": np.array(["a", None], dtype=object), "when": np.datetime64("2024-04-01"), "type": np.dtype("f4")},
        {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}, "seen": {"a", "b"}},
        {
            "loss": torch.tensor(0.5),
            "metrics": {"val_acc": torch.tensor(0.5), "epoch": 3},
            "grid": torch.zeros(3, 2, 2),
        },
    ],
    ids=["scalars", "arrays", "odd", "optimizer", "metrics"],
)
def test_what_lies_beside_the_weights_is_harmless(tmp_path: Path, beside: dict[str, object], zipped: bool) -> None:
    content = {"model_state_dict": {"w": torch.ones(2)}, **beside}
    found = _read(content, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    assert list(found) == ["w"]
    assert found["w"].tolist() == [1.0, 1.0]


def test_the_names_of_numpy_1_and_2_are_both_known(tmp_path: Path) -> None:
    path = tmp_path / "f.pth"
    torch.save({"model": {"w": torch.ones(2)}, "epoch": np.int64(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        path.write_bytes(content.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module))
        assert module in path.read_bytes()
        assert list(read_state_dict(path)) == ["w"]


def test_no_code_of_numpy_runs(tmp_path: Path) -> None:
    torch.save({"epoch": np.int64(3), "a": np.zeros(2)}, tmp_path / "f.pth")
    content = tensor_files.read(tmp_path / "f.pth", expected="")
    assert {type(value) for value in content.values()} == {tensor_files.NumPyValue}
    with pytest.raises(CheckpointError, match="'epoch' is a NumPy value, expected a tensor"):
        read_state_dict(tmp_path / "f.pth")


class _Hostile:
    """An object whose unpickling would run code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_other_objects_are_refused_by_name_and_never_made(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "f.pth", tmp_path / "executed"
    for value, name in (
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (_Hostile(marker), "pathlib.Path.touch|getattr"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (np.random.default_rng(0), "numpy.random"),
    ):
        with pytest.raises(CheckpointError, match=rf"without executing code from it \(it holds ({name})") as raised:
            _read({"model": {"w": torch.ones(2)}, "x": value}, path, _use_new_zipfile_serialization=zipped)
        assert str(raised.value).endswith("expected what torch.save(model.state_dict(), FILE) writes")
    assert not marker.exists()


def test_safetensors_by_another_name_are_read(tmp_path: Path) -> None:
    save_file({"module.w": torch.ones(2)}, tmp_path / "f.pth")
    assert read_state_dict(tmp_path / "f.pth")["w"].tolist() == [1.0, 1.0]


def test_a_flipped_bit_is_found_by_the_checksum_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "f.pth"
    torch.save({"w": torch.ones(300)}, path)
    content = bytearray(path.read_bytes())
    at = bytes(content).index(torch.ones(300).numpy().tobytes())
    content[at + 500] ^= 1  # torch itself would read it
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"f\.pth: is damaged, its part f/data/0 is not what its checksum says"):
        read_state_dict(path)


def test_a_file_that_was_unpacked_and_packed_again_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "f.pth"
    torch.save({"w": torch.arange(300.0)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert torch.equal(read_state_dict(path)["w"], torch.arange(300.0))


def test_the_one_dictionary_of_tensors_is_found_and_of_several_none_is_guessed(tmp_path: Path) -> None:
    w = {"w": torch.ones(2)}
    assert list(_read({"net": w, "epoch": 3}, tmp_path / "a.pth")) == ["w"]
    assert list(_read({"model": {"state_dict": w}, "ema": w}, tmp_path / "b.pth")) == ["w"]
    with pytest.raises(
        CheckpointError, match=r"several dictionaries of tensors, 'net', 'ema'; save .* alone: torch\.save"
    ):
        _read({"net": w, "ema": w}, tmp_path / "c.pth")
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(CheckpointError):
        _read(endless, tmp_path / "d.pth")


def test_two_keys_that_become_one_name_are_refused(tmp_path: Path) -> None:
    for other in ("module.a", "_orig_mod.a", "module._orig_mod.module.a"):
        with pytest.raises(CheckpointError, match=f"'a' and '{other}' are one name, 'a'"):
            _read({"a": torch.ones(2), other: torch.zeros(2)}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match="'1' and '1' are one name"):
        _read({1: torch.ones(2), "1": torch.zeros(2)}, tmp_path / "f.pth")


def _sparse() -> Tensor:
    return torch.eye(2).to_sparse()


def _compressed() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a beta
        return torch.eye(2).to_sparse_csr()


def _quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop them; files have them
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (_sparse, r"sparse \(sparse_coo\)"),
    "compressed": (_compressed, r"sparse \(sparse_csr\)"),
    "quantised": (_quantised, r"quantised \(quint8\)"),
    "meta": (lambda: torch.empty(2, device="meta"), r"without values \(on the meta device\)"),
    "number": (lambda: torch.tensor(1.0), "a single number"),
    "int": (lambda: torch.ones(2, dtype=torch.int64), "of int64"),
    "bool": (lambda: torch.ones(2, dtype=torch.bool), "of bool"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "of complex64"),
    "float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "of float8_e4m3fn"),
}


@pytest.mark.parametrize("name", ODD)
def test_tensors_that_are_no_weights_are_refused_by_name_and_may_be_left_out(tmp_path: Path, name: str) -> None:
    make, what = ODD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": torch.ones(2), "the.odd": make(), "odd": make()}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=rf"f\.pth: the\.odd is {what}, odd is .*--drop NAME"):
        read_weights(tmp_path / "f.pth", ())
    tensors, remarks = read_weights(tmp_path / "f.pth", ("the", "odd"))
    assert (list(tensors), remarks) == (["w"], [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept_as_float32_and_it_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"a": torch.full((2,), 0.5, dtype=dtype), "b": torch.ones(2)}, tmp_path / "f.pth")
    tensors, remarks = read_weights(tmp_path / "f.pth", ())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert remarks == [f"1 tensors of {str(dtype).removeprefix('torch.')} are kept as float32"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_by_tensor(tmp_path: Path, value: float) -> None:
    tensors = {f"w{i}": torch.ones(3) for i in range(10)}
    tensors["w3"][1] = value
    torch.save(tensors, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=r"f\.pth: 1 of 10 tensors hold NaN or infinite values: w3 \(1 of 3 "):
        read_weights(tmp_path / "f.pth", ())
    assert len(read_weights(tmp_path / "f.pth", ("w3",))[0]) == 9
    for tensor in tensors.values():
        tensor[0] = value
    torch.save(tensors, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=r"10 of 10 tensors .* and 4 more"):
        read_weights(tmp_path / "f.pth", ())


def test_a_number_too_large_for_float32_is_not_finite(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match="NaN or infinite values: w"):
        read_weights(tmp_path / "f.pth", ())


def test_a_drop_of_nothing_is_an_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=r"--drop wieght: the file has no such tensor; did you mean weight\?"):
        read_weights(tmp_path / "f.pth", ("wieght",))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_weights(tmp_path / "f.pth", ("*",))


@pytest.mark.parametrize("wrapped", [[], ["optimizer"], ["optimizer_state_dict", "checkpoint"]])
@pytest.mark.parametrize("trained", [True, False])
def test_a_file_of_an_optimizer_alone_is_called_that(tmp_path: Path, wrapped: list[str], trained: bool) -> None:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(network.parameters())
    if trained:
        torch.autograd.backward(network(torch.ones(1, 2)).sum())
        optimizer.step()
    content = optimizer.state_dict()
    for name in wrapped:
        content = {"epoch": 3, name: content}
    with pytest.raises(CheckpointError, match=r"f\.pth: holds no weights, only an optimizer's state; expected what"):
        _read(content, tmp_path / "f.pth")


@pytest.mark.parametrize(
    ("value", "said"), [(3, "an int"), (0.5, "a float"), (None, "a NoneType"), ("a", "a str"), ([1], "a list")]
)
def test_what_stands_in_a_tensors_place_is_named(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=f"'epoch' is {said}, expected a tensor; .* --drop epoch"):
        _read({"w": torch.ones(2), "epoch": value}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=f"holds {said}, expected a state_dict"):
        _read(value, tmp_path / "f.pth")


def test_a_state_is_read_from_its_bytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"step": 3}, stream)
    assert tensor_files.read_state(stream.getvalue(), tmp_path / "s.pt") == {"step": 3}
    with pytest.raises(CheckpointError, match=r"s\.pt: "):
        tensor_files.read_state(pickle.dumps(print), tmp_path / "s.pt")
