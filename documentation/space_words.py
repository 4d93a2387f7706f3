"""The tables of docs/spaces.md: every word of a space file, from what reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping

from pydantic import BaseModel, ValidationError

import search_spaces
from cpcnn_core.metrics import DIRECTIONS
from documentation.generated import PageError, kept, meanings, table
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import SCORE
from orchestrator.search.samplers import SAMPLERS
from orchestrator.search.scheduling import SCHEDULERS, Schedule
from orchestrator.search.space_file import Preset, SpaceFile

WORDS = "words of a space file"
METRICS = "metrics of an objective"
FUNCTIONS = "functions of search_spaces"


def _named(names: Iterable[str]) -> str:
    return ", ".join(f'`"{name}"`' for name in names)


_BY_NAME = {  # what the word's own check has a registry for
    "objective": "the name of a metric (below), `desirability(...)`, `constrained(...)` or `pareto(...)`",
    "sampler": _named(SAMPLERS),
    "scheduler": f"{_named(SCHEDULERS)}, or a mapping of the words below",
    "scheduler.name": _named(SCHEDULERS),
    "resources": "a mapping of the words below",
}
_UNITS = {
    "trials": "configurations",
    "scheduler.grace_epochs": "epochs",
    "scheduler.reduction_factor": "trials",
    "resources.cpus": "cores",
    "resources.gpus": "GPUs",
    "resources.memory_gib": "GiB",
    "resources.processes": "processes",
    "stall_minutes": "minutes",
}
_DEFAULTS = {  # where the default is worked out from something else
    "space": "none; it must be there",
    "objective": "`desirability()` where FID is measured, else `val_acc`",
    "scheduler": '`"asha"`',
}
_NULL = {
    "scheduler.grace_epochs": "a ninth of the epochs, at least 3",
    "resources.cpus": "one per process, or the cores divided among the trials",
    "resources.gpus": "one per process, where there are any",
    "resources.accelerator": "any kind",
    "resources.memory_gib": "not asked for",
}


def words(old: str) -> str:
    """The table of all words, those inside `scheduler` and `resources` too."""
    was = meanings(old)
    head = ("word", "takes", "default", "unit", "in a preset", "meaning")
    return table(head, ([*cells, kept(was, cells[0])] for cells in _words()))


def metrics(_old: str) -> str:
    """The metrics that an objective may name, with the direction in which each is better."""
    better = {"max": "larger", "min": "smaller"}
    return table(
        ("metric", "better"), ((f"`{name}`", better[way]) for name, way in DIRECTIONS.items() if name != SCORE)
    )


def _words() -> Iterable[list[str]]:
    inner: Mapping[str, type[BaseModel]] = {"scheduler": Schedule, "resources": Resources}
    for word, field in SpaceFile.model_fields.items():
        if word == "question":  # the docstring
            continue
        yield _row(word, _taken(SpaceFile, word), field.get_default(call_default_factory=True))
        for part, info in inner[word].model_fields.items() if word in inner else ():
            yield _row(f"{word}.{part}", _taken(inner[word], part, word), info.default)


def _row(name: str, taken: str, default: object) -> list[str]:
    preset = "yes" if name.partition(".")[0] in Preset.model_fields else "no"
    return [f"`{name}`", taken, _default(name, default), _UNITS.get(name, ""), preset]


def _taken(model: type[BaseModel], field: str, within: str = "") -> str:
    """What a word takes, as the program says it to who gives it something else."""
    name = f"{within}.{field}" if within else field
    if name in _BY_NAME:
        return _BY_NAME[name]
    try:
        model.model_validate({field: object()})
    except ValidationError as error:
        [refused] = [item for item in error.errors(include_url=False) if item["loc"][0] == field]
        return refused["msg"]
    raise PageError(f"{name} takes everything; say what it means in documentation/space_words.py")


def _default(name: str, value: object) -> str:
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    if value is None:
        return _NULL[name]
    return "`{}`" if value == Resources() else f"`{value!r}`".replace("'", '"')


def functions(old: str) -> str:
    """The table of what a space file may import."""
    made = {name: getattr(search_spaces, name) for name in search_spaces.__all__}
    rows = [(f"`{name}{_signature(each)}`", each.__doc__) for name, each in made.items() if inspect.isfunction(each)]
    constants = [(f"`{name}`", None) for name in made if name.isupper()]
    was = meanings(old)
    return table(("name", "meaning"), ([shown, kept(was, shown)] for shown, _ in [*rows, *constants]))


def _signature(function: Callable[..., object]) -> str:
    """Its arguments without their types, which a space file does not write."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
