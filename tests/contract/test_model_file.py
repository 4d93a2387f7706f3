"""Every fusion has a `model.py` that needs torch alone and gives what the network gives."""

from __future__ import annotations

import importlib.metadata
import math
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cpcnn_core import classify, sampling, starter
from cpcnn_core.layout import Layout, Stored
from cpcnn_core.model import ConditionalPixelCNN
from orchestrator.exporting import model_file
from tests.contract.networks import COMPOSITIONS, NAMES, NR_CLASSES, images, network

PRIOR = torch.tensor([0.5, 0.3, 0.2]).log()
LABELS = torch.tensor([0, 1, 2, -1])


def module_of(model: ConditionalPixelCNN, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What `import model` gives in the folder of this network."""
    text = model_file.written(model, PRIOR)
    assert text is not None
    module = types.ModuleType("model")
    monkeypatch.setitem(sys.modules, "model", module)
    exec(compile(text, "model.py", "exec"), module.__dict__)
    return module


def loaded(model: ConditionalPixelCNN, monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, torch.nn.Module]:
    module = module_of(model, monkeypatch)
    net = module.PixelCNN(model.config.nr_resnet, model.config.nr_filters, model.config.nr_logistic_mix, 3)
    net.load_state_dict(starter.starter_state_dict(model))
    return module, net


@pytest.mark.parametrize("fusion", NAMES)
def test_outputs_are_the_networks(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(fusion)
    _, net = loaded(model, monkeypatch)
    assert_close(net(images(4), LABELS, sample=True), model(images(4), LABELS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoding", ["embedding", "sinusoidal"])
@pytest.mark.parametrize("fusion", [COMPOSITIONS[0], "input_map", "block_concat"])
def test_with_other_encodings_deeper_and_with_a_norm(
    fusion: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"fusion_options.block_concat.up_u": True} if fusion == "block_concat" else {}
    model = network(fusion, (3, 8, 12), nr_resnet=2, norm="channel", label_encoding=encoding, **options)
    _, net = loaded(model, monkeypatch)
    assert_close(net(images(4, (3, 8, 12)), LABELS), model(images(4, (3, 8, 12)), LABELS), rtol=1e-5, atol=1e-5)


def test_likelihoods_and_predictions_are_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("block_film+stem_add")
    module, net = loaded(model, monkeypatch)
    x = images(8)
    with torch.no_grad():
        table = classify.class_log_likelihoods(model, x, batch_size=64)
        ours = torch.stack([module.log_prob(x, net(x, torch.full((8,), y))) for y in range(NR_CLASSES)], dim=1)
    assert_close(ours, table.float(), rtol=1e-5, atol=1e-2)
    assert torch.equal(module.get_label(net, x, "cpu"), (table + PRIOR).argmax(dim=1))


def test_drawn_pixels_are_those_of_the_reference_for_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("block_film", (3, 4, 4))
    module, net = loaded(model, monkeypatch)
    noise = sampling.draw_noise(model, len(LABELS), torch.Generator().manual_seed(0))
    asked: list[Tensor] = []

    def rand(*_: object, **__: object) -> Tensor:
        row, column = divmod(len(asked), 4)
        asked.append(noise[row, column])
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module.torch, "rand", rand)
        drawn = module.sample(net, LABELS)
    want = sampling.sample_reference(model, LABELS, noise)
    assert ((drawn + 1) * 127.5).round().sub(want).abs().max() <= 1
    assert module.sample(net, LABELS, torch.Generator().manual_seed(1)).shape == (4, 3, 4, 4)


def test_gradients_reach_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    _, net = loaded(network("block_film+input_map"), monkeypatch)
    net(images(3), torch.arange(3)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(network("none"), monkeypatch)
    with pytest.raises(ValueError, match=re.escape("(2, 4, 2, 3); this network has (1, 4, 2, 3)")):
        module.PixelCNN(2, 4, 2, 3)


def test_a_network_stored_under_names_of_its_own_has_none() -> None:
    model = network("none")
    shape = tuple(model.state_dict()["u_init.conv.bias"].shape)
    layout = Layout(stored={"u_init.conv.bias": Stored(("first.bias",), (shape,))})
    assert model_file.written(model, PRIOR, layout) is None


def test_a_name_out_of_a_file_is_a_name_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of a weights file says how an imported table was called, and anybody can write one."""
    marker = tmp_path / "executed"
    name = f'x": (), **(open({str(marker)!r}, "w").close() or {{}}), "y\'\\'
    model = network("stem_add", label_encoding="embedding")
    layout = Layout(stored={"label.weight": Stored((name,), ((NR_CLASSES, 32),))})
    text = model_file.written(model, PRIOR, layout)
    assert text is not None
    module = types.ModuleType("model")
    monkeypatch.setitem(sys.modules, "model", module)
    exec(compile(text, "model.py", "exec"), module.__dict__)
    assert not marker.exists()
    assert name in module.SHAPES


def test_it_runs_where_there_is_torch_and_nothing_else(tmp_path: Path) -> None:
    model = network("block_film+input_concat", label_encoding="embedding")
    text = model_file.written(model, PRIOR)
    assert text is not None
    (tmp_path / "model.py").write_text(text)
    starter.export_starter(tmp_path / "conditional_pixelcnn.pth", model)
    x = images(5)
    torch.save(x, tmp_path / "x.pt")
    program = f"""
import importlib.abc, sys

class OnlyTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {sorted(_other_packages())!r}:
            raise ModuleNotFoundError(f"no module named {{name}}", name=name)

sys.meta_path.insert(0, OnlyTorch())
sys.path.insert(0, {str(tmp_path)!r})
import torch
from model import get_label, load, sample
net = load({str(tmp_path / "conditional_pixelcnn.pth")!r})
print(get_label(net, torch.load({str(tmp_path / "x.pt")!r}), "cpu").tolist())
print(tuple(sample(net, torch.tensor([0])).shape))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = (classify.class_log_likelihoods(model, x, batch_size=64) + PRIOR).argmax(dim=1).tolist()
    assert done.stdout.splitlines() == [str(expected), "(1, 3, 8, 8)"]


def _other_packages() -> set[str]:
    """The modules of every installed distribution that torch does not need, and this project's."""
    needed, left = set(), ["torch"]
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        for requirement in importlib.metadata.requires(name) or []:
            if "extra ==" not in requirement:
                found = re.match(r"[\w.-]+", requirement)
                assert found is not None
                if _is_installed(found[0]):
                    left.append(found[0])
    named = {re.sub(r"[-_.]+", "-", name).lower() for name in needed}
    others = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in named for owner in owners)
    }
    assert "pydantic" in others
    return others | {"cpcnn_core", "orchestrator", "search_spaces"}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_log_prior_is_the_one_that_the_predictions_take_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(network("none"), monkeypatch)
    assert math.exp(module.LOG_PRIOR[0]) == pytest.approx(0.5)
