"""What training minimises: bits per dimension, and for those who train for accuracy the posterior's cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core.classify import log_joint
from cpcnn_core.data import to_model
from cpcnn_core.labels import NULL_LABEL
from cpcnn_core.likelihood import bits_per_dim, log_prob
from cpcnn_core.model import ConditionalPixelCNN, Masks


class Loss(nn.Module):
    """bpd + class_weight * -log p(y | x), the network inside, so that one module is compiled and replicated."""

    log_prior: Tensor

    def __init__(
        self,
        model: ConditionalPixelCNN,
        log_prior: Tensor,
        *,
        class_weight: float = 0.0,
        class_temperature: float = 1.0,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("log_prior", log_prior.float(), persistent=False)
        self.class_weight = class_weight
        self.class_temperature = class_temperature
        self.bf16 = bf16
        self.log_prob: Callable[..., Tensor] = log_prob  # or, while it trains, what the compiler made of it

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        withheld: Tensor,
        weights: Tensor,
        masks: Masks | None,
        others: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums over a micro-batch: (loss to differentiate, loss, bpd), each a scalar.

        images (B, C, H, W), labels (B,) int64; `withheld` (B,) bool are trained without their label; `weights` (B,) are
        1, or 0 for the padding of a last batch. With `class_weight` every image is run under all Y classes, or under
        its own and `others` (B, m) from `drawn_others`, with the same dropout mask for each: what tells classes apart
        is then not the noise.
        """
        x = to_model(images)
        if self.class_weight == 0:
            bpd = self._bpd(x, labels.masked_fill(withheld, NULL_LABEL), masks)
            total = (bpd * weights).sum()
            return total, total.detach(), total.detach()
        bpd, posterior_loss = self._classified(x, labels, withheld, masks, others)
        loss = bpd + self.class_weight * posterior_loss * ~withheld
        total = (loss * weights).sum()
        return total, total.detach(), (bpd * weights).sum().detach()

    def _classified(
        self, x: Tensor, labels: Tensor, withheld: Tensor, masks: Masks | None, others: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Bpd under the true class and -log p(y | x) in nats, (B,) each.

        Of the sum over classes in p(x) = sum_c p(x | c) p(c) the true one's term is always there. That of m others out
        of Y - 1, drawn without preference, times (Y - 1) / m has all of theirs as its expectation.
        """
        Y, B = self.model.nr_classes, len(x)
        if others is None:
            seen, true = torch.arange(Y, device=x.device).expand(B, Y), labels
        else:
            seen, true = torch.cat([labels[:, None], others], dim=1), torch.zeros_like(labels)
        asked = seen.masked_fill(withheld[:, None], NULL_LABEL)
        table = self._bpd(x, asked.flatten(), masks).view(seen.shape)
        prior = self.log_prior[seen]
        if others is not None:
            prior = prior + F.pad(prior.new_full(others.shape, math.log((Y - 1) / others.shape[1])), (1, 0))
        joint = log_joint(-self._nats(table), prior, temperature=self.class_temperature)
        return table.gather(1, true[:, None])[:, 0], F.cross_entropy(joint, true, reduction="none")

    def _bpd(self, x: Tensor, labels: Tensor, masks: Masks | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            params = self.model(x, labels, masks)
        if len(labels) > len(x):
            x = x.repeat_interleave(len(labels) // len(x), dim=0)
        nats = self.log_prob(
            x, params.float(), n_mix=self.model.config.nr_logistic_mix
        )  # the likelihood is always float32
        return bits_per_dim(nats, self.model.image_shape)

    def _nats(self, bpd: Tensor) -> Tensor:
        one = torch.ones((), device=bpd.device)
        return bpd / bits_per_dim(-one, self.model.image_shape)


def drawn_others(labels: Tensor, nr_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """For each of the labels (B,) `count` different other classes, each set as likely as any: (B, count) int64."""
    draws = torch.rand((len(labels), nr_classes - 1), generator=generator, device=generator.device)
    others = draws.argsort(dim=1)[:, :count]
    return others + (others >= labels[:, None])
