"""A space file as it is written: what it may say, what it says otherwise under a preset, and what is wrong with it."""

from __future__ import annotations

import difflib
import runpy
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

import search_spaces
from cpcnn_core.suggest import nearest
from cpcnn_core.validation import IsInstance, a_mapping, mistakes, must_be
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.search import samplers, shipped
from orchestrator.search.scheduling import Schedule
from orchestrator.search.settings import SpaceError
from search_spaces import Distribution, Scalar

_Field: TypeAlias = Annotated[str, must_be("a text, the name of a field")]
_Setting: TypeAlias = Annotated[Scalar, must_be("one finite number, text, True, False or None")]
_Varied: TypeAlias = Annotated[
    Distribution,
    IsInstance(),
    must_be("choice(...), ints(...) or floats(...). A fixed value belongs into settings"),
]
_Space: TypeAlias = Annotated[
    Mapping[_Field, _Varied], a_mapping("from fields to choice(...), ints(...) or floats(...)")
]
_Settings: TypeAlias = Annotated[Mapping[_Field, _Setting], a_mapping("from fields to values")]
_Trials: TypeAlias = Annotated[int, Field(ge=1), must_be("a whole number of at least 1")]
_Sampler: TypeAlias = Annotated[str, BeforeValidator(samplers.named)]
_Objective: TypeAlias = Annotated[Annotated[Objective, IsInstance()] | None, BeforeValidator(Objective.of)]
_Scheduler: TypeAlias = Annotated[Schedule, BeforeValidator(Schedule.of)]
_Resources: TypeAlias = Annotated[Resources, BeforeValidator(Resources.of)]
_Minutes: TypeAlias = Annotated[float, Field(ge=0), must_be("a number of minutes, or 0 for never")]
_Name: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"), must_be("a name of letters, digits, _ and -")
]


class _Words(BaseModel):
    """What a space file and its presets may say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    space: _Space = Field(default_factory=dict)
    settings: _Settings = Field(default_factory=dict)
    trials: _Trials = 16
    sampler: _Sampler = samplers.DEFAULT
    objective: _Objective = None  # None: not said
    scheduler: _Scheduler = Schedule()
    resources: _Resources = Resources()
    stall_minutes: _Minutes = 30.0


class Preset(_Words):
    """What a space file says otherwise under a name. A field of `space` or `settings` replaces what the file has of it,
    or comes beside it; of the rest, what is not said stays.
    """


class SpaceFile(_Words):
    """What a space file may say. `SearchSpace.check` then tries it on the configuration."""

    question: str = ""  # the file's docstring
    presets: Annotated[Mapping[_Name, Preset], a_mapping("from names to what differs")] = Field(default_factory=dict)

    def preset(self, name: str, source: str) -> Preset:
        """The preset of that name. Raise SpaceError, with the nearest name, where there is none."""
        if name not in self.presets:
            there = nearest(name, self.presets) if self.presets else "; the file has none"
            raise SpaceError(f"{source}: --preset {name}: there is no such preset{there}")
        return self.presets[name]

    def under(self, preset: Preset) -> SpaceFile:
        """What the file says under a preset, but for the preset's settings, which fix fields of branches too."""
        said = {name: getattr(preset, name) for name in preset.model_fields_set - {"space", "settings"}}
        settings = {field: value for field, value in self.settings.items() if field not in preset.space}
        return self.model_copy(update={**said, "space": {**self.space, **preset.space}, "settings": settings})


_NAMES = tuple(name for name in SpaceFile.model_fields if name != "question")


def read(path: Path) -> SpaceFile:
    """What a space file says, checked for itself. Raise SpaceError with each mistake."""
    names = _run(path)
    for name, value in names.items():
        # Names that are not ours are the file's own, for its own use, but for what is nearly one of ours.
        close = difflib.get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.8)
        nearly = bool(close) and (close[0] != "presets" or isinstance(value, Mapping))  # its own
        if nearly and name not in _NAMES and value is not getattr(search_spaces, name, None):
            raise SpaceError(f"{path}: {name} means nothing in a space file; did you mean {close[0]}?")
    if "space" not in names:
        raise SpaceError(f"{path}: `space` is missing; it maps configuration fields to choice, ints or floats")
    question = names.get("__doc__") or ""
    content = {name: names[name] for name in _NAMES if name in names}
    return checked({**content, "question": str(question).strip()}, str(path))


def checked(content: Mapping[str, object], source: str) -> SpaceFile:
    """What these names say, of a file or of none. Raise SpaceError with each mistake, `source` in front."""
    try:
        return SpaceFile.model_validate(content)
    except ValidationError as error:
        raise SpaceError("\n".join(f"{source}: {line}" for line in _lines(error))) from None


def _lines(error: ValidationError) -> Iterator[str]:
    """What is wrong with the file, a line each."""
    for item, text in zip(error.errors(include_url=False), mistakes(error, _NAMES), strict=True):
        match item["loc"]:
            case ("presets", str() as name, str() as field) if item["type"] == "extra_forbidden":
                yield f"presets.{name}.{field}: no such field{nearest(field, Preset.model_fields)}"
            case ("presets", str() as name, *_) if item["type"] == "value_error":
                yield from (f"presets.{name}.{line}" for line in text.splitlines())
            case _:
                yield from text.splitlines()


def _run(path: Path) -> Mapping[str, object]:
    """The names that a space file defines."""
    if not path.is_file():
        raise SpaceError(f"{path}: there is no such space file{_nearby(path)}")
    try:
        return runpy.run_path(str(path), run_name="space")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's program; whatever it raises is its mistake
        raise SpaceError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}") from None


def _nearby(path: Path) -> str:
    there = sorted(str(other) for other in path.parent.glob("*.py") if other.name != "__init__.py")
    if path.name == str(path) and path.suffix != ".py":  # it was meant for the name of one that ships
        return shipped.hint(path.name, there)
    close = difflib.get_close_matches(str(path), there, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(there)}" if there else ""


def _line_of(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""
