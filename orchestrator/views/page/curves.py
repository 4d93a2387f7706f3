"""Learning curves: bits per dimension, accuracy, FID; and what tells that a network goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from cpcnn_core import alarms
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.store import as_number
from orchestrator.text.formatting import measured
from orchestrator.views.page import palette
from orchestrator.views.page.blocks import Block, Paragraph
from orchestrator.views.page.figures import Axis, Trace, figure, is_wide, numbers, points
from orchestrator.views.page.subject import NAMED, Subject


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
    return [*blocks, *stages, *_classes(drawn)]


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
    return _by_column(
        drawn,
        prefix,
        "stages",
        "Gradient norm by stage of the network",
        "norm, the largest of the epoch",
        "Of the best trial that has them. A stage whose norm is far below the others learns little.",
    )


def _classes(drawn: Sequence[Entry]) -> list[Block]:
    """FID and accuracy of each class, of the best trial that has them; all classes of all trials are a tangle."""
    return [
        *_by_column(drawn, "val_acc.", "class-accuracy", "Accuracy of each class", "share of images (more is better)",
                    "On the validation images of the class, of the best trial that has it."),
        *_by_column(drawn, "fid.", "class-fid", "FID of each class", "FID (less is better)",
                    "Of the drawn images of the class, of the best trial that has it. Classes have few images: compare "
                    "a class with itself over the epochs."),
        *_by_column(drawn, "class_distance.", "class-distances", "Distance of each pair of classes",
                    "distance of modulations", "How differently the fusion treats two classes, of the best trial that "
                    "has it: 0 where it cannot tell them apart."),
    ]  # fmt: skip


def _by_column(
    drawn: Sequence[Entry],
    prefix: str,
    name: str,
    title: str,
    unit: str,
    reading: str,
) -> list[Block]:
    for entry in drawn:
        columns = _columns(entry, prefix)
        if not columns:
            continue
        traces = []
        for column, (color, symbol) in palette.of_kinds(columns).items():
            rows = [row for row in entry.epochs if row.get(column) is not None]
            x, y = [row["epoch"] for row in rows], [row[column] for row in rows]
            traces.append(
                points(x, y, [entry] * len(rows), column.removeprefix(prefix), color=color, symbol=symbol,
                       mode="lines+markers")
            )  # fmt: skip
        values = numbers(traces, "y")
        return [
            figure(
                f"curve-{name}",
                title,
                traces,
                Axis("epoch", whole=True),
                Axis(unit, logarithmic=is_wide(values)),
                caption=reading,
                alternative=f"{title} by epoch, {len(columns)} lines, of trial {entry.trial_id}.",
            )
        ]
    return []


def _columns(entry: Entry, prefix: str) -> list[str]:
    """The columns of one kind that the trial has, those apart that sum others up."""
    names = {name for row in entry.epochs for name, value in row.items() if value is not None}
    return sorted(name for name in names if name.startswith(prefix) and not name.endswith((".mean", ".min")))


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
