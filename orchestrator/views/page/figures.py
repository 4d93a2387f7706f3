"""Figures: one scale each, whole numbers where what is shown is whole, and points that lead to their trials."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.records.ranking import Entry
from orchestrator.views.page.blocks import Figure

Trace: TypeAlias = dict[str, object]
"""A trace in plotly's words. Its own classes check each of them, in seconds for a page; a test does that instead."""

HEIGHT = 380
_TICKS = 8  # about so many on an axis of whole numbers
_DECADE = 20.0  # a range by so large a factor is shown on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """What an axis shows, with its unit, and how."""

    title: str
    whole: bool = False
    logarithmic: bool = False
    categories: Sequence[str] | None = None
    span: tuple[float, float] | None = None

    def layout(self, values: Sequence[float]) -> dict[str, object]:
        """Plotly's words for it, where these values are shown."""
        made: dict[str, object] = {"title": {"text": label(self.title)}, "automargin": True}
        if self.categories is not None:
            return made | {"type": "category", "categoryorder": "array", "categoryarray": list(self.categories)}
        if self.logarithmic:
            return made | {"type": "log", "dtick": "D2" if _factor(values) < 1000 else 1}
        if self.whole and values:
            made |= {"tickformat": "d", "dtick": _step(max(values) - min(values)), "tick0": 0}
        if self.span is not None:
            made |= {"range": list(self.span)}
        return made


def _step(span: float) -> int:
    rough = max(1.0, span / _TICKS)
    power: float = 10.0 ** math.floor(math.log10(rough))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= rough - 1e-9))


def _factor(values: Sequence[float]) -> float:
    return max(values) / min(values) if values and min(values) > 0 else 1.0


def is_wide(values: Sequence[float]) -> bool:
    """Whether the values want a logarithmic axis."""
    return _factor(values) >= _DECADE


def points(
    x: Sequence[object],
    y: Sequence[object],
    entries: Sequence[Entry],
    name: str,
    *,
    color: str,
    symbol: str = "circle",
    texts: Sequence[str] = (),
    **more: object,
) -> Trace:
    """Points that name their trial, and lead to it when clicked."""
    named = [entry.trial_id + (f"<br>{label(texts[at])}" if texts else "") for at, entry in enumerate(entries)]
    return {
        "type": "scatter",
        "x": list(x),
        "y": list(y),
        "mode": more.pop("mode", "markers"),
        "name": label(name),
        "text": named,
        "customdata": [entry.trial_id for entry in entries],
        "marker": {"color": color, "symbol": symbol, "size": more.pop("size", 9), "line": {"width": 0}},
        "line": {"color": color, "dash": more.pop("dash", "solid"), "width": 2},
        "hovertemplate": "%{text}<br>(%{x}, %{y})<extra></extra>",
        **more,
    }


def figure(
    id: str,  # noqa: A002 - HTML's name for it
    title: str,
    traces: Sequence[Trace],
    x: Axis,
    y: Axis,
    *,
    caption: str,
    alternative: str,
    height: int = HEIGHT,
) -> Figure:
    """A figure of these traces."""
    legend = sum(trace.get("showlegend") is not False for trace in traces)
    below = math.ceil(legend / 2) if legend > 1 else 0
    drawing = {
        "data": list(traces),
        "layout": {
            "margin": {"l": 12, "r": 12, "t": 12, "b": 12},
            "showlegend": legend > 1,
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0, "font": {"size": 12}},
            "xaxis": x.layout(numbers(traces, "x")),
            "yaxis": y.layout(numbers(traces, "y")),
            "hovermode": "closest",
        },
    }
    text = json.dumps(_finite(drawing), allow_nan=False)
    return Figure(id, title, caption, alternative, text, height + 18 * below)


def _finite(value: object) -> object:
    """JSON has no word for what is no number, or has no end: a gap in a line."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def numbers(traces: Sequence[Trace], axis: str) -> list[float]:
    """The finite numbers that the traces have on an axis."""
    found: list[float] = []
    for trace in traces:
        values = trace[axis]
        assert isinstance(values, list)
        found += [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]
    return found


def label(text: str) -> str:
    """The text for plotly, which takes tags of HTML in a label for its own, and turns these references back."""
    return html.escape(text, quote=False)
