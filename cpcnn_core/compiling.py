"""Compiling: each kind of gated block once, and the likelihood, where a whole network takes a minute and more.

A network is made of few kinds of blocks, by stream, resolution and skips, whichever its depth is. torch's compiler is
given a block as a function of its weights and activations, so that blocks of one kind share what it makes. It keeps
that on the disk too, for other processes of the same user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from cpcnn_core import likelihood
from cpcnn_core.layers import call_block
from cpcnn_core.loss import Loss
from cpcnn_core.memory import is_out_of_memory

logger = logging.getLogger(__name__)

MOST_KINDS = 256
"""Kinds of blocks that one process compiles; by default torch stops at 8, and says so in its log alone."""


class Regional(nn.Module):
    """A module around a `Loss`, of which the blocks and the likelihood are compiled when it is called.

    Where the compiler cannot do that (it needs a C compiler), they are called as they are from then on, and
    `unavailable` is the reason.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.unavailable: str | None = None
        (self._loss,) = (part for part in module.modules() if isinstance(part, Loss))
        self._block = torch.compile(call_block, dynamic=False)
        self._log_prob = torch.compile(likelihood.log_prob, dynamic=False)

    def forward(self, *args: Tensor | list[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the module gives."""
        out: tuple[Tensor, Tensor, Tensor]
        if self.unavailable is None:
            from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException  # seconds, for those who compile

            try:
                with self._compiled():
                    out = self.module(*args)
            except TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
                self.unavailable = f"{type(cause).__name__}: {cause}".partition("\n")[0]
                _warn(self.unavailable)
            else:
                return out
        out = self.module(*args)
        return out

    @contextmanager
    def _compiled(self) -> Generator[None]:
        """Within it the loss calls what is compiled; whoever else calls its network has it as it is."""
        loss, network = self._loss, self._loss.model
        loss.log_prob, network.call_block = self._log_prob, self._block
        _limit_workers()
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_KINDS):
                yield
        finally:
            loss.log_prob, network.call_block = likelihood.log_prob, call_block


@cache
def _warn(reason: str) -> None:
    """Once per process."""
    logger.warning("train.compile: the compiler does not work here, so that training is slower: %s", reason)


def _limit_workers() -> None:
    """Have the compiler use no more processes than torch has threads, which are the trial's share of the machine.

    Whoever sets torch's own variable for it is left to.
    """
    from torch._inductor import config  # what it imports takes a second

    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        config.compile_threads = torch.get_num_threads()
