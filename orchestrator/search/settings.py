"""Settings as they are typed, `--set key=value`: read, without the space that they are for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from cpcnn_core import places
from cpcnn_core.config import LOCATIONS, PROTOCOL
from cpcnn_core.errors import UserError
from orchestrator.text.formatting import plain
from search_spaces import Scalar

PRESET = ", preset "
"""Stands between a space file and the preset it is read under, where a record or a message names both."""

_PYTHONS: Mapping[str, Scalar] = {"True": True, "False": False, "None": None}  # where JSON has true, false and null


class SpaceError(UserError, ValueError):
    """A space file, or a setting given beside it, that cannot be used; the message names the file and the field."""


def parse_data_root(given: Iterable[str]) -> dict[str, Scalar]:
    """The settings of what is as recorded but for where the data lies now. Raise SpaceError for any but data.root."""
    settings = parse_settings(given)
    if set(settings) - {"data.root"}:
        raise SpaceError(f"--set {', '.join(settings)}: only data.root can be set here; the rest is as recorded")
    return settings


def parse_settings(given: Iterable[str]) -> dict[str, Scalar]:
    """`["model.fusion=stem_add", "train.lr=1e-3"]` as a mapping. A value is a JSON or Python scalar, else a string.

    A place (`data.root`) is null or a string whatever it looks like, and made absolute. Raise SpaceError.
    """
    settings: dict[str, Scalar] = {}
    for item in given:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SpaceError(f"--set {item}: expected key=value, as in --set model.fusion=stem_add")
        try:
            value = absolute(key, text) if key in LOCATIONS and text != "null" else json.loads(text)
        except json.JSONDecodeError:
            value = _PYTHONS.get(text, text)
        except SpaceError as error:
            raise SpaceError(f"--set {error}") from None
        if isinstance(value, list | dict):
            raise SpaceError(f"--set {item}: the value must be one number, string, true, false or null")
        if key == "protocol":
            check_protocol(f"--set {item}", value)
        if key.startswith("lineage."):
            raise SpaceError(f"--set {item}: is not set; `trial --from` says what a trial continues")
        settings[key] = value
    return settings


def check_protocol(where: str, value: Scalar) -> None:
    """A protocol is not chosen: a new trial has the one by which this release makes its numbers. Raise SpaceError."""
    if value != PROTOCOL or isinstance(value, bool):
        raise SpaceError(
            f"{where}: {plain(value)} cannot be chosen; this release trains by protocol {PROTOCOL} alone, so leave it "
            "out. Another protocol needs the release that has it"
        )


def absolute(field: str, value: Scalar) -> Scalar:
    """The value of a setting; a path among them absolute. Raise SpaceError for what is no place."""
    if field not in LOCATIONS or not isinstance(value, str) or (field == "data.root" and places.is_url(value)):
        return value
    try:
        # A trial may run in another working folder than the one that the path was typed in.
        return str(places.path(value).absolute())
    except ValueError as error:
        raise SpaceError(f"{field}: {error}") from None
