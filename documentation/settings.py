"""The tables of docs/settings.md and of the options in docs/fusions.md, from the configuration's own fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cpcnn_core.config import TrialConfig, field_names
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.fusion.base import RESOLUTIONS
from cpcnn_core.sources import SOURCES
from documentation.generated import PageError, kept, meanings, table
from documentation.values import default, is_number, values

_BY_NAME = {  # what an annotation does not say
    "data.name": ", ".join(f"`{name}`" for name in SOURCES),
    "data.root": "path or URL, or `null`",
    **dict.fromkeys(("data.dataset", "data.image_column", "data.label_column"), "a name, or `null`"),
    "eval.fid_weights": "path, or `null`",
    "model.fusion": "[a fusion](fusions.md#the-built-in-fusions), or several joined by `+`",
}
_LEVELS = f"{', '.join(f'`{name}`' for name in RESOLUTIONS)}, or several joined by `+`"

# What a number counts or is measured in. A number without a dimension says what it is a share or a factor of.
UNITS = {
    "data.image_size": "pixels",
    "data.train_fraction": "share of the images",
    "data.validation_share": "share of the images",
    "data.test_share": "share of the images",
    "data.split_seed": "none",
    "model.label_dim": "numbers",
    "model.nr_resnet": "blocks",
    "model.nr_filters": "channels",
    "model.nr_logistic_mix": "components",
    "model.dropout": "probability",
    "train.epochs": "epochs",
    "train.batch_size": "images",
    "train.accumulate": "micro-batches",
    "train.lr": "weight per step",
    "train.beta1": "factor per step",
    "train.beta2": "factor per step",
    "train.adam_eps": "nats per weight",
    "train.weight_decay": "times lr, per step",
    "train.lr_gamma": "factor per step",
    "train.lr_floor": "share of `train.lr`",
    "train.warmup_epochs": "epochs",
    "train.grad_clip": "bpd per weight",
    "train.ema_decay": "factor per step",
    "train.label_dropout": "probability",
    "train.shift": "pixels",
    "train.class_loss_weight": "bpd per nat",
    "train.class_temperature": "factor",
    "train.class_loss_others": "classes",
    "train.keep_every": "epochs",
    "train.keep_most": "epochs",
    "train.save_every_seconds": "seconds",
    "eval.every": "epochs",
    "eval.max_images": "images",
    "eval.batch_size": "images times classes",
    "eval.train_images": "images",
    "eval.fid_every": "epochs",
    "eval.fid_images_per_class": "images",
    "seed": "none",
    "lineage.epochs_before": "epochs",
    "lineage.steps_before": "steps",
    "protocol": "version",
    "dim": "channels",
    "hidden": "numbers",
    "gamma_clamp": "as gamma",
    "every": "blocks",
}
SECTIONS = {
    "data": "settings: data",
    "model": "settings: the network",
    "train": "settings: training",
    "eval": "settings: evaluation",
    "": "settings: the rest",
}
OPTIONS = "options of fusions"


def fields() -> dict[str, FieldInfo]:
    """Every field by its dotted name, in the order of the configuration."""
    found: dict[str, FieldInfo] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= {f"{section}.{name}": field for name, field in info.annotation.model_fields.items()}
        else:
            found[section] = info
    return {name: field for name, field in found.items() if name in field_names()}


def parts() -> dict[str, Callable[[str], str]]:
    """What writes each table of docs/settings.md."""
    return {name: _section(section) for section, name in SECTIONS.items()}


def _section(section: str) -> Callable[[str], str]:
    chosen = {name: field for name, field in fields().items() if _section_of(name) == section}
    return lambda old: table(
        ("field", "values", "default", "unit", "meaning"),
        (_row(name, f"`{name}`", field, meanings(old)) for name, field in chosen.items()),
    )


def _section_of(name: str) -> str:
    section = name.partition(".")[0]
    return section if section in SECTIONS else ""


def _row(name: str, shown: str, field: FieldInfo, old: dict[str, str]) -> list[str]:
    taken = _BY_NAME.get(name) or values(field.annotation, field.metadata)
    return [shown, taken, default(field.default), _unit(name, field), kept(old, shown)]


def _unit(name: str, field: FieldInfo) -> str:
    if not is_number(field.annotation):
        return ""
    if name not in UNITS:
        raise PageError(f"{name} is a number without a unit; add it to UNITS in documentation/settings.py")
    return UNITS[name]


def options(old: str) -> str:
    """The table of the options of fusions: each once, with all fusions that have it."""
    head = ("option", "of", "values", "default", "unit", "meaning")
    return table(head, (_option(name, having, meanings(old)) for name, having in _options()))


def _options() -> Iterator[tuple[str, list[str]]]:
    having: dict[str, list[str]] = {}
    for fusion, variant in FUSIONS.items():
        for option in variant.Options.model_fields:
            having.setdefault(option, []).append(fusion)
    yield from having.items()


def _option(name: str, having: Iterable[str], old: dict[str, str]) -> list[str]:
    fusions = list(having)
    field = FUSIONS[fusions[0]].Options.model_fields[name]
    taken = _LEVELS if name == "levels" else values(field.annotation, field.metadata)
    of = ", ".join(f"`{fusion}`" for fusion in fusions)
    return [f"`{name}`", of, taken, default(field.default), _unit(name, field), kept(old, f"`{name}`")]
