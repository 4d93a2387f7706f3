"""The cached network: one row of every image at a time, and in a row one pixel after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from cpcnn_core.cached.draw import Draw
from cpcnn_core.cached.ops import ALL, Ops, run
from cpcnn_core.cached.parts import Head, Memory, Stem
from cpcnn_core.cached.streams import Stream
from cpcnn_core.graphs import Capture, captured
from cpcnn_core.model import NR_LEVELS, ConditionalPixelCNN


def due(index: int) -> int:
    """How many resolutions have a row (column) that starts at row (column) `index` of the image: 3, 1, 2, 1, 3, ..."""
    return 1 if index % 2 else 2 if index % 4 else NR_LEVELS


class CachedNetwork:
    """A model and a batch of labels, ready to be asked for one pixel's mixture after the other, in raster order.

    All methods must run under `torch.inference_mode`, the constructor too.
    """

    def __init__(self, model: ConditionalPixelCNN, labels: Tensor, capture: Capture | None = None) -> None:
        self.model = model
        self.channels, self.height, self.width = model.image_shape
        self._memory = net = Memory(model, labels)
        self._capture = capture
        self._stem = Stem(net)
        self._u = Stream(net, "u", None)
        self._ul = Stream(net, "ul", self._u)
        self._stem.connect(self._u.up[0][0].raw, self._ul.up[0][0].raw)
        self._head = Head(net, self._ul.down[0][-1].raw)
        self._draw = Draw(net, self._head.params, self._stem)
        self._begin = {levels: self._record_begin(levels) for levels in range(1, NR_LEVELS + 1)}
        self._pixels: dict[tuple[int, int], Ops] = {}
        self._given: dict[int, Ops] = {}
        self._rows: dict[int, Ops] = {}
        self._graphs: dict[int, Callable[[], object]] = {}

    def restart(self) -> None:
        """Forget the images: the next row is the first."""
        for memory in self._memory.allocated:
            memory.zero_()

    def draw_row(self, row: int, gumbel: Tensor, logistic: Tensor) -> Tensor:
        """Draw row `row` of every image -> (W, C, B) float, 0 to 255, valid until the next call.

        `gumbel` (W, K, B) and `logistic` (W, C, B) are the noise, times the temperature.
        """
        self._load(row)
        self._draw.gumbel.copy_(gumbel)
        self._draw.logistic.copy_(logistic)
        self._run_row(due(row))
        return self._draw.levels

    def give_row(self, row: int, pixels: Tensor) -> None:
        """Take row `row` of every image, (W, C, B) in [-1, 1], as given: a row's work at once instead of a pixel's."""
        self._load(row)
        levels = due(row)
        run(self._begin[levels])
        self._stem.put(pixels)
        if levels not in self._given:
            ops: Ops = []
            self._stem.record(ops, ALL)
            self._ul.record(ops, levels, ALL)
            self._given[levels] = ops
        run(self._given[levels])

    def replay(self, x: Tensor) -> Tensor:
        """The network's outputs (B, P, H, W) for images x (B, C, H, W) in [-1, 1], pixel by pixel: a check.

        What is returned for a pixel was computed before that pixel was looked at.
        """
        self.restart()
        x = x.permute(2, 3, 1, 0).to(self._head.params)
        outputs = self._head.params.new_empty(self.height, self.width, *self._head.params.shape)
        for row in range(self.height):
            self._load(row)
            levels = due(row)
            run(self._begin[levels])
            for column in range(self.width):
                run(self._pixel(min(levels, due(column)), column))
                outputs[row, column] = self._head.params
                self._stem.put(x[row, column], column)
        return outputs.permute(3, 2, 0, 1).contiguous()

    def _load(self, row: int) -> None:
        for level in range(due(row)):
            for made in self._memory.maps[level]:
                made.load(row >> level)

    def _record_begin(self, levels: int) -> Ops:
        """All of the u stream, and of the ul stream what does not need the row's own pixels."""
        ops: Ops = []
        self._stem.begin(ops)
        self._u.begin(ops, levels)
        self._u.record(ops, levels, ALL)
        self._ul.begin(ops, levels)
        return ops

    def _pixel(self, levels: int, column: int) -> Ops:
        if (levels, column) not in self._pixels:
            ops: Ops = []
            self._stem.record(ops, column)
            self._ul.record(ops, levels, column)
            self._head.record(ops, column)
            self._pixels[levels, column] = ops
        return self._pixels[levels, column]

    def _run_row(self, levels: int) -> None:
        """The work of a row. Where a graph is wanted, the calls run one by one the first time, as a capture demands."""
        if levels in self._graphs:
            self._graphs[levels]()
        elif levels in self._rows and self._capture is not None:
            work = partial(run, self._rows[levels])
            self._graphs[levels] = captured(work, self._capture, what="a row of drawn images") or work
            self._graphs[levels]()
        else:
            if levels not in self._rows:
                ops = self._rows[levels] = list(self._begin[levels])
                for column in range(self.width):
                    ops += self._pixel(min(levels, due(column)), column)
                    self._draw.record(ops, column)
            run(self._rows[levels])
