"""Search spaces, interpreted: loading a space file, checking it before anything starts, and turning it into trials."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from pydantic import JsonValue

from cpcnn_core.config import NOT_IDENTIFYING, PROTOCOL, READING, ConfigError, TrialConfig, check_field, not_identifying
from cpcnn_core.errors import UserError
from cpcnn_core.metrics import OF_PIXELS
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.search import samplers, space_file
from orchestrator.search.scheduling import Schedule
from orchestrator.search.settings import PRESET, absolute, check_protocol, parse_settings
from orchestrator.search.settings import SpaceError as SpaceError
from orchestrator.text.formatting import plain
from search_spaces import Choice, Distribution, Floats, Ints, Scalar, Space, desirability

_ALL_CORNERS = 4096  # beyond this many combinations of extremes, a random part of them is checked
_SOME_CORNERS = 512
_WHERE = " where "
_OF_ALL_TRIALS = READING | {
    "data.name",
    "data.root",
    "data.digest",
    "data.image_size",
    "data.channels",
    "protocol",
    "source",
}


Picker: TypeAlias = Callable[[str, Distribution], Scalar]
"""Picks a value, given the parameter's name (one for each field and branch) and its distribution."""


class Suggester(Protocol):
    """The part of `optuna.trial.Trial` that is used here."""

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...


@dataclass(frozen=True)
class SearchSpace:
    """A space file's content: the fields that vary, those that do not, how many trials, and to what end."""

    source: str
    question: str
    fields: Space
    settings: Mapping[str, Scalar]
    trials: int
    objective: Objective
    sampler: str = samplers.DEFAULT
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    resources: Resources = dataclasses.field(default_factory=Resources)
    stall_minutes: float = 30.0  # without a sign of life, after which a trial is started again; 0 is never

    def configure(self, pick: Picker) -> TrialConfig:
        """The trial that `pick` gives. Raise ConfigError where the combination is not allowed."""
        return TrialConfig.from_flat(self._picked(pick))

    def _picked(self, pick: Picker) -> dict[str, Scalar]:
        """The settings, and what `pick` gives for each field that is active under what it gave before."""
        picked: dict[str, Scalar] = dict(self.settings)
        for field, name, distribution in self._walk(self.fields, "", picked):
            fixed = _is_fixed(distribution)
            picked[field] = next(_extremes(distribution)) if fixed else pick(name, distribution)
        return picked

    def default(self) -> TrialConfig:
        """The trial in which nothing was picked: the configuration's default where the space allows it, otherwise a
        choice's first option and a range's low bound.
        """
        return self.configure(_by_default(TrialConfig().flat()))

    def params_of(self, config: TrialConfig) -> dict[str, tuple[Scalar, Distribution]] | None:
        """The searched parameters that give `config`, by name; None where this space cannot give it."""
        params, refused = self.admit(config)
        return params if refused is None else None

    def admit(self, config: TrialConfig) -> tuple[dict[str, tuple[Scalar, Distribution]], str | None]:
        """The searched parameters that give `config`, and None; or, where none do, the field that is in the way."""
        params: dict[str, tuple[Scalar, Distribution]] = {}
        flat = config.flat()
        try:
            same = self.configure(_as_recorded(flat, params)).flat()
        except _NotAdmittedError as refused:
            field = str(refused)
            return {}, f"{field} is {plain(flat.get(field))}, which the space does not have"
        except ConfigError as error:
            return {}, str(error)
        apart = not_identifying(flat)
        for field in dict.fromkeys((*same, *flat)):
            if field not in apart and (field not in same or field not in flat or same[field] != flat[field]):
                return {}, f"{field} is {plain(flat.get(field))}, not {plain(same.get(field))}"
        return params, None

    @property
    def size(self) -> float:
        """How many configurations there are; infinity where a field is continuous."""
        return _size(self.fields)

    def all(self) -> Iterator[TrialConfig]:
        """Every allowed configuration of a finite space, in order."""
        for picked in _combinations(self.fields):
            try:
                yield TrialConfig.from_flat({**self.settings, **picked})
            except ConfigError:
                continue

    @property
    def searched(self) -> tuple[str, ...]:
        """The fields that vary, those of branches included, each once."""
        return tuple(
            dict.fromkeys(field for field, value in _every(self.fields) if not _is_fixed(_as_distribution(value)))
        )

    def extremes(self) -> Iterator[TrialConfig]:
        """Allowed configurations at the corners of the space; all of the corners where they are not too many."""
        for pins in _corners(self):
            try:
                yield self.configure(_pinned(pins))
            except ConfigError:
                continue

    @property
    def epochs(self) -> int:
        """The most epochs that a trial of this space may take."""
        field = "train.epochs"
        searched = [_most(_as_distribution(value)) for name, value in _every(self.fields) if name == field]
        return max(searched, default=int(self.settings.get(field) or TrialConfig().train.epochs))

    def describe(self) -> dict[str, JsonValue]:
        """What identifies the space, as JSON: two files with the same description ask the same question."""
        settings: dict[str, JsonValue] = {k: value for k, value in self.settings.items() if k not in NOT_IDENTIFYING}
        return {
            "protocol": PROTOCOL,
            "space": {field: str(distribution) for field, distribution in self.fields.items()},
            "settings": settings,
            "sampler": self.sampler,
            "objective": self.objective.describe(),
        }

    def with_settings(self, given: Mapping[str, Scalar], *, said_by: str = "--set ") -> SearchSpace:
        """A copy in which each given field is fixed. Raise SpaceError, `said_by` first, where that cannot be."""
        fields = self.fields
        settings = dict(self.settings)
        for key, value in given.items():
            try:
                check_field(key)
                located = absolute(key, value)
            except (ConfigError, SpaceError) as error:
                raise SpaceError(f"{said_by}{error}") from None
            fixed = _fix(fields, key, located)
            if fixed is None:
                settings[key] = located
            else:
                fields = fixed
        return replace(self, fields=fields, settings=settings)

    def with_seed(self, seed: int) -> SearchSpace:
        """A copy whose trials start from `seed`, unless the space or its settings say otherwise."""
        if "seed" in self.settings or "seed" in dict(_every(self.fields)):
            return self
        return self.with_settings({"seed": seed})

    def under(
        self,
        settings: Mapping[str, Scalar],
        *,
        seed: int,
        sampler: str | None,
        objective: Objective | None,
        said_by: str = "--set ",
    ) -> SearchSpace:
        """A copy with settings that come last, perhaps another sampler or objective; checked. Raise SpaceError."""
        space = self.with_settings(settings, said_by=said_by).with_seed(seed)
        if objective is not None:
            space = replace(space, objective=objective)
        if sampler is not None:
            try:
                space = replace(space, sampler=samplers.named(sampler))
            except samplers.SamplerError as error:
                raise SpaceError(f"--{error}") from None
        space.check("with the settings given: " if settings else "")
        return space

    def scheduled(self, scheduler: str | None) -> SearchSpace:
        """A copy under another scheduler, None for its own. Raise ScheduleError."""
        return replace(self, schedule=self.schedule.named(scheduler))

    def check(self, prefix: str = "") -> None:
        """Try every bound, option and branch on the configuration. Raise SpaceError on the first refusal."""
        where = f"{self.source}: {prefix}"
        for field, _ in _every(self.fields):
            self._check_searched(where, field)
        for field, value in self.settings.items():
            try:
                check_field(field)
            except ConfigError as error:
                raise SpaceError(f"{where}settings: {error}") from None
            if field == "protocol":
                check_protocol(f"{where}settings: protocol", value)
        if self.sampler == samplers.GRID:
            self._check_finite(where)
        self._try(where, {})
        for _, name, distribution, pins in _probes(self, self.fields, "", {}):
            for value in _extremes(distribution):
                self._try(where, {**pins, name: value})
        for pins in _corners(self):
            self._try(where, pins)

    def _check_searched(self, where: str, field: str) -> None:
        """Raise SpaceError for a field that no space may vary, or not this one."""
        try:
            check_field(field)
        except ConfigError as error:
            raise SpaceError(f"{where}space: {error}") from None
        if field in _OF_ALL_TRIALS:
            raise SpaceError(
                f"{where}{field} cannot be searched: trials of other data are never compared; fix it in settings"
            )
        if field in NOT_IDENTIFYING or field.startswith("lineage."):
            raise SpaceError(f"{where}{field} cannot be searched: it is no choice of what is trained; leave it out")
        if field == "data.quantize" and (reads := sorted(OF_PIXELS & set(self.objective.reads))):
            raise SpaceError(
                f"{where}{field} cannot be searched under an objective that reads {' and '.join(reads)}, which "
                "does not compare between rounded and other pixels; fix it in settings, or take a metric of "
                "classification, as val_acc"
            )
        if field.startswith("eval.fid_"):
            raise SpaceError(
                f"{where}{field} cannot be searched: its values decide which FIDs compare; fix it in settings"
            )
        if field == "eval.max_images":
            raise SpaceError(
                f"{where}{field} cannot be searched: metrics of different images do not compare; fix it in settings"
            )
        if field in self.settings:
            raise SpaceError(f"{where}{field} stands both in space and in settings; drop one")

    def _check_finite(self, where: str) -> None:
        for field, value in _every(self.fields):
            if isinstance(value, Floats) and math.isinf(_options(value)):
                raise SpaceError(
                    f"{where}sampler: a grid needs a finite space, and space[{field!r}] = {value} is continuous; "
                    "give it a step=, or a choice(...) of values"
                )
        if self.size > samplers.GRID_SIZE:
            raise SpaceError(
                f"{where}sampler: this grid has {self.size:,.0f} configurations, more than {samplers.GRID_SIZE:,}; "
                "take larger steps, or another sampler"
            )

    def _try(self, where: str, pins: Mapping[str, Scalar]) -> None:
        try:
            picked = self._picked(_pinned(pins))
            config = TrialConfig.from_flat(picked)
            _check_taken_as_written(picked, config)
            if (unmeasured := self.objective.unmeasured(config)) is not None:
                raise SpaceError(f"{where}objective: {unmeasured}")
        except ConfigError as error:
            named = str(error).partition(":")[0]
            at = ", ".join(f"{name}={value!r}" for name, value in pins.items() if _field_of(name) != named)
            source = dict(_every(self.fields)).get(named)
            what = f"space[{named!r}] = {source}: " if source is not None else ""
            raise SpaceError(f"{where}{what}{error}" + (f" (at {at})" if at else "")) from None

    def _walk(
        self, fields: Space, condition: str, picked: dict[str, Scalar]
    ) -> Iterator[tuple[str, str, Distribution]]:
        """Each active field, its name in the study and its distribution; the caller puts the value into `picked`."""
        for field, value in fields.items():
            if field in picked:
                raise SpaceError(
                    f"{self.source}: {field} is set twice where {condition or 'nothing is chosen'}; drop one"
                )
            distribution = _as_distribution(value)
            yield field, self._name(field, condition), distribution
            if isinstance(distribution, Choice):
                branch = distribution.branches.get(picked[field])
                if branch:
                    inner = f"{field}={picked[field]}"
                    yield from self._walk(branch, f"{condition} and {inner}" if condition else inner, picked)

    def _name(self, field: str, condition: str) -> str:
        # A field that stands under several options has several distributions, and a study wants one for each name.
        repeated = sum(name == field for name, _ in _every(self.fields)) > 1
        return f"{field}{_WHERE}{condition}" if repeated and condition else field


def load(path: Path, given: Mapping[str, Scalar] | None = None, *, preset: str | None = None) -> SearchSpace:
    """Read a space file, perhaps under one of its presets; `SearchSpace.check` checks what it says. Raise SpaceError.

    A file without an objective wants accuracy and FID alike where FID is measured, which `given` may say, else
    accuracy.
    """
    content = space_file.read(path)
    source, fixed = str(path), dict[str, Scalar]()
    if preset is not None:
        chosen = content.preset(preset, source)
        content, fixed, source = content.under(chosen), dict(chosen.settings), f"{path}{PRESET}{preset}"
    return _said(content, source, {**fixed, **(given or {})}).with_settings(fixed, said_by=f"{source}: settings: ")


def of_fields(fields: Mapping[str, Distribution], given: Mapping[str, Scalar]) -> SearchSpace:
    """A space without a file: the fields that it varies, the rest as a file has it that says no more."""
    return _said(space_file.checked({"space": fields}, "the space"), "the space", given)


def _said(content: space_file.SpaceFile, source: str, fixed: Mapping[str, Scalar]) -> SearchSpace:
    """What a file says. Raise SpaceError."""
    default = desirability() if {**content.settings, **fixed}.get("eval.fid_every") else "val_acc"
    try:
        settings = {key: absolute(key, value) for key, value in content.settings.items()}
    except SpaceError as error:
        raise SpaceError(f"{source}: settings: {error}") from None
    return SearchSpace(
        source,
        content.question,
        content.space,
        settings,
        content.trials,
        Objective.of(default) if content.objective is None else content.objective,
        sampler=content.sampler,
        schedule=content.scheduler,
        resources=content.resources,
        stall_minutes=content.stall_minutes,
    )


def read(
    path: Path,
    given: Iterable[str] = (),
    *,
    preset: str | None = None,
    seed: int = 0,
    sampler: str | None = None,
    objective: Objective | None = None,
) -> SearchSpace:
    """The space in `path`, perhaps under a preset, with `key=value` settings and perhaps another sampler or objective.

    Settings come after the preset. Raise SpaceError.
    """
    settings = parse_settings(given)
    space = load(path, settings, preset=preset)
    return space.under(settings, seed=seed, sampler=sampler, objective=objective)


def _check_taken_as_written(picked: Mapping[str, Scalar], config: TrialConfig) -> None:
    """Raise ConfigError for a value that the configuration takes for another: `"3"` or True for a number, 1 for True.

    It would not be recognised in the rows of its own sweep.
    """
    flat = config.flat()
    for field, value in picked.items():
        if value is not None and not _same(value, flat[field]):
            raise ConfigError(f"{field}: {value!r} would be taken as {flat[field]!r}; write {flat[field]!r}")


class _NotAdmittedError(UserError):
    """The recorded value lies outside the space."""


def by_optuna(trial: Suggester) -> Picker:
    """Let an Optuna trial pick."""

    def pick(name: str, distribution: Distribution) -> Scalar:
        match distribution:
            case Choice(options=options):
                return trial.suggest_categorical(name, options)
            case Ints(low=low, high=high, step=step, log=log):
                return trial.suggest_int(name, low, high, step=step, log=log)
            case Floats(low=low, high=high, log=log, step=step):
                # With a step, Optuna gives 0.30000000000000004 where the space means 0.3.
                return _as_declared(distribution, trial.suggest_float(name, low, high, step=step, log=log))

    return pick


def at_random(rng: random.Random) -> Picker:
    """Draw uniformly."""

    def pick(name: str, distribution: Distribution) -> Scalar:  # noqa: ARG001 - all names are alike to it
        match distribution:
            case Choice(options=options):
                return rng.choice(options)
            case Ints(low=low, high=high, log=True):
                return round(math.exp(rng.uniform(math.log(low), math.log(high))))
            case Ints(low=low, high=high, step=step):
                return rng.randrange(low, high + 1, step)
            case Floats(low=low, high=high, log=True):
                return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
            case Floats(step=float()):
                return rng.choice(distribution.steps())
            case Floats(low=low, high=high):
                return rng.uniform(low, high)

    return pick


def _by_default(defaults: Mapping[str, Scalar]) -> Picker:
    def pick(name: str, distribution: Distribution) -> Scalar:
        default = defaults.get(_field_of(name))
        return _as_declared(distribution, default) if _allows(distribution, default) else next(_extremes(distribution))

    return pick


def _as_recorded(flat: Mapping[str, Scalar], params: dict[str, tuple[Scalar, Distribution]]) -> Picker:
    def pick(name: str, distribution: Distribution) -> Scalar:
        field = _field_of(name)
        if field not in flat or not _allows(distribution, flat[field]):
            raise _NotAdmittedError(field)
        value = _as_declared(distribution, flat[field])
        params[name] = value, distribution
        return value

    return pick


def _pinned(pins: Mapping[str, Scalar]) -> Picker:
    def pick(name: str, distribution: Distribution) -> Scalar:
        return pins[name] if name in pins else next(_extremes(distribution))

    return pick


def _field_of(name: str) -> str:
    return name.partition(_WHERE)[0]


def _is_fixed(distribution: Distribution) -> bool:
    if isinstance(distribution, Choice):
        return len(distribution.options) == 1
    return distribution.low == distribution.high


def _as_distribution(value: Distribution | Scalar) -> Distribution:
    return value if isinstance(value, Distribution) else Choice((value,))


def _allows(distribution: Distribution, value: Scalar) -> bool:
    if isinstance(distribution, Choice):
        return any(_same(value, option) for option in distribution.options)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    if isinstance(distribution, Floats):
        return distribution.step is None or any(math.isclose(value, step) for step in distribution.steps())
    return value == int(value) and (int(value) - distribution.low) % distribution.step == 0


def _as_declared(distribution: Distribution, value: Scalar) -> Scalar:
    """An allowed value as the distribution declares it: a configuration turns the 0 of a `choice(0, 1)` to 0.0."""
    match distribution:
        case Choice(options=options):
            return next(option for option in options if _same(value, option))
        case Ints():
            return int(value or 0)
        case Floats(step=float()):
            return min(distribution.steps(), key=lambda step: abs(step - float(value or 0)))
        case Floats():
            return float(value or 0)


def _same(value: Scalar, option: Scalar) -> bool:
    return value == option and isinstance(value, bool) == isinstance(option, bool)


def _extremes(distribution: Distribution) -> Iterator[Scalar]:
    """The values on which a field's bounds would show: all options, both ends, and one inside."""
    match distribution:
        case Choice(options=options):
            yield from options
        case Ints(low=low, high=high, step=step):
            yield from sorted({low, min(low + step, high), high})
        case Floats(step=float()):
            yield from distribution.steps()
        case Floats(low=low, high=high):
            # Not the middle, which is a whole number between 1.0 and 5.0 and would pass where only those may.
            yield from dict.fromkeys((low, high, low + (high - low) * 0.3819660112501051))


def _every(fields: Space) -> Iterator[tuple[str, Distribution | Scalar]]:
    """Each field with what it may be, those of branches included."""
    for field, value in fields.items():
        yield field, value
        if isinstance(value, Choice):
            for branch in value.branches.values():
                yield from _every(branch)


def _size(fields: Space) -> float:
    return math.prod(_options(_as_distribution(value)) for value in fields.values())


def _options(distribution: Distribution) -> float:
    match distribution:
        case Choice(options=options, branches=branches):
            return sum(_size(branches.get(option, {})) for option in options)
        case Ints(low=low, high=high, step=step):
            return (high - low) // step + 1
        case Floats(step=float()):
            return len(distribution.steps())
        case Floats(low=low, high=high):
            return 1 if low == high else math.inf


def _combinations(fields: Space) -> Iterator[dict[str, Scalar]]:
    if not fields:
        yield {}
        return
    (field, value), *others = fields.items()
    distribution = _as_distribution(value)
    rest = dict(others)
    for option in _values(distribution):
        branch = distribution.branches.get(option, {}) if isinstance(distribution, Choice) else {}
        for picked in _combinations({**branch, **rest}):
            yield {field: option, **picked}


def _most(distribution: Distribution) -> int:
    return int(max(value for value in _extremes(distribution) if isinstance(value, int | float)))


def _values(distribution: Distribution) -> Iterable[Scalar]:
    match distribution:
        case Choice(options=options):
            return options
        case Ints(low=low, high=high, step=step):
            return range(low, high + 1, step)
        case Floats(step=float()):
            return distribution.steps()
        case Floats(low=low):
            return (low,)


def _probes(
    space: SearchSpace, fields: Space, condition: str, pins: dict[str, Scalar]
) -> Iterator[tuple[str, str, Distribution, dict[str, Scalar]]]:
    for field, value in fields.items():
        distribution = _as_distribution(value)
        name = space._name(field, condition)
        yield field, name, distribution, pins
        if isinstance(distribution, Choice):
            for option, branch in distribution.branches.items():
                inner = f"{field}={option}"
                nested = f"{condition} and {inner}" if condition else inner
                yield from _probes(space, branch, nested, {**pins, name: option})


def _corners(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """Combinations of extremes: all of them where they are few, else a part drawn by a fixed seed."""
    probes = _probes(space, space.fields, "", {})
    extremes = [(name, list(_extremes(distribution))) for _, name, distribution, _ in probes]
    names = [name for name, _ in extremes]
    if math.prod(len(values) for _, values in extremes) <= _ALL_CORNERS:
        for values in itertools.product(*(values for _, values in extremes)):
            yield dict(zip(names, values, strict=True))
    else:
        rng = random.Random(0)
        for _ in range(_SOME_CORNERS):
            yield {name: rng.choice(values) for name, values in extremes}


def _fix(fields: Space, key: str, value: Scalar) -> dict[str, Distribution | Scalar] | None:
    """`fields` with `key` fixed wherever it stands; None where it stands nowhere."""
    changed: dict[str, Distribution | Scalar] = {}
    for field, declared in fields.items():
        if field == key:
            branch = declared.branches.get(value) if isinstance(declared, Choice) else None
            changed[field] = Choice((value,), {value: branch} if branch else {})
        elif isinstance(declared, Choice):
            branches = {option: _fix(branch, key, value) for option, branch in declared.branches.items()}
            if any(branch is not None for branch in branches.values()):
                changed[field] = Choice(
                    declared.options,
                    {option: branches[option] or branch for option, branch in declared.branches.items()},
                )
    return {**fields, **changed} if changed else None
