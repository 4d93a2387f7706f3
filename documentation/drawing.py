"""A drawing of the network for each fusion, as SVG: every site that the network has, and those that the fusion uses.

Sites and what happens at them are asked of a network that is built with the fusion, so that a drawing shows the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from cpcnn_core.config import ModelConfig
from cpcnn_core.fusion import Modulation, Site
from cpcnn_core.fusion.base import RESOLUTIONS
from cpcnn_core.model import ConditionalPixelCNN

_WIDTH, _HEIGHT = 440, 456
_UP, _DOWN, _STAGE_WIDTH = 16, 274, 150  # left edges of the passes
_TOP, _STAGE_STEP, _STAGE_HEIGHT = 112, 74, 60
_STREAMS = {"u": 18, "ul": 43}  # below a stage's upper edge
_BLOCK_WIDTH, _BLOCK_HEIGHT, _BLOCK_STEP = 58, 18, 63
_IN_BLOCK = {"block_skip": (7, -9), "hidden": (18, 0), "gate": (36, 0), "output": (54, 0)}
_LARGE = 388  # where the block is shown large
_IN_LARGE = {"block_skip": (64, _LARGE - 24), "hidden": (130, _LARGE), "gate": (258, _LARGE), "output": (392, _LARGE)}
_TIMES, _BESIDE, _SIGMA = "\N{MULTIPLICATION SIGN}", "\N{DOUBLE VERTICAL LINE}", "\N{GREEK SMALL LETTER SIGMA}"
_SIGNS = {"shift": "+", "scale": _TIMES, "extra": _BESIDE}
_LEGEND = {"shift": "+ adds", "scale": f"{_TIMES} scales and adds", "extra": f"{_BESIDE} channels beside"}

_STYLE = """
.paper{fill:#fff;stroke:#d0d7de}text{font:11px system-ui,sans-serif;fill:#1f2328}.small{font-size:10px;fill:#57606a}
.line{stroke:#8c959f;fill:none}.head{fill:#8c959f}.box{fill:#f6f8fa;stroke:#8c959f}.block{fill:#fff;stroke:#8c959f}
.block.on{fill:#fff1d6;stroke:#9a5b00}.site{fill:#fff;stroke:#8c959f}.site.on{fill:#b35900;stroke:#b35900}
.sign{fill:#fff;font-size:10px;font-weight:700}.name{fill:#8a4600;font-weight:600}
@media(prefers-color-scheme:dark){.paper{fill:#161b22;stroke:#30363d}text{fill:#e6edf3}.small{fill:#9da7b1}
.line,.box,.block,.site{stroke:#6e7681}.box{fill:#21262d}.block,.site{fill:#161b22}.block.on{fill:#3d2c10;stroke:#e3a04a}
.site.on{fill:#f0b060;stroke:#f0b060}.sign{fill:#161b22}.name{fill:#f0b060}}
""".strip().replace("\n", "")


@dataclass(frozen=True)
class Acting:
    """A fusion in a network with one block per stage: all sites, and what is done at those that it uses."""

    name: str
    sites: tuple[Site, ...]
    done: dict[str, str]  # shift, scale or extra, by the site's name

    @classmethod
    def of(cls, fusion: str) -> Acting:
        """What the network built with that fusion does."""
        model = ConditionalPixelCNN(ModelConfig(fusion=fusion, nr_filters=4), (3, 8, 8), 2)
        used = model.fusion(model.label.table())
        return cls(fusion, model.sites, {name: _what(modulation) for name, modulation in used.items()})

    def kinds(self) -> tuple[str, ...]:
        """The kinds of the sites that it uses, in the order of the forward pass."""
        return tuple(dict.fromkeys(site.kind for site in self.sites if site.name in self.done))

    def where(self) -> str:
        """In words: at how many sites it acts."""
        counted = {kind: sum(s.kind == kind and s.name in self.done for s in self.sites) for kind in self.kinds()}
        return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in counted.items())


def _what(modulation: Modulation) -> str:
    if modulation.extra is not None:
        return "extra"
    return "scale" if modulation.scale is not None else "shift"


def svg(fusion: str) -> str:
    """The drawing of a fusion."""
    acting = Acting.of(fusion)
    said = f"{fusion}: {acting.where()}" if acting.done else f"{fusion}: the label enters nowhere"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(said)}</title><style>{_STYLE}</style>",
        f'<rect class="paper" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="8"/>',
        *_frame(),
        *_blocks(acting),
        *_large_block(acting),
        *(_dot(*_place(site), acting.done.get(site.name)) for site in acting.sites),
        *_names(acting),
        *_legend(acting),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(*points: float) -> str:
    pairs = " ".join(f"{x:g},{y:g}" for x, y in zip(points[::2], points[1::2], strict=True))
    return f'<polyline class="line" points="{pairs}"/>'


def _arrow(x: float, y: float, *, down: bool) -> str:
    """An arrowhead with its point there."""
    back = y - 7 if down else y + 7
    return f'<polygon class="head" points="{x:g},{y:g} {x - 4:g},{back:g} {x + 4:g},{back:g}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3"/>'


def _stage_top(resolution: str) -> int:
    return _TOP + _STAGE_STEP * RESOLUTIONS.index(resolution)


def _frame() -> Iterator[str]:
    """All that is the same in every drawing: the two passes, what is before them and behind."""
    up, down = _UP + _STAGE_WIDTH / 2, _DOWN + _STAGE_WIDTH / 2
    bottom = _stage_top(RESOLUTIONS[-1])
    yield _line(up, 26, up, bottom)
    yield _line(down, 26, down, bottom)
    yield _line(up - 18, 92, up + 18, 92)  # the two streams begin
    yield _arrow(up, _TOP - 3, down=True)
    yield _arrow(down, 27, down=False)
    for x, end, box in ((up, "image", "first convolutions"), (down, "mixture per pixel", "ELU, 1x1 convolution")):
        yield _text(x, 20, end)
        yield _rect(x - 62, 54, 124, 20, "box")
        yield _text(x, 68, box)
    for resolution in RESOLUTIONS:
        top = _stage_top(resolution)
        for stream in _STREAMS.values():
            yield _line(_UP + _STAGE_WIDTH, top + stream, _DOWN, top + stream)
        for x in (_UP, _DOWN):
            yield _rect(x, top, _STAGE_WIDTH, _STAGE_HEIGHT, "box")
            yield from (_text(x + 11, top + y + 4, name, "small") for name, y in _STREAMS.items())
        yield _text(_WIDTH / 2, top + 4, f"{resolution} resolution", "small")
    yield _text(up, bottom + _STAGE_HEIGHT + 14, "up pass", "small")
    yield _text(down, bottom + _STAGE_HEIGHT + 14, "down pass", "small")


def _corner(site: Site) -> tuple[float, float]:
    """Where the block of a site begins: its left edge, and the middle of its height."""
    assert site.block is not None
    index = int(site.name.split(".")[3])
    x = (_UP if site.block.direction == "up" else _DOWN) + 22 + index * _BLOCK_STEP
    return x, _stage_top(site.block.resolution) + _STREAMS[site.block.stream]


def _blocks(acting: Acting) -> Iterator[str]:
    reached = {site.block for site in acting.sites if site.block is not None and site.name in acting.done}
    for site in acting.sites:
        if site.kind == "hidden":
            x, y = _corner(site)
            kind = "block on" if site.block in reached else "block"
            yield _rect(x, y - _BLOCK_HEIGHT / 2, _BLOCK_WIDTH, _BLOCK_HEIGHT, kind)


def _place(site: Site) -> tuple[float, float]:
    """Where a site is drawn."""
    stream = site.name.rpartition(".")[2]
    if site.block is not None:
        x, y = _corner(site)
        right, down = _IN_BLOCK[site.kind]
        return x + right, y + down
    if site.kind == "input":
        return _UP + _STAGE_WIDTH / 2, 40
    if site.kind == "stem":
        return _UP + _STAGE_WIDTH / 2 + (-18 if stream == "u" else 18), 92
    if site.kind == "head":
        return _DOWN + _STAGE_WIDTH / 2, 92
    if site.kind == "bottleneck":
        return _WIDTH / 2 - 32, _stage_top(RESOLUTIONS[-1]) + _STREAMS[stream]
    number = int(site.name.split(".")[1])  # skips: two of full and half resolution, one of the lowest
    level, right = divmod(number, 2)
    return _WIDTH / 2 + 14 + 20 * right, _stage_top(RESOLUTIONS[level]) + _STREAMS[stream]


def _dot(x: float, y: float, done: str | None) -> str:
    if done is None:
        return f'<circle class="site" cx="{x:g}" cy="{y:g}" r="2.5"/>'
    return f'<circle class="site on" cx="{x:g}" cy="{y:g}" r="6.5"/>' + _text(x, y + 3.5, _SIGNS[done], "sign")


def _large_block(acting: Acting) -> Iterator[str]:
    """One gated block with the names of its sites."""
    in_blocks: dict[str, str] = {
        site.kind: acting.done[site.name] for site in acting.sites if site.block and site.name in acting.done
    }
    yield _text(16, _LARGE - 30, "a block:", "small", "start")
    yield _line(20, _LARGE, 420, _LARGE)
    yield _line(64, _LARGE - 30, 64, _LARGE)
    for x, width, text in ((28, 82, "conv_input"), (150, 88, "drop, conv_out"), (280, 92, f"x + a * {_SIGMA}(b)")):
        yield _rect(x, _LARGE - 11, width, 22, "box")
        yield _text(x + width / 2, _LARGE + 4, text)
    for kind, (x, y) in _IN_LARGE.items():
        on = kind in in_blocks
        yield _dot(x, y, in_blocks.get(kind))
        where = (x + 12, y + 4, kind, "name" if on else "small", "start")
        yield _text(*where) if kind == "block_skip" else _text(x, y + 24, kind, "name" if on else "small")


def _names(acting: Acting) -> Iterator[str]:
    """The names of the sites outside blocks, beside the first of each kind."""
    low = _stage_top(RESOLUTIONS[-1])
    places = {
        "input": (_UP + _STAGE_WIDTH / 2 + 12, 44, "start"),
        "stem": (_UP + _STAGE_WIDTH / 2 + 32, 96, "start"),
        "skips": (_WIDTH / 2 + 24, _TOP + 34, "middle"),
        "bottleneck": (_WIDTH / 2 - 8, low + 34, "middle"),
        "head": (_DOWN + _STAGE_WIDTH / 2 + 12, 96, "start"),
    }
    for kind, (x, y, anchor) in places.items():
        yield _text(x, y, kind, "name" if kind in acting.kinds() else "small", anchor)


def _legend(acting: Acting) -> Iterator[str]:
    used = [text for what, text in _LEGEND.items() if what in acting.done.values()]
    text = f"at the marked places, the label: {', '.join(used)}" if used else "the label enters nowhere"
    yield _text(16, _HEIGHT - 14, text, "", "start")
