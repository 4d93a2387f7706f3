"""TrialConfig: everything that decides the outcome of one trial, frozen, validated and hashable to a trial id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cpcnn_core.errors import UserError
from cpcnn_core.sources import OPTIONAL, SOURCES, title
from cpcnn_core.suggest import nearest
from cpcnn_core.validation import mistakes

Scalar = str | int | float | bool | None
FusionOptions = dict[str, dict[str, int | float | str | bool]]

PROTOCOL = 3
"""The version of how a configuration becomes numbers: it rises whenever the same configuration and data would give
others, so that trials before and after are never taken for one another.

1: up to release 0.1. Images in the same order in every epoch, pixels of resized images rounded, Adam's eps on the mean.
2: every random stream from (seed, purpose, step); cpen455 unrounded by default; Adam's eps as for a sum of nats.
3: the dropout masks of all blocks are one draw; learning rates are rounded to float32.
"""

# Where the files lie says nothing about what was trained, so it is no part of a trial's identity.
LOCATIONS = frozenset({"data.root", "eval.fid_weights"})

# Nor does it change any result of which epochs the weights are kept.
KEEPING = frozenset({"train.keep_every", "train.keep_most"})

# Nor how the same numbers are computed.
SPEED = frozenset({"train.graph"})

# Nor how often training saves what it would resume from.
SAVING = frozenset({"train.save_every_seconds"})

# What two runs of the same trial may differ in.
NOT_IDENTIFYING = LOCATIONS | KEEPING | SPEED | SAVING

# Which images are read and how they are split. Where the digest of the outcome is known it says all of that, and to
# state a default changes nothing.
READING = frozenset(
    {
        "data.dataset",
        "data.image_column",
        "data.label_column",
        "data.validation_share",
        "data.test_share",
        "data.split_seed",
    }
)

# The schedules whose whole course depends on the total number of epochs: a trial under one of them is not the beginning
# of a longer one.
OF_THE_TOTAL = frozenset({"linear", "cosine"})

# Settings that a trial of protocol 1 did not have, and so no part of its identity.
SINCE_PROTOCOL_2 = frozenset({"protocol", "data.digest", "train.adam_eps"})

# Settings that a later release added, each with the value that does what the releases before it did. At that value they
# are no part of a trial's identity either: what was trained without them is the same trial.
ADDED: dict[str, Scalar] = {
    "model.norm": "none",
    "train.class_loss_others": None,
    "train.deterministic": False,
    "eval.every": 1,
    "eval.max_images": None,
    "lineage.parent": None,
    "lineage.root": None,
    "lineage.weights": None,
    "lineage.epochs_before": 0,
    "lineage.steps_before": 0,
    "lineage.fresh_optimizer": False,
    "data.dataset": None,
    "data.image_column": None,
    "data.label_column": None,
    "data.validation_share": None,
    "data.test_share": None,
    "data.split_seed": 0,
}


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; the message names the field, the value and the way out."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, defer_build=True)


Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class DataConfig(_Section):
    """What is learnt. `name` is one of the table in `cpcnn_core/sources.py`; `image_size`, `channels` and `quantize`
    default to what the table says of it, or to what the images are.

    `dataset` is which one of a collection. `image_column` and `label_column` name what images and classes are called in
    a table. `validation_share` and `test_share` are the shares that are cut off where the data has no such split, by
    `split_seed`. A data set that does not read one of these refuses it.

    `quantize` rounds the pixels of resized images to the 256 levels. It is off for cpen455, whose course trains and
    grades on what resizing gives. `digest` stands for the data's content (`Dataset.digest`);
    where it is given, other data is refused.
    """

    name: str = "digits"
    root: str | None = None
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    image_size: Annotated[int, Field(ge=4, multiple_of=4)] | None = None
    channels: Literal[1, 3] | None = None
    train_fraction: Fraction = 1.0
    quantize: bool | None = None
    dataset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    test_share: Probability | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("name")
    @classmethod
    def _name_is_in_the_table(cls, name: str) -> str:
        if name not in SOURCES:
            raise ValueError(f"data.name: {name!r} is no data set{nearest(name, SOURCES)}")
        return name

    @model_validator(mode="after")
    def _quantize_as_the_data_set_does(self) -> Self:
        if self.quantize is None:
            object.__setattr__(self, "quantize", SOURCES[self.name].quantize)
        return self

    @model_validator(mode="after")
    def _root_where_needed(self) -> Self:
        needed = SOURCES[self.name].root
        if needed is not None and self.root is None:
            raise ValueError(f"data.root: {self.name} needs {needed}; give --set data.root=PATH")
        return self

    @model_validator(mode="after")
    def _nothing_that_is_not_read(self) -> Self:
        source = SOURCES[self.name]
        for field in sorted(OPTIONAL - source.reads - ({"root"} if source.root else set())):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                readers = [
                    name for name, other in SOURCES.items() if field in other.reads or (field == "root" and other.root)
                ]
                raise ValueError(
                    f"data.{field}: {value!r} has no meaning for {self.name}, which does not read it; drop it"
                    + (f", or choose data.name={', '.join(readers)}" if readers else "")
                )
        return self

    @property
    def size(self) -> int | None:
        """Height and width that images are resized to; None: they stay as they are."""
        return self.image_size or SOURCES[self.name].image_size

    @property
    def nr_channels(self) -> Literal[1, 3] | None:
        """1: grey, 3: colour; None: as the images are."""
        return self.channels or SOURCES[self.name].channels

    @property
    def title(self) -> str:
        """What a reader knows the data by."""
        return title(self.name, self.dataset, self.root)


class ModelConfig(_Section):
    """The network of Salimans et al. 2017, and where and how the class label enters it."""

    fusion: str = "none"
    fusion_options: FusionOptions = Field(default_factory=dict)
    label_encoding: Literal["one_hot", "embedding", "sinusoidal"] = "one_hot"
    label_dim: Positive | None = None
    nr_resnet: Positive = 1
    nr_filters: Positive = 40
    nr_logistic_mix: Positive = 5
    dropout: Probability = 0.5
    dropout_kind: Literal["channel", "element"] = "channel"
    norm: Literal["none", "channel"] = "none"

    @model_validator(mode="after")
    def _fusion_exists(self) -> Self:
        # Imported here: it takes torch, and readers of results, who validate nothing, do without.
        from cpcnn_core.fusion import FusionError, options_of

        try:
            options = options_of(self.fusion, self.fusion_options)
        except FusionError as error:
            raise ValueError(str(error)) from None
        # As the variant declares them, or 16 and the 16.0 of a table's column would be two trials.
        typed = {
            variant: {option: getattr(options[variant], option) for option in given}
            for variant, given in self.fusion_options.items()
        }
        object.__setattr__(self, "fusion_options", typed)
        for variant, chosen in options.items():
            self._check_depth(variant, chosen)
        if self.label_encoding == "one_hot" and self.label_dim is not None:
            raise ValueError(
                f"model.label_dim: {self.label_dim} has no meaning for one_hot, whose size is the number of classes; "
                "drop it or choose label_encoding=embedding"
            )
        if self.label_encoding == "sinusoidal" and self.label_dim is not None and self.label_dim % 2:
            raise ValueError(f"model.label_dim: {self.label_dim} must be even for sinusoidal (sine and cosine pairs)")
        return self

    def _check_depth(self, variant: str, options: object) -> None:
        """Raise ValueError where a variant's options leave no block of the network that a label would enter."""
        from cpcnn_core.fusion.base import DepthOptions, blocks

        if not isinstance(options, DepthOptions):
            return
        if not any(options.includes(block) for _, block in blocks(self.nr_resnet)):
            said = ", ".join(f"{name}={value}" for name, value in self.fusion_options[variant].items())
            raise ValueError(
                f"model.fusion_options.{variant}: {said} leave no block of a network with model.nr_resnet "
                f"{self.nr_resnet}; lower `every`, or choose more `passes` or `levels`"
            )

    @property
    def fusion_names(self) -> tuple[str, ...]:
        from cpcnn_core.fusion import parse_name

        return parse_name(self.fusion)


class TrainConfig(_Section):
    """How it is learnt. `batch_size` is the global one: all processes, all accumulated micro-batches.

    `class_loss_others` is how many classes the class loss sees beside the true one, drawn anew for each image and step;
    where it is not given, all of them.
    `graph` takes each step as one CUDA graph on a GPU, which changes no result. `deterministic` takes kernels that give
    the same bits in each run, where a GPU's fastest ones do not.
    `keep_every` keeps the weights of every so-manieth epoch, and `keep_most` bounds how many are kept beside the best
    ones and the last; neither changes any result.
    `save_every_seconds` is how much time of an epoch a kill may cost, 0 for none of it; it changes no result either.
    `adam_eps` is Adam's eps for the gradient of a sum of nats over the batch, as starter code and papers have it.
    """

    epochs: Positive = 10
    batch_size: Positive = 32
    accumulate: Positive = 1
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-8
    weight_decay: NonNegative = 0.0
    schedule: Literal["constant", "exponential", "linear", "cosine"] = "constant"
    lr_gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.999995
    lr_floor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    warmup_epochs: NonNegative = 0.0
    grad_clip: Annotated[float, Field(gt=0.0)] | None = 1.0
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    label_dropout: Probability = 0.0
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    graph: bool = True
    deterministic: bool = False
    class_loss_weight: NonNegative = 0.0
    class_temperature: Annotated[float, Field(gt=0.0)] = 1.0
    class_loss_others: Positive | None = None
    data_dependent_init: bool = False
    keep_every: Positive | None = None
    keep_most: Annotated[int, Field(ge=0)] = 10
    save_every_seconds: NonNegative = 600.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"train.accumulate: {self.accumulate} does not divide train.batch_size {self.batch_size}; "
                "the global batch is cut into that many equal micro-batches"
            )
        if self.weight_decay > 0 and self.optimizer == "adam":
            raise ValueError(
                f"train.weight_decay: {self.weight_decay} needs train.optimizer=adamw (adam has no decoupled decay)"
            )
        if self.class_loss_others is not None and self.class_loss_weight == 0:
            raise ValueError(
                f"train.class_loss_others: {self.class_loss_others} has no meaning without a class loss; set "
                "train.class_loss_weight, or drop it"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"train.warmup_epochs: {self.warmup_epochs} is longer than train.epochs {self.epochs}")
        return self


class EvalConfig(_Section):
    """What is measured after every `every`-th epoch and the last, and by FID and KID after every `fid_every`-th and the
    last; 0 is never.

    `max_images` bounds how many images of a split are scored, the same ones each time (`evaluate.scored`); where it is
    not given, all are. `fid_weights` is a file of Inception's weights, for a machine that cannot download them.
    """

    every: Positive = 1
    max_images: Positive | None = None
    batch_size: Positive = 128
    train_images: Annotated[int, Field(ge=0)] = 512
    prior: Literal["uniform", "empirical"] = "uniform"
    precision: Literal["fp32", "bf16"] = "fp32"
    fid_every: Annotated[int, Field(ge=0)] = 0
    fid_images_per_class: Annotated[int, Field(ge=2)] = 25
    fid_extractor: Literal["auto", "inception-192", "inception-2048", "classifier"] = "auto"
    fid_weights: str | None = None
    fid_reference: Literal["train", "validation", "test", "test_files"] = "validation"
    fid_extrapolate: bool = False

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        if self.fid_weights is not None and self.fid_extractor == "classifier":
            raise ValueError("eval.fid_weights: are Inception's, which eval.fid_extractor=classifier does not use")
        if self.fid_reference == "test_files" and self.fid_extractor == "classifier":
            raise ValueError(
                "eval.fid_reference: test_files are compared at their own size, which eval.fid_extractor=classifier "
                "does not know; choose test, or an Inception"
            )
        return self

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether images are scored after this epoch of so many: after every `every`-th, and after the last."""
        return epoch % self.every == 0 or epoch == epochs

    def fid_is_due(self, epoch: int, epochs: int) -> bool:
        """Whether images are drawn and measured after this epoch of so many."""
        return self.fid_every > 0 and (epoch % self.fid_every == 0 or epoch == epochs)


TrialId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LineageConfig(_Section):
    """What a trial continues; one from the start has none of it.

    `parent` is the trial whose last weights it began with, and `root` the first one of that line; both are None where
    the weights came from a file. `weights` is the SHA-256 of their values. Epochs and steps are numbered on from
    `epochs_before` and `steps_before`. With `fresh_optimizer` the optimizer's state began anew.
    """

    parent: TrialId | None = None
    root: TrialId | None = None
    weights: Digest | None = None
    epochs_before: Annotated[int, Field(ge=0)] = 0
    steps_before: Annotated[int, Field(ge=0)] = 0
    fresh_optimizer: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.weights is None and self != LineageConfig.model_construct():
            raise ValueError("lineage.weights: a trial that continues another one names the weights it began with")
        if (self.parent is None) != (self.root is None):
            raise ValueError("lineage.root: a trial has a root where it has a parent, and nowhere else")
        return self


class TrialConfig(_Section):
    """One trial: data, model, training, evaluation and the seed that all its generators start from.

    `source` is the SHA-256 of the checkpoint file that an imported trial's weights came from; a trained trial has none.
    `protocol` is the version of how all this becomes numbers.
    """

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    source: Digest | None = None
    lineage: LineageConfig = Field(default_factory=LineageConfig)
    protocol: Annotated[int, Field(ge=1, le=PROTOCOL)] = PROTOCOL

    @model_validator(mode="after")
    def _epochs_beyond_those_before(self) -> Self:
        before, epochs = self.lineage.epochs_before, self.train.epochs
        if before >= epochs:
            raise ValueError(f"train.epochs: {epochs} is the total, and {before} of them were trained before")
        return self

    @property
    def continues(self) -> bool:
        """Whether it goes on from weights that another trial, or a file, ended with."""
        return self.lineage.weights is not None

    @classmethod
    def from_flat(cls, settings: Mapping[str, Any]) -> TrialConfig:
        """Build from dotted keys (`{"model.nr_filters": 40}`). Raise one ConfigError that names every bad field."""
        return cls._validated(_nested(settings))

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> TrialConfig:
        """Build from the dotted keys of a row of `trials`. Raise ConfigError.

        A row of protocol 1 does not name its protocol. An earlier release's row has nulls for what a later one added
        where they stand in one table.
        """
        later = SINCE_PROTOCOL_2 | ADDED.keys() | KEEPING | SPEED | SAVING
        given = {key: value for key, value in settings.items() if value is not None or key not in later}
        return cls.from_tree(_nested(given))

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> TrialConfig:
        """Build from nested dictionaries, as weights and `config.json` hold them. Raise ConfigError."""
        return cls._validated({"protocol": 1, **tree, "data": _without_unread_root(tree.get("data", {}))})

    @classmethod
    def _validated(cls, tree: Mapping[str, Any]) -> TrialConfig:
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError("\n".join(mistakes(error, field_names()))) from None

    def flat(self) -> dict[str, Scalar]:
        """Every setting under its dotted name, in declaration order; fusion options only where given."""
        return dict(_flatten("", self.model_dump(mode="json")))

    @property
    def trial_id(self) -> str:
        """12 hex digits: SHA-256 of the canonical JSON of every setting that can change a result."""
        flat = self.flat()
        ignored = not_identifying(flat) if self.protocol > 1 else NOT_IDENTIFYING | SINCE_PROTOCOL_2
        canonical = {
            key: value
            for key, value in flat.items()
            if key not in ignored and not (key in ADDED and value == ADDED[key])
        }
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:12]

    def with_settings(self, settings: Mapping[str, Any]) -> TrialConfig:
        """A copy with some dotted keys changed, validated anew."""
        return TrialConfig.from_flat({**self.flat(), **settings})

    def check_protocol(self) -> None:
        """Raise ConfigError where training this would go by another protocol than the configuration names."""
        if self.protocol != PROTOCOL:
            raise ConfigError(
                f"protocol: this was recorded under protocol {self.protocol}, and this release trains by protocol "
                f"{PROTOCOL}, which gives other numbers. Reading, choosing and exporting work here; training, "
                "continuing and replaying need the release that recorded it, whose commit its rows hold as git_commit"
            )


def not_identifying(settings: Mapping[str, Any]) -> frozenset[str]:
    """What two runs of the trial with these settings may differ in."""
    return NOT_IDENTIFYING if settings.get("data.digest") is None else NOT_IDENTIFYING | READING


def _without_unread_root(data: Any) -> Any:  # whatever a file holds: validation says what is wrong with it
    """Settings of data without a `root` that its data set does not read: earlier releases took one, and ignored it."""
    source = SOURCES.get(str(data.get("name"))) if isinstance(data, Mapping) else None
    if source is None or source.root is not None or "root" in source.reads:
        return data
    return {name: value for name, value in data.items() if name != "root"}


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dictionaries. Raise ConfigError for one that is no field."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        check_field(key)
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def field_names() -> tuple[str, ...]:
    """The dotted name of every field, fusion options apart (they depend on the fusion)."""
    names = []
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += [f"{section}.{field}" for field in info.annotation.model_fields if field != "fusion_options"]
        else:
            names.append(section)
    return tuple(names)


def field_defaults(data_name: str) -> dict[str, Scalar]:
    """What each field is that nobody set, in a trial of this data set; told without building a configuration, which
    takes torch.
    """
    defaults: dict[str, Scalar] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            fields = info.annotation.model_fields.items()
            defaults |= {f"{section}.{field}": held.default for field, held in fields if field != "fusion_options"}
        else:
            defaults[section] = info.default
    source = SOURCES.get(data_name)  # of a record that another release wrote, perhaps none
    return defaults | {"data.name": data_name, "data.quantize": None if source is None else source.quantize}


def check_field(key: str) -> None:
    """Raise ConfigError, with the nearest name, where `key` is no field. Fusion options are checked with the fusion."""
    if key in field_names():
        return
    if key.startswith("model.fusion_options.") and key.count(".") == 3:
        return
    raise ConfigError(f"{key}: no such field{nearest(key, field_names())}")


def _flatten(prefix: str, tree: Mapping[str, Any]) -> Iterable[tuple[str, Scalar]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(f"{name}.", value)
        else:
            yield name, value
