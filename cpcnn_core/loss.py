"""What training minimises: bits per dimension, and for those who train for accuracy the posterior's cross-entropy."""

from __future__ import annotations

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

    def forward(
        self, images: Tensor, labels: Tensor, withheld: Tensor, weights: Tensor, masks: Masks | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums over a micro-batch: (loss to differentiate, loss, bpd), each a scalar.

        images (B, C, H, W), labels (B,) int64; `withheld` (B,) bool are trained without their label; `weights` (B,) are
        1, or 0 for the padding of a last batch. With `class_weight` every image is run under all Y classes, with the
        same dropout mask for each: what tells classes apart is then not the noise.
        """
        x = to_model(images)
        if self.class_weight == 0:
            bpd = self._bpd(x, labels.where(~withheld, NULL_LABEL), masks)
            loss = bpd
        else:
            Y, B = self.model.nr_classes, len(x)
            classes = torch.arange(Y, device=x.device).expand(B, Y).where(~withheld[:, None], NULL_LABEL)
            table = self._bpd(x, classes.flatten(), masks).view(B, Y)
            bpd = table.gather(1, labels[:, None])[:, 0]
            joint = log_joint(-self._nats(table), self.log_prior, temperature=self.class_temperature)
            posterior_loss = F.cross_entropy(joint, labels, reduction="none")
            loss = bpd + self.class_weight * posterior_loss * ~withheld
        total = (loss * weights).sum()
        return total, total.detach(), (bpd * weights).sum().detach()

    def _bpd(self, x: Tensor, labels: Tensor, masks: Masks | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            params = self.model(x, labels, masks)
        x = x.repeat_interleave(len(labels) // len(x), dim=0)
        nats = log_prob(x, params.float(), n_mix=self.model.config.nr_logistic_mix)  # the likelihood is always float32
        return bits_per_dim(nats, self.model.image_shape)

    def _nats(self, bpd: Tensor) -> Tensor:
        one = torch.ones((), device=bpd.device)
        return bpd / bits_per_dim(-one, self.model.image_shape)
