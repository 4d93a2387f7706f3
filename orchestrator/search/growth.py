"""Whether a sweep's space only grew: every configuration that it admitted is admitted still."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cpcnn_core.config import TrialConfig
from orchestrator.records.sweep_file import Structure
from search_spaces import Choice, Distribution, Floats, Ints, Scalar, Space


def structure(fields: Space) -> Structure:
    """The fields as sweep.json holds them, for a later comparison."""
    return {field: _structure(value) for field, value in fields.items()}


def refusals(
    before: Mapping[str, Any], varied: Structure | None, asked: Mapping[str, Any], fields: Structure
) -> Iterator[str]:
    """Why what is `asked` now, over `fields`, does not contain what sweep.json says was asked before, over `varied`."""
    for key in dict.fromkeys([*before, *asked]):
        if key not in {"space", "settings"} and before.get(key) != asked.get(key):
            yield f"{key} changed"
    if varied is None:
        yield "sweep.json does not hold the fields that it had, being of an earlier version"
        return
    fixed = before["settings"]
    for key, value in asked["settings"].items():
        if key in fixed and fixed[key] != value:
            yield f"settings: {key} changed"
        elif key not in fixed and key not in varied and _default(key, fixed) != value:
            yield f"settings: {key} was {_default(key, fixed)!r}, its default"
        elif key in varied:
            yield f"space: {key} does not vary any more"
    for key in fixed:
        if key not in asked["settings"] and key not in fields and _default(key, fixed) != fixed[key]:
            yield f"settings: {key} is gone"
    yield from _shrunk(varied, fields, fixed, "")


def _shrunk(before: Structure, now: Structure, fixed: Mapping[str, Scalar], at: str) -> Iterator[str]:
    for field, was in before.items():
        if field not in now:
            yield f"space: {field}{at} is gone"
            continue
        held = now[field]
        if was["kind"] != held["kind"]:
            yield f"space: {field}{at} was {was['kind']} and is {held['kind']}"
        elif was["kind"] == "choice":
            branches = {_key(option): branch for option, branch in held["options"]}
            for option, branch in was["options"]:
                if _key(option) not in branches:
                    yield f"space: {field}{at} has no {option!r} any more"
                else:
                    yield from _shrunk(branch, branches[_key(option)], fixed, f"{at} under {field}={option}")
        elif not held["low"] <= was["low"] <= was["high"] <= held["high"]:
            yield f"space: {field}{at} has narrower bounds"
        elif not _keeps_steps(was, held):
            yield f"space: {field}{at} has other steps, which miss some that were there"
    for field, held in now.items():
        value = fixed.get(field, _default(field, fixed))
        if field not in before and not admits(held, value):
            yield f"space: {field}{at} is new and does not admit {value!r}, which trials had so far"


def admits(held: Structure, value: Scalar) -> bool:
    """Whether a field that varies so may have the value."""
    if held["kind"] == "choice":
        return _key(value) in {_key(option) for option, _ in held["options"]}
    if not isinstance(value, int | float) or isinstance(value, bool) or not held["low"] <= value <= held["high"]:
        return False
    if held["kind"] == "floats":
        return held["steps"] is None or any(math.isclose(value, step) for step in held["steps"])
    return not (value - held["low"]) % held["step"]


def _keeps_steps(was: Structure, held: Structure) -> bool:
    if was["kind"] == "ints":
        return not (was["low"] - held["low"]) % held["step"] and not was["step"] % held["step"]
    return held["steps"] is None or (was["steps"] is not None and set(was["steps"]) <= set(held["steps"]))


def _structure(value: Distribution | Scalar) -> Structure:
    match value:
        case Choice(options=options, branches=branches):
            return {"kind": "choice", "options": [[option, structure(branches.get(option, {}))] for option in options]}
        case Ints(low=low, high=high, step=step):
            return {"kind": "ints", "low": low, "high": high, "step": step}
        case Floats(low=low, high=high, step=step):
            steps = None if step is None else list(value.steps())
            return {"kind": "floats", "low": low, "high": high, "steps": steps}
        case _:
            return {"kind": "choice", "options": [[value, {}]]}


def _key(value: Scalar) -> tuple[bool, Scalar]:
    return isinstance(value, bool), value  # True is 1 to Python


def _default(field: str, settings: Mapping[str, Scalar]) -> Scalar:
    name = settings.get("data.name")  # which decides some of the defaults
    config = TrialConfig() if name is None else TrialConfig.from_flat({"data.name": name, "data.root": "."})
    return config.flat().get(field)
