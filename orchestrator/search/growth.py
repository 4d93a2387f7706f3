"""Whether a sweep's space only grew: every configuration that it admitted is admitted still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cpcnn_core.config import DataConfig, Scalar, field_defaults
from orchestrator.records.space_record import (
    RecordedChoice,
    RecordedField,
    RecordedFloats,
    RecordedInts,
    RecordedSpace,
)
from orchestrator.records.sweep_file import Asked
from search_spaces import Choice, Distribution, Floats, Ints, Space


def recorded(fields: Space) -> RecordedSpace:
    """The fields as sweep.json records them, for a later comparison."""
    return {field: _recorded(value) for field, value in fields.items()}


def refusals(before: Asked, varied: RecordedSpace | None, asked: Asked, fields: RecordedSpace) -> Iterator[str]:
    """Why what is `asked` now, over `fields`, does not contain what sweep.json says was asked before, over `varied`."""
    was, now = before.identifying(), asked.identifying()
    for key in dict.fromkeys([*was, *now]):
        if key not in {"space", "settings"} and was.get(key) != now.get(key):
            yield f"{key} changed"
    if varied is None:
        yield "sweep.json does not hold the fields that it had, being of an earlier version"
        return
    fixed, settings = before.identifying_settings, asked.identifying_settings
    for key, value in settings.items():
        if key in fixed and fixed[key] != value:
            yield f"settings: {key} changed"
        elif key not in fixed and key not in varied and _default(key, fixed) != value:
            yield f"settings: {key} was {_default(key, fixed)!r}, its default"
        elif key in varied:
            yield f"space: {key} does not vary any more"
    for key in fixed:
        if key not in settings and key not in fields and _default(key, fixed) != fixed[key]:
            yield f"settings: {key} is gone"
    yield from _shrunk(varied, fields, fixed, "")


def _shrunk(before: RecordedSpace, now: RecordedSpace, fixed: Mapping[str, Scalar], at: str) -> Iterator[str]:
    for field, was in before.items():
        if field in now:
            yield from _narrowed(field, was, now[field], fixed, at)
        else:
            yield f"space: {field}{at} is gone"
    for field, new in now.items():
        value = fixed.get(field, _default(field, fixed))
        if field not in before and not new.admits(value):
            yield f"space: {field}{at} is new and does not admit {value!r}, which trials had so far"


def _narrowed(
    field: str, was: RecordedField, now: RecordedField, fixed: Mapping[str, Scalar], at: str
) -> Iterator[str]:
    """What a field may not be any more."""
    if isinstance(was, RecordedChoice) and isinstance(now, RecordedChoice):
        for option, branch in was.options:
            branch_now = now.branch(option)
            if branch_now is None:
                yield f"space: {field}{at} has no {option!r} any more"
            else:
                yield from _shrunk(branch, branch_now, fixed, f"{at} under {field}={option}")
    elif isinstance(was, RecordedChoice) or isinstance(now, RecordedChoice) or was.kind != now.kind:
        yield f"space: {field}{at} was {was.kind} and is {now.kind}"
    elif not now.low <= was.low <= was.high <= now.high:
        yield f"space: {field}{at} has narrower bounds"
    elif not _keeps_steps(was, now):
        yield f"space: {field}{at} has other steps, which miss some that were there"


def _keeps_steps(was: RecordedInts | RecordedFloats, now: RecordedInts | RecordedFloats) -> bool:
    if isinstance(was, RecordedInts) and isinstance(now, RecordedInts):
        return not (was.low - now.low) % now.step and not was.step % now.step
    if isinstance(was, RecordedFloats) and isinstance(now, RecordedFloats):
        return now.steps is None or (was.steps is not None and set(was.steps) <= set(now.steps))
    return False


def _recorded(value: Distribution | Scalar) -> RecordedField:
    match value:
        case Choice(options=options, branches=branches):
            each = tuple((option, recorded(branches.get(option, {}))) for option in options)
            return RecordedChoice(kind="choice", options=each)
        case Ints(low=low, high=high, step=step):
            return RecordedInts(kind="ints", low=low, high=high, step=step)
        case Floats(low=low, high=high, step=step):
            return RecordedFloats(kind="floats", low=low, high=high, steps=None if step is None else value.steps())
        case _:
            return RecordedChoice(kind="choice", options=((value, {}),))


def _default(field: str, settings: Mapping[str, Scalar]) -> Scalar:
    defaults = field_defaults(str(settings.get("data.name", DataConfig.model_fields["name"].default)))
    return defaults.get(field)
