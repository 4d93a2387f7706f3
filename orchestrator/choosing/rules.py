"""The rules by which a checkpoint is chosen, by name; `judge` applies them."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal["max", "corrected", "smoothed", "smallest"]
RULES: tuple[Rule, ...] = get_args(Rule)
DEFAULT_RULE: Rule = "smoothed"
