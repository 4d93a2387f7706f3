"""Checkpoints of the starter code: the real one gives its published figures, and every variant makes the round trip."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpcnn_core import data
from cpcnn_core.checkpoint import CheckpointError
from cpcnn_core.config import TrialConfig
from cpcnn_core.evaluate import evaluate, log_prior
from cpcnn_core.starter import Layout, export_starter, import_starter, read_state_dict, starter_state_dict
from tests.contract.networks import NAMES, images, network

SHARED = Path(__file__).parents[3] / "shared"
CHECKPOINT = SHARED / "checkpoints" / "starter_input_map_r1_f40_m5.pth"
real = pytest.mark.skipif(
    not CHECKPOINT.exists(), reason=f"needs the real checkpoint and data set, which are not ours to ship: {SHARED}"
)


def course(**settings: object) -> TrialConfig:
    root = str(SHARED / "data" / "cpen455")
    return TrialConfig.from_flat({"data.name": "cpen455", "data.root": root, "model.fusion": "input_map"} | settings)


@real
@pytest.mark.parametrize(("quantize", "correct"), [(False, 363), (True, 364)])
def test_the_real_checkpoint_gives_its_published_figures(quantize: bool, correct: int) -> None:
    config = course(**{"data.quantize": quantize})
    dataset = data.load(config.data)
    found = import_starter(CHECKPOINT, config, image_shape=dataset.image_shape, nr_classes=4)
    sizes = found.config.model
    assert (sizes.nr_resnet, sizes.nr_filters, sizes.nr_logistic_mix) == (1, 40, 5)
    prior = log_prior("uniform", dataset.train.labels, 4)
    result = evaluate(found.model, dataset.validation, prior, batch_size=128)
    assert round(result.accuracy * 519) == correct
    assert result.bpd == pytest.approx(5.1611, abs=1e-3)
    if not quantize:
        assert result.names[0] == "validation/0000009.jpg"
        nll = (-result.log_likelihood[0]).tolist()
        assert nll == pytest.approx([10224.44, 9915.38, 10063.05, 10379.28], abs=0.1)


@real
def test_the_real_checkpoint_round_trips_byte_for_byte(tmp_path: Path) -> None:
    found = import_starter(CHECKPOINT, course(), image_shape=(3, 32, 32), nr_classes=4)
    export_starter(tmp_path / "again.pth", found.model)
    _assert_equal(read_state_dict(CHECKPOINT), read_state_dict(tmp_path / "again.pth"))


def config_of(fusion: str) -> TrialConfig:
    return TrialConfig.from_flat({"model.fusion": fusion, "model.dropout": 0.0})


@pytest.mark.parametrize("fusion", NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)], ids=str)
def test_export_and_import_are_inverse(tmp_path: Path, fusion: str, shape: tuple[int, int, int]) -> None:
    model = network(fusion, shape, nr_resnet=2)
    export_starter(tmp_path / "model.pth", model)
    found = import_starter(tmp_path / "model.pth", config_of(fusion), image_shape=shape, nr_classes=3)
    _assert_equal(model.state_dict(), found.model.state_dict())
    _assert_equal(starter_state_dict(model), starter_state_dict(found.model))
    x = images(2, shape)
    assert torch.equal(model(x, torch.tensor([0, 1])), found.model(x, torch.tensor([0, 1])))


def test_exported_names_are_the_starter_codes() -> None:
    names = set(starter_state_dict(network("input_map")))
    for name in (
        "u_init.conv.weight_g",
        "ul_init.1.conv.weight_v",
        "up_layers.0.ul_stream.0.nin_skip.lin_a.weight_v",
        "down_layers.2.u_stream.1.conv_out.conv.bias",
        "downsize_u_stream.0.conv.weight_g",
        "upsize_ul_stream.1.deconv.weight_v",
        "nin_out.lin_a.bias",
        "embedding.weight",
    ):
        assert name in names
    assert not any("parametrizations" in name or name.startswith("fusion") for name in names)


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", "model"])
def test_prefixes_wrappers_and_the_new_weight_norm(tmp_path: Path, wrapper: str) -> None:
    model = network("input_map")
    new_style = {
        f"module.{name}".replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in starter_state_dict(model).items()
    }
    torch.save({wrapper: new_style, "epoch": 3}, tmp_path / "wrapped.pth")
    found = import_starter(tmp_path / "wrapped.pth", config_of("input_map"), image_shape=(3, 8, 8), nr_classes=3)
    _assert_equal(model.state_dict(), found.model.state_dict())


def test_renamed_parameters_come_back_under_the_files_names(tmp_path: Path) -> None:
    model = network("block_mild")
    own = {
        name.replace("fusion.block_mild.e.", "class_bias."): tensor
        for name, tensor in starter_state_dict(model).items()
    }
    torch.save(own, tmp_path / "own.pth")
    rename = {"class_bias": "fusion.block_mild.e"}
    found = import_starter(
        tmp_path / "own.pth", config_of("block_mild"), image_shape=(3, 8, 8), nr_classes=3, rename=rename
    )
    _assert_equal(own, starter_state_dict(found.model, found.layout))


@pytest.mark.parametrize("name", ["label_emb.weight", "embedding.weight", "class_table"])
@pytest.mark.parametrize("encoding", ["one_hot", "embedding"])
def test_label_tables_round_trip_as_the_file_holds_them(tmp_path: Path, name: str, encoding: str) -> None:
    settings = {} if encoding == "one_hot" else {"label_encoding": "embedding", "label_dim": 3}
    model = network("stem_add", **settings)
    ours = "fusion.stem_add.e.weight" if encoding == "one_hot" else "label.weight"
    own = starter_state_dict(model)
    own[name] = own.pop("embedding.weight")  # a row per class either way
    assert own[name].shape[0] == 3
    torch.save(own, tmp_path / "own.pth")
    found = import_starter(
        tmp_path / "own.pth",
        config_of("stem_add").with_settings({f"model.{key}": value for key, value in settings.items()}),
        image_shape=(3, 8, 8),
        nr_classes=3,
        rename={name: ours},
    )
    _assert_equal(model.state_dict(), found.model.state_dict())
    again = Layout.of_notes(found.layout.as_notes())
    _assert_equal(own, starter_state_dict(found.model, again))


def test_a_square_label_table_is_an_embedding_where_its_name_says_so(tmp_path: Path) -> None:
    model = network("stem_add", nr_filters=3)  # e maps 3 classes to 3 channels
    export_starter(tmp_path / "square.pth", model)
    config = config_of("stem_add")
    found = import_starter(tmp_path / "square.pth", config, image_shape=(3, 8, 8), nr_classes=3)
    _assert_equal(model.state_dict(), found.model.state_dict())


def test_a_file_without_blocks_is_no_network(tmp_path: Path) -> None:
    tensors = {k: v for k, v in starter_state_dict(network("none")).items() if "layers" not in k}
    torch.save(tensors, tmp_path / "stump.pth")
    with pytest.raises(CheckpointError, match="no gated blocks"):
        import_starter(tmp_path / "stump.pth", config_of("none"), image_shape=(3, 8, 8), nr_classes=3)


def test_unused_missing_and_misshapen_keys_are_listed_by_name(tmp_path: Path) -> None:
    tensors = starter_state_dict(network("input_map"))
    tensors["surprise"] = torch.zeros(2)
    del tensors["nin_out.lin_a.bias"]
    tensors["u_init.conv.bias"] = torch.zeros(9)
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        import_starter(tmp_path / "odd.pth", config_of("input_map"), image_shape=(3, 8, 8), nr_classes=3)
    message = str(caught.value)
    assert "unused: surprise (2,)" in message
    assert "missing: nin_out.conv.bias" in message
    assert "shape: u_init.conv.bias is (9,), expected (4,)" in message
    assert "--rename OLD=NEW" in message


def test_a_rename_of_nothing_is_an_error(tmp_path: Path) -> None:
    export_starter(tmp_path / "model.pth", network("none"))
    with pytest.raises(CheckpointError, match="--rename emb=x: the file has no 'emb'"):
        import_starter(
            tmp_path / "model.pth", config_of("none"), image_shape=(3, 8, 8), nr_classes=3, rename={"emb": "x"}
        )


class _Hostile:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/executed-by-a-checkpoint"),))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["hostile", "hostile_pickle", "text", "list", "no_network", "not_tensors"])
def test_what_is_no_checkpoint_is_refused_and_never_executed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.pth"
    marker = Path("/tmp/executed-by-a-checkpoint")
    if kind == "hostile":
        torch.save({"a": _Hostile()}, path)
    elif kind == "hostile_pickle":
        path.write_bytes(pickle.dumps(_Hostile()))
    elif kind == "text":
        path.write_text("hello")
    else:
        torch.save({"list": [1], "no_network": {"w": torch.zeros(1)}, "not_tensors": {"w": 1}}[kind], path)
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        import_starter(path, config_of("none"), image_shape=(3, 8, 8), nr_classes=3)
    assert not marker.exists()


def _assert_equal(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    assert set(expected) == set(found)
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype, name
        assert torch.equal(tensor, found[name]), name
