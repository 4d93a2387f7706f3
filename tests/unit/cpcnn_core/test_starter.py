"""Checkpoints of the starter code: the real one gives its published figures, and every variant makes the round trip."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cpcnn_core import data
from cpcnn_core.checkpoint import CheckpointError, save_weights
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.evaluate import evaluate, log_prior, scored
from cpcnn_core.renaming import parse
from cpcnn_core.starter import (
    Choices,
    Imported,
    Layout,
    export_starter,
    import_starter,
    read_state_dict,
    starter_state_dict,
)
from tests.contract.networks import NAMES, images, network
from tests.support.paths import SHARED

CHECKPOINT = SHARED / "checkpoints" / "starter_input_map_r1_f40_m5.pth"
real = pytest.mark.skipif(
    not CHECKPOINT.exists(), reason=f"needs the real checkpoint and data set, which are not ours to ship: {SHARED}"
)


WHOLE = "CPCNN_WHOLE" in os.environ  # each image is a network of a real size four times: a minute and more of all


def course(**settings: object) -> TrialConfig:
    root = str(SHARED / "data" / "cpen455")
    return TrialConfig.from_flat({"data.name": "cpen455", "data.root": root, "model.fusion": "input_map"} | settings)


@real
@pytest.mark.parametrize(
    ("quantize", "images", "correct", "bpd"),
    [
        (False, 519, 363, 5.1611),
        (True, 100, 66, 5.1420),
        pytest.param(True, 519, 364, 5.1611, marks=pytest.mark.skipif(not WHOLE, reason="CPCNN_WHOLE asks for it")),
    ],
)
@pytest.mark.unmeasured
def test_the_real_checkpoint_gives_its_published_figures(quantize: bool, images: int, correct: int, bpd: float) -> None:
    config = course(**{"data.quantize": quantize})
    dataset = data.load(config.data)
    found = import_starter(CHECKPOINT, config, image_shape=dataset.image_shape, nr_classes=4)
    sizes = found.config.model
    assert (sizes.nr_resnet, sizes.nr_filters, sizes.nr_logistic_mix) == (1, 40, 5)
    prior = log_prior("uniform", dataset.train.labels, 4)
    result = evaluate(found.model, scored(dataset.validation, images), prior, batch_size=128)
    assert round(result.accuracy * images) == correct
    assert result.bpd == pytest.approx(bpd, abs=1e-3)
    if not quantize:
        assert result.names[0] == "validation/0000009.jpg"
        nll = (-result.log_likelihood[0]).tolist()
        assert nll == pytest.approx([10224.44, 9915.38, 10063.05, 10379.28], abs=0.1)


@real
def test_the_real_checkpoint_round_trips_byte_for_byte(tmp_path: Path) -> None:
    found = import_starter(CHECKPOINT, course(), image_shape=(3, 32, 32), nr_classes=4)
    export_starter(tmp_path / "again.pth", found.model)
    _assert_equal(read_state_dict(CHECKPOINT), read_state_dict(tmp_path / "again.pth"))


def choices(*renames: str, drop: tuple[str, ...] = (), first_classes: bool = False) -> Choices:
    return Choices(tuple(map(parse, renames)), drop, first_classes)


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
    _assert_equal(starter_state_dict(model), exported(found))
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
    found = import_starter(
        tmp_path / "own.pth",
        config_of("block_mild"),
        image_shape=(3, 8, 8),
        nr_classes=3,
        choices=choices("class_bias=fusion.block_mild.e"),
    )
    _assert_equal(own, starter_state_dict(found.model, found.layout))


@pytest.mark.parametrize("name", ["label_emb.weight", "embedding.weight", "class_table"])
@pytest.mark.parametrize("encoding", ["one_hot", "embedding"])
def test_label_tables_round_trip_as_the_file_holds_them(tmp_path: Path, name: str, encoding: str) -> None:
    settings: dict[str, Any] = {} if encoding == "one_hot" else {"label_encoding": "embedding", "label_dim": 3}
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
        choices=choices(f"{name}={ours}"),
    )
    _assert_equal(model.state_dict(), found.model.state_dict())
    again = Layout.of_notes(json.loads(json.dumps(found.layout.as_notes())), tmp_path)
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
            tmp_path / "model.pth", config_of("none"), image_shape=(3, 8, 8), nr_classes=3, choices=choices("emb=x")
        )


def imported(tensors: dict[str, Tensor], tmp_path: Path, fusion: str, given: Choices, **settings: object) -> Imported:
    """The import of a file with these tensors, which an export gives back as they were."""
    torch.save(tensors, tmp_path / "own.pth")
    config = config_of(fusion).with_settings({f"model.{name}": value for name, value in settings.items()})
    return import_starter(tmp_path / "own.pth", config, image_shape=(3, 8, 8), nr_classes=3, choices=given)


def exported(found: Imported) -> dict[str, Tensor]:
    """What an export gives back, once the notes have been through the weights file."""
    notes = json.loads(json.dumps(found.layout.as_notes()))
    return starter_state_dict(found.model, Layout.of_notes(notes, "weights"))


SKIPS = "fusion.skip_add.e.weight"
BOTTLENECK_U, BOTTLENECK_UL = (f"fusion.bottleneck_add.e.bottleneck_{stream}.weight" for stream in ("u", "ul"))


def of_one_table(rows: int = 3) -> dict[str, Tensor]:
    """A submission that adds one embedding to every skip and to both streams at the bottleneck."""
    own = {name: t for name, t in starter_state_dict(network("none")).items() if not name.startswith("fusion")}
    return own | {"label_emb.weight": torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    "rules",
    [
        [f"label_emb.weight={SKIPS}", f"label_emb.weight={BOTTLENECK_U}", f"label_emb.weight={BOTTLENECK_UL}"],
        [f"label_emb.weight={SKIPS}", "label_emb.weight=fusion.bottleneck_add.e.*.weight"],
        ["label_emb.weight=fusion.*.weight"],
    ],
    ids=["each", "star", "all"],
)
def test_one_tensor_of_the_file_for_several_of_ours(tmp_path: Path, rules: list[str]) -> None:
    own = of_one_table()
    found = imported(own, tmp_path, "skip_add+bottleneck_add", choices(*rules))
    state = found.model.state_dict()
    for name in (SKIPS, BOTTLENECK_U, BOTTLENECK_UL):
        assert torch.equal(state[name], own["label_emb.weight"].T)
    _assert_equal(own, exported(found))


def test_one_tensor_for_several_that_are_not_equal_any_more_is_said(tmp_path: Path) -> None:
    found = imported(of_one_table(), tmp_path, "skip_add+bottleneck_add", choices("label_emb.weight=fusion.*.weight"))
    with torch.no_grad():
        found.model.get_parameter(BOTTLENECK_U)[0, 0] += 1
    with pytest.raises(
        CheckpointError, match=rf"label_emb\.weight, one tensor .* stands for {SKIPS} and {BOTTLENECK_U}, which"
    ):
        exported(found)


def test_patterns_and_tensors_that_are_joined(tmp_path: Path) -> None:
    """FiLM as a submission has it: one linear layer for gamma, one for beta, a list of blocks per stream."""
    model = network("block_film", nr_resnet=2)
    own: dict[str, Tensor] = {}
    for name, tensor in starter_state_dict(model).items():
        part = re.fullmatch(r"fusion\.block_film\.mlp\.(up|down)_(\d)_(ul?)_(\d)_hidden\.([02])\.(weight|bias)", name)
        if part is None:
            own[name] = tensor
        elif part[5] == "0":
            own[f"film.{part[3]}.{part[1]}.{part[2]}.{part[4]}.first.{part[6]}"] = tensor
        else:
            gamma, beta = tensor.chunk(2)
            own[f"film.{part[3]}.{part[1]}.{part[2]}.{part[4]}.to_gamma.{part[6]}"] = gamma
            own[f"film.{part[3]}.{part[1]}.{part[2]}.{part[4]}.to_beta.{part[6]}"] = beta
    site = "fusion.block_film.mlp.{2}_{3}_{1}_{4}_hidden"
    rules = [
        f"film.*.*.*.*.first.*={site}.0.{{5}}",
        f"film.*.*.*.*.to_gamma.*+film.*.*.*.*.to_beta.*={site}.2.{{5}}",
    ]
    found = imported(own, tmp_path, "block_film", choices(*rules))
    _assert_equal(model.state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


@pytest.mark.parametrize("dim", [0, 1])
def test_embeddings_that_are_joined_along_whichever_axis_fits(tmp_path: Path, dim: int) -> None:
    model = network("block_mild")
    own = starter_state_dict(model)
    tables = [name for name in own if name.startswith("fusion.block_mild.e.")]
    for name in tables:
        value, gate = own.pop(name).T.chunk(2, dim=1) if dim == 1 else own.pop(name).chunk(2)
        site = name.removeprefix("fusion.block_mild.e.").removesuffix("_gate.weight")
        own |= {f"embed_{site}.weight": value.contiguous(), f"embed2_{site}.weight": gate.contiguous()}
    rules = choices("embed_*.weight+embed2_*.weight=fusion.block_mild.e.*_gate.weight")
    found = imported(own, tmp_path, "block_mild", rules)
    _assert_equal(model.state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


def test_tensors_that_fit_together_in_no_way_are_said_with_their_shapes(tmp_path: Path) -> None:
    own = starter_state_dict(network("stem_add"))
    del own["embedding.weight"]
    own |= {"a": torch.zeros(3, 2), "b": torch.zeros(2, 3)}
    with pytest.raises(
        CheckpointError, match=r"shape: fusion\.stem_add\.e\.weight \(the file's a\+b\) is \(3, 2\) and "
    ):
        imported(own, tmp_path, "stem_add", choices("a+b=fusion.stem_add.e.weight"))


def test_a_map_per_class_may_have_the_shape_of_the_image(tmp_path: Path) -> None:
    own = starter_state_dict(network("input_map"))
    own["maps"] = own.pop("embedding.weight").view(3, 3, 8, 8)
    found = imported(own, tmp_path, "input_map", choices("maps=fusion.input_map.e.input.weight"))
    _assert_equal(network("input_map").state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


def test_a_last_layer_that_is_a_convolution_comes_back_as_one(tmp_path: Path) -> None:
    own = starter_state_dict(network("none"))
    for part in ("weight_g", "weight_v"):
        tensor = own.pop(f"nin_out.lin_a.{part}")
        own[f"nin_out.conv.{part}"] = tensor.view(*tensor.shape, 1, 1)
    own["head.bias"] = own.pop("nin_out.lin_a.bias")
    found = imported(own, tmp_path, "none", choices("head=nin_out.conv"))
    _assert_equal(network("none").state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


def test_a_prefix_of_all_names_is_taken_off(tmp_path: Path) -> None:
    own = {f"net.{name}": tensor for name, tensor in starter_state_dict(network("stem_add")).items()}
    with pytest.raises(CheckpointError, match=r"--rename 'net\.\*=\*' takes off what all names begin with"):
        imported(own, tmp_path, "stem_add", choices())
    found = imported(own, tmp_path, "stem_add", choices("net.*=*"))
    _assert_equal(network("stem_add").state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


def test_tensors_are_left_out_by_name_prefix_and_pattern(tmp_path: Path) -> None:
    own = starter_state_dict(network("stem_add"))
    extra = {
        "position": torch.arange(4),
        "classifier.weight": torch.full((2,), float("nan")),
        "classifier.bias": torch.zeros(2),
        "up.0.steps": torch.tensor(3),
    }
    with pytest.raises(CheckpointError, match=r"position is of int64, up\.0\.steps is .*--drop NAME"):
        imported(own | extra, tmp_path, "stem_add", choices())
    found = imported(own | extra, tmp_path, "stem_add", choices(drop=("position", "classifier", "*.steps")))
    _assert_equal(own, exported(found))


@pytest.mark.parametrize("encoding", ["one_hot", "embedding"])
def test_a_table_of_more_classes_says_so_and_gives_its_first_ones(tmp_path: Path, encoding: str) -> None:
    settings: dict[str, Any] = {} if encoding == "one_hot" else {"label_encoding": "embedding", "label_dim": 5}
    own = starter_state_dict(network("stem_add", **settings))
    table = torch.cat([own["embedding.weight"], torch.randn(7, own["embedding.weight"].shape[1])])
    with pytest.raises(
        CheckpointError, match=r"classes: .*embedding\.weight\) has 10, the data has 3; --first-classes takes "
    ):
        imported(own | {"embedding.weight": table}, tmp_path, "stem_add", choices(), **settings)
    found = imported(own | {"embedding.weight": table}, tmp_path, "stem_add", choices(first_classes=True), **settings)
    assert len(found.remarks) == 1
    assert "of embedding.weight (10, " in found.remarks[0]
    _assert_equal(own, exported(found))
    fewer = own | {"embedding.weight": own["embedding.weight"][:2]}
    with pytest.raises(CheckpointError, match=r"has 2, the data has 3\n"):
        imported(fewer, tmp_path, "stem_add", choices(first_classes=True), **settings)


def test_every_table_of_a_file_is_cut(tmp_path: Path) -> None:
    model = network("block_mild+head_add")
    own = starter_state_dict(model)
    for name in own:
        if name.startswith("fusion."):
            linear = "up_0" in name  # some as linear layers, some as embeddings
            own[name] = torch.cat([own[name], torch.randn(len(own[name]), 1)], dim=1)
            own[name] = own[name] if linear else own[name].T.contiguous()
    found = imported(own, tmp_path, "block_mild+head_add", choices(first_classes=True))
    _assert_equal(model.state_dict(), found.model.state_dict())
    assert len(found.remarks) == sum(name.startswith("fusion.") for name in own)


def test_two_tensors_that_become_one_of_ours_are_named(tmp_path: Path) -> None:
    own = starter_state_dict(network("stem_add"))
    for extra, given in (
        ({"u_init.conv.parametrizations.weight.original0": own["u_init.conv.weight_g"]}, choices()),
        ({"other": own["embedding.weight"]}, choices("other=u_init.conv.weight_g")),
    ):
        with pytest.raises(
            CheckpointError, match=r"own\.pth: .* and .* both become u_init\.conv\.param.*; leave one out"
        ):
            imported(own | extra, tmp_path, "stem_add", given)


def test_a_star_that_fits_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"unused: fusion\.x\.\* \(the file's label_emb\.weight\), which fits nothing"
    ):
        imported(of_one_table(), tmp_path, "skip_add", choices("label_emb.weight=fusion.x.*"))


def test_our_own_weights_are_not_imported_without_their_configuration(tmp_path: Path) -> None:
    model = network("stem_add")
    path = tmp_path / "weights.safetensors"
    save_weights(
        path,
        model.state_dict(),
        config=config_of("stem_add"),
        image_shape=(3, 8, 8),
        nr_classes=3,
        epoch=1,
        metrics={},
    )
    with pytest.raises(CheckpointError, match=r"weights of this project .* conditional_pixelcnn\.pth .* can be "):
        import_starter(path, config_of("stem_add"), image_shape=(3, 8, 8), nr_classes=3)


def test_notes_of_earlier_releases_are_read() -> None:
    model = network("input_map+block_mild")
    table = "fusion.input_map.e.input.weight"
    notes = {"rename": {"bias": "fusion.block_mild.e", "emb.weight": table}, "transposed": [table]}
    found = starter_state_dict(model, Layout.of_notes(notes, "weights"))
    usual = starter_state_dict(model, Layout())
    assert torch.equal(found["emb.weight"], model.state_dict()[table].T)
    assert {name for name in found if name.startswith("bias.")} == {
        name.replace("fusion.block_mild.e", "bias") for name in usual if "block_mild" in name
    }
    assert Layout.of_notes({}, "weights") is None


@pytest.mark.parametrize(
    "notes",
    [
        {"rename": 3},
        {"rename": {"a": 1}, "transposed": []},
        {"stored": {"a": {"names": [], "shapes": [], "dim": 0, "transposed": False}}},
        {"stored": {"a": {"names": ["b"], "shapes": [[1]], "dim": -1, "transposed": False}}},
        {"stored": []},
    ],
)
def test_broken_notes_are_an_error_that_names_the_file(notes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"w\.safetensors: its header is broken \(notes\."):
        Layout.of_notes(notes, "w.safetensors")


@pytest.mark.parametrize(
    "at", [{"shapes": [[5, 5]]}, {"dim": 7}, {"shapes": [[4]], "transposed": True}, {"shapes": [[10**30, 4]]}]
)
def test_notes_of_another_network_are_an_error(at: dict[str, object]) -> None:
    name = "fusion.stem_add.e.weight"
    held = {"names": ["a"], "shapes": [[3, 4]], "dim": 0, "transposed": True} | at
    with pytest.raises(CheckpointError, match=f"{name}: cannot be stored as the notes of its import say"):
        starter_state_dict(network("stem_add"), Layout.of_notes({"stored": {name: held}}, "weights"))


@pytest.mark.parametrize("fusion", NAMES)
def test_files_whose_every_tensor_is_named_otherwise_round_trip(tmp_path: Path, fusion: str) -> None:
    model = network(fusion)
    starters = starter_state_dict(model)
    mine = [f"emb_{i}" if name == "embedding.weight" else f"mine_{i}" for i, name in enumerate(starters)]
    own = dict(zip(mine, starters.values(), strict=True))
    rules = [f"{old}={new}" for old, new in zip(mine, model.state_dict(), strict=True)]
    found = imported(own, tmp_path, fusion, choices(*rules))
    _assert_equal(model.state_dict(), found.model.state_dict())
    _assert_equal(own, exported(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u_init.conv.weight_v": torch.zeros(4)}, r"u_init's weights are \(4,\), expected those of a convolution"),
        ({"nin_out.lin_a.weight_v": torch.zeros(4)}, r"nin_out's weights are \(4,\)"),
        (
            {"nin_out.lin_a.weight_v": torch.zeros(4, 4)},
            "its shapes are of no network of ours: model.nr_logistic_mix: 0",
        ),
        ({"up_layers.0.u_stream.7.x": torch.zeros(1)}, "has block 7 of up_layers.0.u_stream, but no block 1"),
        ({"up_layers.0.u_stream.99999999.x": torch.zeros(1)}, "unused: up_u.0.99999999.x"),
        ({"nin_out.lin_a.bias": torch.zeros(0)}, r"shape: nin_out\.conv\.bias .* is \(0,\)"),
    ],
)
def test_shapes_of_no_network_are_one_error(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"own\.pth: (.|\n)*{message}"):
        imported(starter_state_dict(network("none")) | change, tmp_path, "none", choices())


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_to_leave_out_is_said(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--drop '{name}': is empty; expected a tensor's name"):
        choices(drop=(name,))


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
