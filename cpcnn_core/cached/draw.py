"""Drawing a pixel from the head's output, as recorded calls."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cpcnn_core.cached.ops import Ops, pick
from cpcnn_core.cached.parts import Memory, Stem
from cpcnn_core.likelihood import MAX_LOG_SCALE, MIN_LOG_SCALE

MID_GREY = 127.5  # the 8-bit value of 0.0, and the number of 8-bit steps in 1.0


class Draw:
    """`likelihood.sample` for one column after the other, without allocating; means and scales in 8-bit steps."""

    def __init__(self, net: Memory, params: Tensor, stem: Stem) -> None:
        channels, _, width = net.model.image_shape
        K, B = net.model.config.nr_logistic_mix, net.batch
        self.stem, self.source = stem, params
        self.params = params if params.dtype == torch.float32 else params.float()
        numbers = 2 if channels == 1 else 3
        self.logits = self.params[:K]
        self.per_component = self.params[K:].view(channels, numbers, K, B)
        self.gumbel = self.params.new_zeros(width, K, B)
        self.logistic = self.params.new_zeros(width, channels, B)
        self.levels = self.params.new_zeros(width, channels, B)
        self.score = self.params.new_zeros(K, B)
        self.component = torch.zeros(1, B, dtype=torch.int64, device=params.device)
        self.chosen = self.params.new_zeros(channels, numbers, 1, B)
        self.centred = self.params.new_zeros(channels, B)
        self.one, self.mid_grey, self.step = (self.params.new_full((), value) for value in (1, MID_GREY, 1 / MID_GREY))

    def record(self, ops: Ops, column: int) -> None:
        if self.params is not self.source:
            ops.append(partial(self.params.copy_, self.source))
        component = self.component.expand(*self.chosen.shape[:2], -1, -1)
        mean, scale, *coefficients = self.chosen[:, :, 0].unbind(1)
        levels, x = self.levels[column], self.centred
        ops += [
            partial(torch.add, self.logits, self.gumbel[column], out=self.score),
            partial(torch.argmax, self.score, 0, keepdim=True, out=self.component),
            partial(torch.gather, self.per_component, 2, component, out=self.chosen),
            partial(scale.clamp_, MIN_LOG_SCALE, MAX_LOG_SCALE),
            scale.exp_,
            partial(scale.mul_, self.logistic[column]),
            partial(mean.add_, self.one),
            partial(torch.add, mean, scale, out=levels),
            partial(levels.mul_, self.mid_grey),
        ]
        if coefficients:
            (c,) = coefficients
            ops.append(c.tanh_)
            before = [(), ((0, 0),), ((1, 0), (2, 1))]
        else:
            before = [()]
        for channel, coupled in enumerate(before):
            value = levels[channel]
            ops += [partial(value.addcmul_, c[i], x[earlier]) for i, earlier in coupled]
            ops += [
                value.round_,
                partial(value.clamp_, 0, 255),
                partial(torch.sub, value, self.mid_grey, out=x[channel]),
            ]
        place, scale_in = self.stem.place(column), pick(self.stem.input, column)
        ops.append(partial(torch.mul, x, self.step, out=place))
        if scale_in is not None:
            ops.append(partial(place.mul_, scale_in))
