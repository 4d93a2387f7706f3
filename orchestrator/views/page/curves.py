"""Learning curves: bits per dimension, accuracy, FID; and what tells that a network goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from cpcnn_core import alarms
from cpcnn_core.class_names import class_in, pair_in, shortened
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.store import as_number
from orchestrator.text.formatting import measured
from orchestrator.views.page import palette
from orchestrator.views.page.blocks import Block, Paragraph
from orchestrator.views.page.figures import Axis, Trace, figure, is_wide, numbers, points
from orchestrator.views.page.subject import NAMED, Subject

_MOST_LINES = 16  # in one figure
_LONGEST = 40  # characters of a line's name


@dataclass(frozen=True)
class Curve:
    """A figure of one column by epoch, and perhaps of another one, dotted, on the same scale."""

    id: str
    title: str
    unit: str
    column: str
    dotted: str | None = None
    dotted_is: str = ""
    reading: str = ""


_LEARNING = (
    Curve("bpd", "Bits per dimension", "bits per sub-pixel (less is better)", "val_bpd", "train_bpd", "training, with "
          "dropout", "Where the solid line turns up and the dotted one does not, the network overfits."),
    Curve("accuracy", "Accuracy", "share of images (more is better)", "val_acc", "train_acc",
          "some training images, without dropout"),
    Curve("fid", "FID", "FID (less is better)", "fid", reading="Compare only trials that were measured alike."),
)  # fmt: skip
_HEALTH = (
    Curve("gradients", "Gradient norm", "norm, the largest of the epoch", "grad_norm",
          reading="Before clipping. A norm that grows from epoch to epoch comes before a network diverges."),
    Curve("activations", "Largest activation", "absolute value", "activation_max",
          reading=f"Above {alarms.LARGE_ACTIVATION:g} a network is about to diverge."),
    Curve("gates", "Saturated gates", "share of gates", "gate_saturation",
          reading=f"Gates that let through less than .01 or more than .99; above {alarms.STUCK_GATES:g} few learn."),
    Curve("saturation", "Saturated samples", "share of drawn sub-pixels", "sample_saturation",
          "sample_saturation_validation", "the validation images", "Sub-pixels that are 0 or 255. A solid line far "
          "above the dotted one tells of a network that blows up."),
    Curve("memorisation", "Memorisation", "distance between features", "nearest_train", "nearest_train_validation",
          "the validation images", "The median distance of drawn images to the nearest training image. A solid line "
          f"below {alarms.RECITES:g} of the dotted one tells of a network that recites its training images."),
    Curve("class-distance", "How far apart the classes are for the network", "distance of modulations",
          "class_distance.min", "class_distance.mean", "the mean of all pairs of classes", "Of the two classes that "
          "the fusion treats most alike: 0 where it cannot tell them apart. A solid line far below the dotted one: two "
          "classes are much more alike than the others."),
)  # fmt: skip
_OF_FUSION = (
    "What the fusion tells of itself, over all its sites. A FiLM begins with gamma 1 and beta 0 for every class; the "
    "spread over classes and channels (std) says how much it makes of them. One that stays at 0 is not used."
)


def learning(subject: Subject) -> list[Block]:
    """Training and validation of the best trials."""
    return _drawn(subject, _LEARNING) or [Paragraph("No trial has the metric yet.")]


def health(subject: Subject) -> list[Block]:
    """What was measured of the networks themselves, warnings first."""
    warnings = [
        f"{entry.trial_id}, epoch {entry.epochs[-1]['epoch']}: {sentence}"
        for entry in ranking.sound(subject.entries)
        if entry.epochs
        for sentence in alarms.of_epoch(entry.epochs[-1])
    ]
    blocks: list[Block] = [Paragraph(f"Warning: {warning}.") for warning in warnings[-NAMED:]]
    if not warnings:
        blocks.append(Paragraph("No trial's last epoch gives a warning."))
    drawn = subject.ranked[:NAMED]
    stages = _stages(drawn)
    own = [
        Curve(f"own-{name.replace('.', '-')}", name, name, name, reading=_reading(name)) for name in _of_fusions(drawn)
    ]
    blocks += _drawn(subject, (*_HEALTH, *own))
    return [*blocks, *stages, *_classes(subject, drawn)]


def _drawn(subject: Subject, curves: Sequence[Curve]) -> list[Block]:
    drawn = subject.ranked[:NAMED]
    names = [subject.name(entry) for entry in drawn]
    found: list[Block] = []
    for curve in curves:
        traces = [
            trace
            for at, (entry, name) in enumerate(zip(drawn, names, strict=True))
            for trace in _of_trial(entry, name, curve, palette.SERIES[at])
        ]
        if not traces:
            continue
        values = numbers(traces, "y")
        dotted = len(traces) > len({trace["name"] for trace in traces})  # each trial has two lines
        caption = f"The best {len(drawn)} trials, each in its colour, named by the settings that tell them apart. "
        caption += f"Dotted: {curve.dotted_is}. " if dotted else ""
        last = next((as_number(row.get(curve.column)) for row in reversed(drawn[0].epochs)), None)
        found.append(
            figure(
                f"curve-{curve.id}",
                curve.title,
                traces,
                Axis("epoch", whole=True),
                Axis(curve.unit, logarithmic=is_wide(values)),
                caption=caption + curve.reading,
                alternative=f"{curve.title} by epoch of {len(drawn)} trials; the best trial, {names[0]}, ends at "
                f"{measured(last)}.",
            )
        )
    return found


def _of_trial(entry: Entry, name: str, curve: Curve, color: str) -> list[Trace]:
    made: list[Trace] = []
    for column, dash in ((curve.column, "solid"), (curve.dotted, "dot")):
        rows = [] if column is None else [row for row in entry.epochs if row.get(column) is not None]
        if rows:
            x, y = [row["epoch"] for row in rows], [row[str(column)] for row in rows]
            shown = dash == "solid" or not made
            made.append(
                points(x, y, [entry] * len(rows), name, color=color, dash=dash, mode="lines+markers", legendgroup=name,
                       showlegend=shown, texts=[name] * len(rows), size=6)
            )  # fmt: skip
    return made


def _stages(drawn: Sequence[Entry]) -> list[Block]:
    """The gradient norm of each stage of the network, of the best trial that has them."""
    prefix = "grad_norm."
    lines = Lines(
        "stages",
        "Gradient norm by stage of the network",
        "norm, the largest of the epoch",
        "Of the best trial that has them. A stage whose norm is far below the others learns little.",
        lambda column: column.removeprefix(prefix) if column.startswith(prefix) else None,
    )
    return _by_column(drawn, lines)


def _classes(subject: Subject, drawn: Sequence[Entry]) -> list[Block]:
    """FID and accuracy of each class, of the best trial that has them; all classes of all trials are a tangle."""
    names = subject.class_names

    def of(metric: str) -> Callable[[str], str | None]:
        return lambda column: found[1] if (found := class_in(column)) is not None and found[0] == metric else None

    kinds = (
        Lines("class-accuracy", "Accuracy of each class", "share of images (more is better)",
              "On the validation images of the class, of the best trial that has it.", of("val_acc"), more_is="better"),
        Lines("class-fid", "FID of each class", "FID (less is better)",
              "Of the drawn images of the class, of the best trial that has it. Classes have few images: compare "
              "a class with itself over the epochs.", of("fid"), more_is="worse"),
        Lines("class-distances", "Distance of each pair of classes", "distance of modulations",
              "How differently the fusion treats two classes, of the best trial that has it: 0 where it cannot tell "
              "them apart.", lambda column: pair_in(column, names)),
    )  # fmt: skip
    return [block for kind in kinds for block in _by_column(drawn, kind, names)]


@dataclass(frozen=True)
class Lines:
    """A figure by epoch of all columns of one kind."""

    id: str
    title: str
    unit: str
    reading: str
    name_of: Callable[[str], str | None]  # what a column's line is called; None of a column of another kind
    more_is: Literal["better", "worse"] = "better"


def _by_column(drawn: Sequence[Entry], lines: Lines, class_names: Sequence[str] = ()) -> list[Block]:
    for entry in drawn:
        columns = _columns(entry, lines, class_names)
        if not columns:
            continue
        shown, told = columns, lines.reading
        if len(columns) > _MOST_LINES:
            shown = _worst(entry, columns, lines)
            told += f" Of {len(columns)} lines those {len(shown)} are shown that end worst."
        traces = []
        for column, (color, symbol) in palette.of_kinds(list(shown)).items():
            rows = [row for row in entry.epochs if row.get(column) is not None]
            x, y = [row["epoch"] for row in rows], [row[column] for row in rows]
            name = shortened(shown[column], _LONGEST)
            traces.append(
                points(x, y, [entry] * len(rows), name, color=color, symbol=symbol, mode="lines+markers",
                       texts=[name] * len(rows))
            )  # fmt: skip
        values = numbers(traces, "y")
        return [
            figure(
                f"curve-{lines.id}",
                lines.title,
                traces,
                Axis("epoch", whole=True),
                Axis(lines.unit, logarithmic=is_wide(values)),
                caption=told,
                alternative=f"{lines.title} by epoch, {len(shown)} lines, of trial {entry.trial_id}.",
            )
        ]
    return []


def _columns(entry: Entry, lines: Lines, class_names: Sequence[str]) -> dict[str, str]:
    """The columns of one kind that the trial has, by what their lines are called, classes in their order."""
    names = {name for row in entry.epochs for name, value in row.items() if value is not None}
    found = {column: name for column in names if (name := lines.name_of(column)) is not None}
    place = {name: at for at, name in enumerate(class_names)}
    return dict(sorted(found.items(), key=lambda item: (place.get(item[1], len(place)), item[0])))


def _worst(entry: Entry, columns: Mapping[str, str], lines: Lines) -> dict[str, str]:
    """Those of the columns that end worst, in their order."""
    last: dict[str, float] = {}
    for row in entry.epochs:
        last |= {column: value for column in columns if (value := as_number(row.get(column))) is not None}
    ranked = sorted(last, key=last.__getitem__, reverse=lines.more_is == "worse")[:_MOST_LINES]
    return {column: name for column, name in columns.items() if column in ranked}


def _of_fusions(drawn: Sequence[Entry]) -> list[str]:
    """The columns in which fusions tell of themselves, as FiLM of its gamma and beta; not those of each block."""
    columns = dict.fromkeys(
        name for entry in drawn for row in entry.epochs for name, value in row.items() if isinstance(value, float)
    )
    known = {field.name for field in fields(EpochMetrics)}
    apart = ("val_acc.", "fid.", "class_distance.", "grad_norm.")
    return [name for name in columns if name not in known and not name.startswith(apart) and not _is_of_block(name)]


def _reading(name: str) -> str:
    return _OF_FUSION if name.startswith("fusion.") else "A metric of your own, which the program shows as it is."


def _is_of_block(name: str) -> bool:
    return name.startswith("fusion.") and name.count(".") > 2
