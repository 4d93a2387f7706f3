"""Failures in a row: whether they say that no trial of the sweep will succeed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cpcnn_core.config import Scalar

IN_A_ROW = 3

# What a network does that learns too fast says something of its settings, and nothing of the next trial.
_DIVERGED = ("TrainingError:", "LikelihoodError:")

# What differs from trial to trial though the cause is one, in the order in which it is taken out.
_PATH = re.compile(
    r"""(?<!\w)(?P<quote>["'`])[^"'`\n]*/[^"'`\n]*(?P=quote)"""  # a quoted one may hold blanks
    r"""|(?:[a-z][a-z0-9+.-]*:/)?[^\s"'`=:;,()\[\]{}<>]*/[^\s"'`:;,()\[\]{}<>]+""",
    re.IGNORECASE,
)
_TEMPORARY = re.compile(r"\btmp[a-z0-9_]{6,}\b")  # as tempfile makes them, seldom with a digit
_NUMBER = re.compile(
    r"""0x[0-9a-f]+
    | (?<!\w)[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)
    | \b(?=[a-f]*\d)[0-9a-f]{8,}\b  # an id
    | \d+(?:\.\d+)?""",
    re.IGNORECASE | re.VERBOSE,
)
_WORD_FOR_A_VALUE = re.compile(r"\b(?:true|false|none|null|nan|inf)\b", re.IGNORECASE)
_KIND = re.compile(r"[A-Za-z_][\w.]*:")
_OF_FUSION = "\0"  # stands for a part of the trial's fusion; its parameters have it in their names
_NAMED_BY_FUSION = re.compile(rf"[\w.]*{_OF_FUSION}[\w.+{_OF_FUSION}]*")


class FailuresInARow:
    """Trials that failed one after another for the same cause, before any has succeeded."""

    def __init__(self) -> None:
        self.trial_ids: list[str] = []
        self.error = ""  # of the last one
        self._cause = ""
        self._any_succeeded = False

    def succeeded(self) -> None:
        """A trial ended without an error, now or in an earlier run: the sweep as such works."""
        self._any_succeeded = True

    def failed(self, trial_id: str, error: str, settings: Mapping[str, Scalar]) -> None:
        """A trial with these settings ended with an error, now or in an earlier run."""
        if error.startswith(_DIVERGED):
            return
        cause = cause_of(error, settings)
        if cause != self._cause:
            self.trial_ids = []
        self.trial_ids.append(trial_id)
        self.error, self._cause = error, cause

    @property
    def are_enough(self) -> bool:
        """Whether it would be a waste to try another one."""
        return not self._any_succeeded and len(self.trial_ids) >= IN_A_ROW


def cause_of(error: str, settings: Mapping[str, Scalar]) -> str:
    """The error without what differs from trial to trial: paths, temporary names, ids, numbers, its own settings."""
    kind = match[0] if (match := _KIND.match(error)) else ""  # a class may be called as a setting is
    text = _PATH.sub("#", error[len(kind) :])
    fusion = str(settings.get("model.fusion") or "").split("+")
    text = _without(text, fusion, _OF_FUSION)
    text = _NAMED_BY_FUSION.sub("#", text)
    text = _without(text, {value for value in settings.values() if isinstance(value, str)}, "#")
    for varying in (_TEMPORARY, _NUMBER, _WORD_FOR_A_VALUE):
        text = varying.sub("#", text)
    return kind + text


def _without(text: str, words: Iterable[str], mark: str) -> str:
    for word in sorted(filter(None, words), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", mark, text)
    return text
