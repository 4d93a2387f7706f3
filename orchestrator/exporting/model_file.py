"""`model.py` of an exported folder: the network in one file that needs PyTorch and nothing of this project.

The network and its likelihood are `model_template.py`, word for word. What depends on the fusion, how parameters become
what the label does at each site, is recorded from the fusion's own code, operation by operation; so every fusion has
its file, those that users add included.
"""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from cpcnn_core import starter
from cpcnn_core.class_names import numbers
from cpcnn_core.layout import Layout, Stored
from cpcnn_core.model import ConditionalPixelCNN
from orchestrator.exporting import model_template

NAME = "model.py"

_FROM, _TO = "# --- what this network is: written when it was exported\n", "# --- the network\n"


def written(
    model: ConditionalPixelCNN,
    log_prior: Tensor,
    layout: Layout | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> str | None:
    """The file's text. None where the layout gives the network's tensors other names or shapes than the starter code's.

    `log_prior` (Y,) is what the predictions take for granted. Without `class_names` the classes are numbers.
    """
    stored = starter.stored_as(model, layout)
    usual = starter.stored_as(model)
    if any(stored[name] != usual[name] for name in stored if not _is_of_label(name)):
        return None  # an imported network of somebody's own code, who has a model.py
    tensors = starter.starter_state_dict(model, layout)
    head, rest = inspect.getsource(model_template).split(_FROM)
    _, network = rest.split(_TO)
    config = model.config
    made = [
        _FROM,
        f"NR_RESNET = {config.nr_resnet}",
        f"NR_FILTERS = {config.nr_filters}",
        f"NR_LOGISTIC_MIX = {config.nr_logistic_mix}",
        f"IMAGE_SHAPE = {tuple(model.image_shape)}",
        f"NR_CLASSES = {model.nr_classes}",
        f"CLASS_NAMES: list[str] = {list(class_names or numbers(model.nr_classes))!r}",
        f"LOG_PRIOR: list[float] = {log_prior.tolist()}",
        f"FUSION = {config.fusion!r}  # its options {config.fusion_options}",
        "SHAPES: dict[str, tuple[int, ...]] = {",
        # Names may come from a file: as literals, whatever is in them.
        *(f"    {name!r}: {tuple(tensor.shape)}," for name, tensor in tensors.items()),
        "}",
        "",
        "",
        *_conditioning(model, {name: each for name, each in stored.items() if _is_of_label(name)}, tensors),
        "",
        "",
        _TO,
    ]
    return head + "\n".join(made) + network


@torch.no_grad()
def difference(
    text: str, tensors: Mapping[str, Tensor], model: ConditionalPixelCNN, x: Tensor, labels: Tensor
) -> float:
    """How far the outputs of a file's text are from the network's on images x (B, C, H, W), relative to their size."""
    module = types.ModuleType("model")
    exec(compile(text, NAME, "exec"), module.__dict__)  # noqa: S102 - what was written a moment ago
    net = module.PixelCNN()
    net.load_state_dict(tensors)
    want = model(x, labels)
    return float(((net(x, labels) - want).abs() / (1 + want.abs())).max())


def _is_of_label(name: str) -> bool:
    return name.startswith(("label.", "fusion."))


class _Label(nn.Module):
    """What of the network depends on the label alone."""

    def __init__(self, model: ConditionalPixelCNN) -> None:
        super().__init__()
        self.label, self.fusion = model.label, model.fusion

    def forward(self, labels: Tensor) -> list[tuple[str, list[Tensor | None]]]:
        conditioning = self.fusion(self.label(labels))
        return [(site, [each.scale, each.shift, each.extra]) for site, each in conditioning.items()]


def _conditioning(model: ConditionalPixelCNN, stored: dict[str, Stored], tensors: dict[str, Tensor]) -> list[str]:
    """The lines of `conditioning`."""
    part = _Label(model).cpu()
    shapes = {name: tensor.shape for name, tensor in part.state_dict().items()}
    names = list(dict.fromkeys(theirs for each in stored.values() for theirs in each.names))
    labels = torch.tensor([*range(model.nr_classes), -1])

    def outputs(given: Sequence[Tensor]) -> list[tuple[str, list[Tensor | None]]]:
        p = dict(zip(names, given, strict=True))
        ours = {name: stored[name].as_ours([p[each] for each in stored[name].names], shapes[name]) for name in shapes}
        return functional_call(part, ours, (labels,))  # type: ignore[no-any-return]

    def flat(*given: Tensor) -> list[Tensor]:
        return [tensor for _, parts in outputs(given) for tensor in parts if tensor is not None]

    with torch.no_grad():
        given = [tensors[name].detach().cpu() for name in names]
        structure = [(site, [tensor is not None for tensor in parts]) for site, parts in outputs(given)]
        module = make_fx(flat)(*given)
    lines, results = _code(module, names)
    left = iter(results)
    returned = [
        f"        {site!r}: ({', '.join(next(left) if there else 'None' for there in parts)}),"
        for site, parts in structure
    ]
    head = [line.partition("  # noqa")[0] for line in inspect.getsource(model_template.conditioning).splitlines()[:2]]
    return [*head, *(f"    {line}" for line in lines), "    return {", *returned, "    }"]


def _code(module: fx.GraphModule, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """A recorded graph as lines of Python, and the names of its outputs; its inputs are `p[name]`."""
    lines = ["device = next(iter(p.values())).device"]
    results: list[str] = []
    inputs = iter(names)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            lines.append(f"{node.name} = p[{next(inputs)!r}]")
        elif node.op == "get_attr":
            value = getattr(module, str(node.target))
            lines.append(
                f"{node.name} = torch.tensor({value.tolist()}, dtype={value.dtype}).to(next(iter(p.values())).device)"
            )
        elif node.op == "output":
            results = [each.name for each in node.args[0]]
        elif node.target is operator.getitem:
            lines.append(f"{node.name} = {node.args[0].name}[{node.args[1]}]")
        else:
            arguments = [_argument(each) for each in node.args]
            arguments += [f"{key}={_argument(each)}" for key, each in node.kwargs.items() if key != "device"]
            lines.append(f"{node.name} = torch.ops.{node.target}({', '.join(arguments)})")
    return lines, results


def _argument(value: object) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_argument, value))}]"
    return repr(value)
