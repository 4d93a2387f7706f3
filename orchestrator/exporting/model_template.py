"""A class-conditional PixelCNN++ (Salimans et al. 2017) that needs PyTorch and nothing else.

from model import PixelCNN, get_label, load, sample

model = load("conditional_pixelcnn.pth")
logits = model(x, labels)            # x (B, C, H, W) in [-1, 1], labels (B,): parameters of a mixture per pixel
predicted = get_label(model, x, "cpu")
images = sample(model, torch.tensor([0, 1, 2, 3]))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- what this network is: written when it was exported

NR_RESNET = 1
NR_FILTERS = 4
NR_LOGISTIC_MIX = 2
IMAGE_SHAPE = (3, 8, 8)
NR_CLASSES = 3
CLASS_NAMES: list[str] = ["0", "1", "2"]
LOG_PRIOR: list[float] = [0.0, 0.0, 0.0]
SHAPES: dict[str, tuple[int, ...]] = {}


def conditioning(p: dict[str, Tensor]) -> dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]]:  # noqa: ARG001
    """What the label does at each site, a row per class and a last one for a withheld label: scale, shift, channels."""
    return {}


# --- the network


class PixelCNN(nn.Module):
    """The network, whose parameters have the names and shapes of the file of weights."""

    def __init__(
        self,
        nr_resnet: int = NR_RESNET,
        nr_filters: int = NR_FILTERS,
        nr_logistic_mix: int = NR_LOGISTIC_MIX,
        input_channels: int = IMAGE_SHAPE[0],
    ) -> None:
        super().__init__()
        given = (nr_resnet, nr_filters, nr_logistic_mix, input_channels)
        own = (NR_RESNET, NR_FILTERS, NR_LOGISTIC_MIX, IMAGE_SHAPE[0])
        if given != own:
            raise ValueError(f"nr_resnet, nr_filters, nr_logistic_mix, input_channels: {given}; this network has {own}")
        for name, shape in SHAPES.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor, labels: Tensor, sample: bool = False) -> Tensor:
        """Mixture parameters (B, 10 K, H, W), or 3 K for one channel, of images x (B, C, H, W) and labels (B,).

        A label of -1 is withheld. `sample` changes nothing; it is there for code that gives it.
        """
        net = _Pass(dict(self.named_parameters()), labels)
        x = _beside(net.changed("input", x), net.channels("input"))
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # tells padding from black
        u = net.changed("stem.u", _down(net.conv("u_init.conv", x)))
        ul = net.changed("stem.ul", _down(net.conv("ul_init.0.conv", x)) + _right(net.conv("ul_init.1.conv", x)))
        us, uls = [u], [ul]
        for level in range(3):
            for i in range(NR_RESNET):
                u = net.block("up", level, "u", i, u, None)
                ul = net.block("up", level, "ul", i, ul, u)
                us.append(u)
                uls.append(ul)
            if level < 2:
                u = net.conv(f"downsize_u_stream.{level}.conv", u)
                ul = net.conv(f"downsize_ul_stream.{level}.conv", ul)
                us.append(u)
                uls.append(ul)

        u, ul = net.changed("bottleneck.u", us.pop()), net.changed("bottleneck.ul", uls.pop())
        us = [net.changed(f"skips.{i}.u", skip) for i, skip in enumerate(us)]
        uls = [net.changed(f"skips.{i}.ul", skip) for i, skip in enumerate(uls)]
        for stage in range(3):
            for i in range(NR_RESNET + (stage > 0)):
                taken = len(us) - 1
                u = net.block("down", stage, "u", i, u, us.pop(), taken)
                ul = net.block("down", stage, "ul", i, ul, torch.cat([u, uls.pop()], dim=1), taken)
            if stage < 2:
                u = net.upsize(f"upsize_u_stream.{stage}.deconv", u)
                ul = net.upsize(f"upsize_ul_stream.{stage}.deconv", ul)
        return net.nin("nin_out.lin_a", _beside(F.elu(net.changed("head", ul)), net.channels("head"), F.elu))


class _Pass:
    """One forward pass: the parameters by name, and what the labels of its images do at each site."""

    def __init__(self, p: dict[str, Tensor], labels: Tensor) -> None:
        self.p = p
        self.at = {
            site: [None if part is None else part[labels] for part in parts] for site, parts in conditioning(p).items()
        }

    def channels(self, site: str) -> Tensor | None:
        """The label's channels beside the activation at a site."""
        return self.at.get(site, [None, None, None])[2]

    def changed(self, site: str, h: Tensor) -> Tensor:
        """The activation at a site, scaled and shifted."""
        scale, shift, _ = self.at.get(site, [None, None, None])
        h = h if scale is None else h * scale
        return h if shift is None else h + shift

    def weight(self, name: str) -> Tensor:
        """Weight norm (Salimans & Kingma 2016): v g / |v|."""
        return torch._weight_norm(self.p[f"{name}.weight_v"], self.p[f"{name}.weight_g"], 0)

    def conv(self, name: str, h: Tensor) -> Tensor:
        """A convolution that sees rows above and, by its width, columns to both sides or to the left only."""
        weight = self.weight(name)
        height, width = weight.shape[2:]
        left, right = (width // 2, width // 2) if width % 2 else (width - 1, 0)
        stride = 2 if name.startswith("downsize") else 1
        return F.conv2d(F.pad(h, (left, right, height - 1, 0)), weight, self.p[f"{name}.bias"], stride)

    def upsize(self, name: str, h: Tensor) -> Tensor:
        """A transposed convolution of stride 2."""
        weight = self.weight(name)
        out = F.conv_transpose2d(h, weight, self.p[f"{name}.bias"], stride=2, output_padding=1)
        return out[:, :, :-1, 1:-1] if weight.shape[3] == 3 else out[:, :, :-1, :-1]

    def nin(self, name: str, h: Tensor) -> Tensor:
        """A 1x1 convolution."""
        return F.conv2d(h, self.weight(name)[:, :, None, None], self.p[f"{name}.bias"])

    def block(
        self, way: str, stage: int, stream: str, i: int, x: Tensor, skip: Tensor | None, taken: int = -1
    ) -> Tensor:
        """A gated residual block; on the way down `taken` is the number of the up pass's activation that it gets."""
        name, site = f"{way}_layers.{stage}.{stream}_stream.{i}", f"{way}.{stage}.{stream}.{i}"
        before = self.channels(f"{'stem' if way == 'up' else 'bottleneck'}.{stream}") if stage == i == 0 else None
        h = self.conv(f"{name}.conv_input.conv", _beside(concat_elu(x), before, concat_elu))
        if skip is not None:
            extra = _together(self.channels(f"skips.{taken}.{stream}"), self.channels(f"{site}.block_skip"))
            h = h + self.nin(f"{name}.nin_skip.lin_a", concat_elu(_beside(skip, extra)))
        if f"{name}.norm.weight" in self.p:
            scale, shift = self.p[f"{name}.norm.weight"], self.p[f"{name}.norm.bias"]
            h = F.layer_norm(h.movedim(1, -1), scale.shape, scale, shift, 1e-5).movedim(-1, 1)
        h = concat_elu(self.changed(f"{site}.hidden", h))
        h = _beside(h, self.channels(f"{site}.hidden"), concat_elu)
        value, gate = self.changed(f"{site}.gate", self.conv(f"{name}.conv_out.conv", h)).chunk(2, dim=1)
        return self.changed(f"{site}.output", x + value * torch.sigmoid(gate))


def concat_elu(x: Tensor) -> Tensor:
    """Elu of [x ; -x]: (B, C, H, W) -> (B, 2C, H, W)."""
    return F.elu(torch.cat([x, -x], dim=1))


def _beside(h: Tensor, extra: Tensor | None, act: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Activations and the label's channels beside them, which `act` goes over first."""
    if extra is None:
        return h
    extra = extra if act is None else act(extra)
    return torch.cat([h, extra.expand(-1, -1, *h.shape[2:])], dim=1)


def _together(*extras: Tensor | None) -> Tensor | None:
    there = [extra for extra in extras if extra is not None]
    if not there:
        return None
    height, width = (max(extra.shape[side] for extra in there) for side in (2, 3))
    return torch.cat([extra.expand(-1, -1, height, width) for extra in there], dim=1)


def _down(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1, :]


def _right(x: Tensor) -> Tensor:
    return F.pad(x, (1, 0, 0, 0))[:, :, :, :-1]


# --- the mixture of logistics: likelihood and sampling


def _mixture(params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Parameters (..., P) as logits (..., K), means, log scales and coefficients (..., C, K)."""
    K, channels = NR_LOGISTIC_MIX, IMAGE_SHAPE[0]
    rest = params[..., K:].unflatten(-1, (channels, (2 if channels == 1 else 3) * K))
    coefficients = torch.tanh(rest[..., 2 * K :]) if channels == 3 else None
    return params[..., :K], rest[..., :K], rest[..., K : 2 * K].clamp(-7.0, 60.0), coefficients


def _mean(channel: int, means: Tensor, coefficients: Tensor | None, x: Tensor) -> Tensor:
    """The mean (..., K) of a channel, given the channels before it of x (..., C)."""
    mean = means[..., channel, :]
    if coefficients is None or channel == 0:
        return mean
    if channel == 1:
        return mean + coefficients[..., 0, :] * x[..., 0, None]
    return mean + coefficients[..., 1, :] * x[..., 0, None] + coefficients[..., 2, :] * x[..., 1, None]


def log_prob(x: Tensor, params: Tensor) -> Tensor:
    """Log p(x), nats, (B,), of images x (B, C, H, W) in [-1, 1] from `PixelCNN.forward`'s output."""
    x = x.movedim(1, -1)
    logits, means, log_scales, coefficients = _mixture(params.movedim(1, -1))
    mean = torch.stack([_mean(channel, means, coefficients, x) for channel in range(IMAGE_SHAPE[0])], dim=-2)
    inverse, centred = torch.exp(-log_scales), x[..., None] - mean
    below = torch.where(x[..., None] > 0.999, 0.0, F.logsigmoid(inverse * (centred + 1 / 255)))
    above = torch.where(x[..., None] < -0.999, 0.0, F.logsigmoid(-inverse * (centred - 1 / 255)))
    inside = torch.log(-torch.expm1(-2 / 255 * inverse))
    mass = below + above + torch.where(x[..., None].abs() > 0.999, 0.0, inside)
    return torch.logsumexp(mass.sum(dim=-2) + F.log_softmax(logits, dim=-1), dim=-1).sum(dim=(1, 2))


@torch.no_grad()
def get_label(model: PixelCNN, x: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The likeliest class of each image of x (B, C, H, W) in [-1, 1]: (B,) int64."""
    x = x.to(device)
    of_classes = [
        log_prob(x, model(x, torch.full((len(x),), label, device=device))) + LOG_PRIOR[label]
        for label in range(NR_CLASSES)
    ]
    return torch.stack(of_classes, dim=1).argmax(dim=1)


@torch.no_grad()
def sample(model: PixelCNN, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw an image for each of labels (B,): (B, C, H, W) in [-1, 1], on the 8-bit grid, pixel by pixel."""
    channels, height, width = IMAGE_SHAPE
    x = torch.zeros(len(labels), *IMAGE_SHAPE, device=labels.device)
    for row, column in itertools.product(range(height), range(width)):
        params = model(x, labels)[:, :, row, column]
        logits, means, log_scales, coefficients = _mixture(params)
        u = torch.rand(len(labels), NR_LOGISTIC_MIX + channels, generator=generator, device=labels.device)
        u = u.clamp(1e-5, 1 - 1e-5)
        component = (logits - torch.log(-torch.log(u[:, :NR_LOGISTIC_MIX]))).argmax(dim=1, keepdim=True)
        logistic = torch.log(u[:, NR_LOGISTIC_MIX:]) - torch.log1p(-u[:, NR_LOGISTIC_MIX:])
        for channel in range(channels):
            mean = _mean(channel, means, coefficients, x[:, :, row, column]).gather(1, component)[:, 0]
            scale = torch.exp(log_scales[:, channel].gather(1, component)[:, 0])
            level = ((mean + scale * logistic[:, channel] + 1) * 127.5).round().clamp(0, 255)
            x[:, channel, row, column] = level / 127.5 - 1
    return x


def load(path: str, device: torch.device | str = "cpu") -> PixelCNN:
    """The network with the weights of conditional_pixelcnn.pth."""
    model = PixelCNN()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.to(device).eval()
