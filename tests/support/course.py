"""The course's own scripts, written down anew and plainly: data path, network, loss, grading. Nothing of the project.

What the course's scripts print of a handed-in `conditional_pixelcnn.pth` must be what the exported folder says. So this
file imports torch, PIL and numpy alone, and does things as those scripts do them: a tensor in [0, 1] resized with
antialiasing and never rounded, the old weight norm, the loss of the discretized mixture with its branches.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def load_split(root: Path, split: str, size: int) -> tuple[list[str], Tensor, Tensor]:
    """Names, images (N, 3, size, size) in [-1, 1] and labels (N,) of a split."""
    names, images, labels = [], [], []
    for name, label in csv.reader((root / f"{split}.csv").read_text().splitlines()):
        pixels = torch.from_numpy(np.array(Image.open(root / name).convert("RGB"))).permute(2, 0, 1).float() / 255
        resized = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        names.append(name)
        images.append((resized - 0.5) * 2)
        labels.append(int(label))
    return names, torch.stack(images), torch.tensor(labels)


class PlainNetwork:
    """PixelCNN++ with a table added to its input per class: a forward pass over a plain state_dict."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nr_resnet = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("up_layers.0.u_stream"))

    def weight(self, name: str) -> Tensor:
        """g v / |v|: the norm is over all but the first dimension."""
        g, v = self.weights[f"{name}.weight_g"], self.weights[f"{name}.weight_v"]
        weight: Tensor = g * v / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))
        return weight

    def conv(self, name: str, x: Tensor, padding: tuple[int, int, int, int], stride: int = 1) -> Tensor:
        return F.conv2d(F.pad(x, padding), self.weight(f"{name}.conv"), self.weights[f"{name}.conv.bias"], stride)

    def down(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        height, width = self.weights[f"{name}.conv.weight_v"].shape[2:]
        return self.conv(name, x, ((width - 1) // 2, (width - 1) // 2, height - 1, 0), stride)

    def down_right(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        height, width = self.weights[f"{name}.conv.weight_v"].shape[2:]
        return self.conv(name, x, (width - 1, 0, height - 1, 0), stride)

    def deconv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weight(f"{name}.deconv"), self.weights[f"{name}.deconv.bias"]
        out = F.conv_transpose2d(x, weight, bias, stride=2, output_padding=1)
        height, width = weight.shape[2:]
        out = out[:, :, : out.shape[2] - height + 1]
        return out[:, :, :, 1:-1] if width == 3 else out[:, :, :, : out.shape[3] - width + 1]

    def nin(self, name: str, x: Tensor) -> Tensor:
        out = x.permute(0, 2, 3, 1) @ self.weight(f"{name}.lin_a").T + self.weights[f"{name}.lin_a.bias"]
        return out.permute(0, 3, 1, 2)

    def block(self, name: str, x: Tensor, skip: Tensor | None = None) -> Tensor:
        conv = self.down if ".u_stream." in name else self.down_right
        h = conv(f"{name}.conv_input", concat_elu(x))
        if skip is not None:
            h = h + self.nin(f"{name}.nin_skip", concat_elu(skip))
        a, b = conv(f"{name}.conv_out", concat_elu(h)).chunk(2, dim=1)
        return x + a * torch.sigmoid(b)

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x + self.weights["embedding.weight"][labels].view_as(x)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        u = shift_down(self.down("u_init", x))
        ul = shift_down(self.down("ul_init.0", x)) + shift_right(self.down_right("ul_init.1", x))
        us, uls = [u], [ul]
        for level in range(3):
            for i in range(self.nr_resnet):
                u = self.block(f"up_layers.{level}.u_stream.{i}", us[-1])
                ul = self.block(f"up_layers.{level}.ul_stream.{i}", uls[-1], u)
                us.append(u)
                uls.append(ul)
            if level < 2:
                us.append(self.down(f"downsize_u_stream.{level}", us[-1], 2))
                uls.append(self.down_right(f"downsize_ul_stream.{level}", uls[-1], 2))
        u, ul = us.pop(), uls.pop()
        for level in range(3):
            for i in range(self.nr_resnet + (level > 0)):
                u = self.block(f"down_layers.{level}.u_stream.{i}", u, us.pop())
                ul = self.block(f"down_layers.{level}.ul_stream.{i}", ul, torch.cat([u, uls.pop()], dim=1))
            if level < 2:
                u, ul = self.deconv(f"upsize_u_stream.{level}", u), self.deconv(f"upsize_ul_stream.{level}", ul)
        return self.nin("nin_out", F.elu(ul))


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def shift_down(x: Tensor) -> Tensor:
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def shift_right(x: Tensor) -> Tensor:
    return F.pad(x[:, :, :, :-1], (1, 0, 0, 0))


def log_likelihood(x: Tensor, out: Tensor) -> Tensor:
    """Nats per image, as OpenAI's and the starter code's loss computes them."""
    x, out = x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)
    K = out.shape[-1] // 10
    logits, rest = out[..., :K], out[..., K:].reshape(*x.shape, 3 * K)
    means, log_scales = rest[..., :K], rest[..., K : 2 * K].clamp(min=-7)
    c = torch.tanh(rest[..., 2 * K :])
    x = x[..., None]
    of_g = means[..., 1, :] + c[..., 0, :] * x[..., 0, :]
    of_b = means[..., 2, :] + c[..., 1, :] * x[..., 0, :] + c[..., 2, :] * x[..., 1, :]
    centered = x - torch.stack([means[..., 0, :], of_g, of_b], dim=-2)
    inverse = torch.exp(-log_scales)
    plus, minus, middle = inverse * (centered + 1 / 255), inverse * (centered - 1 / 255), inverse * centered
    mass = torch.sigmoid(plus) - torch.sigmoid(minus)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    inside = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density)
    log_p = torch.where(x < -0.999, plus - F.softplus(plus), torch.where(x > 0.999, -F.softplus(minus), inside)).sum(
        dim=-2
    ) + torch.log_softmax(logits, dim=-1)
    return torch.logsumexp(log_p, dim=-1).sum(dim=(1, 2))


@torch.no_grad()
def logits(network: PlainNetwork, images: Tensor, nr_classes: int) -> Tensor:
    """log p(x | y) of each image under each class (N, Y)."""
    columns = []
    for label in range(nr_classes):
        parts = [log_likelihood(part, network(part, torch.full((len(part),), label))) for part in images.split(64)]
        columns.append(torch.cat(parts))
    return torch.stack(columns, dim=1)


def bpd(log_p: Tensor, labels: Tensor, images: Tensor) -> float:
    """Bits per sub-pixel under the true class."""
    return float(-log_p.gather(1, labels[:, None]).mean() / (images[0].numel() * math.log(2)))
