"""The page's colours. Those of figures stand out from a white and from a dark page alike, so that they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SERIES = ("#2f7fe0", "#d2553f", "#1f8f5f", "#a86a00", "#8f63d9", "#0e8a9e", "#c4498f", "#6f7d1f")
GREY = "#77818c"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")  # for more kinds than there are colours

FOR, AGAINST = "#2f7fe0", "#d2553f"
"""Of evidence: for the true class, and for the other one."""

THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "page": "#ffffff",
        "card": "#f4f6f8",
        "text": "#1c2024",
        "muted": "#5b6470",
        "line": "#d5dbe1",
        "link": "#1f5fbf",
        "chosen": "#e4f2e8",
        "heat": "#a9ccff",
    },
    "dark": {
        "page": "#14171a",
        "card": "#1d2126",
        "text": "#e6e8ea",
        "muted": "#a3abb5",
        "line": "#3a4149",
        "link": "#7db3ff",
        "chosen": "#1d3326",
        "heat": "#24538f",
    },
}

TEXT_ON = (
    *((text, ground) for text in ("text", "muted", "link") for ground in ("page", "card")),
    ("text", "chosen"),
    ("link", "chosen"),
    ("text", "heat"),
)
"""Which text stands on which ground."""


def of_kinds(kinds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a symbol for each kind, in the given order."""
    return {
        kind: (SERIES[at % len(SERIES)], SYMBOLS[(at // len(SERIES)) % len(SYMBOLS)]) for at, kind in enumerate(kinds)
    }


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2: 1 to 21. Text needs 4.5, what is drawn 3."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
