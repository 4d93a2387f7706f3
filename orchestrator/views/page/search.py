"""What the search found: the metric by fusion and by each setting, how it progressed, and accuracy against FID."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpcnn_core.config import Scalar
from cpcnn_core.metrics import FidProtocol, fid_protocol_of
from orchestrator.objectives.objective import pareto_front
from orchestrator.records.data_kinds import Data, data_of
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, as_number
from orchestrator.text.formatting import interval, measured, plain
from orchestrator.views.page import naming, palette
from orchestrator.views.page.answer import metric_in_words
from orchestrator.views.page.blocks import Block, Figure, Paragraph
from orchestrator.views.page.figures import HEIGHT, Axis, Trace, figure, is_wide, points
from orchestrator.views.page.subject import Subject

_LEADS = "A click on a point leads to its trial in the table below."
_FEWEST = 4  # trials of which a share of variance is told


def by_fusion(subject: Subject) -> list[Block]:
    """The metric by fusion: every trial a point, the best fusion first."""
    trials = subject.ranked
    fusions = list(dict.fromkeys(str(entry.trial[naming.FUSION]) for entry in trials))
    if len(fusions) < 2:
        return [Paragraph("All trials have one fusion." if fusions else "No trial has the metric yet.")]
    looks = _looks(subject)
    traces = []
    for fusion in fusions:
        of = [entry for entry in trials if str(entry.trial[naming.FUSION]) == fusion]
        values = [subject.value(entry) for entry in of]
        color, symbol = looks[fusion]
        texts = [naming.in_words(subject.varied_settings(entry), subject.varied) for entry in of]
        traces.append(
            points(values, [fusion] * len(of), of, fusion, color=color, symbol=symbol, texts=texts, showlegend=False)
        )
    traces += _intervals(subject, fusions)
    best = subject.value(trials[0])
    metric = subject.objective.metric
    return [
        figure(
            "by-fusion",
            f"{metric} by fusion",
            traces,
            Axis(metric_in_words(subject.objective)),
            Axis("", categories=list(reversed(fusions))),
            caption=f"Each point is the best epoch of a trial; the best fusion is on top. The bar is the 95% interval "
            f"of the fusion's best trial: where its value would lie on other validation images. {_LEADS}",
            alternative=f"{metric} of {len(trials)} trials by fusion, best first: {', '.join(fusions)}. "
            f"The best value is {measured(best)}.",
            height=120 + 44 * len(fusions),
        )
    ]


def _looks(subject: Subject) -> dict[str, tuple[str, str]]:
    """One colour for each fusion in all figures."""
    return palette.of_kinds(sorted({str(entry.trial[naming.FUSION]) for entry in subject.entries}))


def _intervals(subject: Subject, fusions: Sequence[str]) -> list[Trace]:
    """A bar for the best trial of each fusion, where it is known how sure the values are."""
    found = {}
    for one in subject.standings:
        fusion = str(one.settings.get(naming.FUSION))
        if one.interval is not None and fusion in fusions and fusion not in found:
            found[fusion] = one
    looks = _looks(subject)
    return [
        {
            "type": "scatter",
            "x": [one.value],
            "y": [fusion],
            "mode": "markers",
            "marker": {"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": looks[fusion][0]}},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, bounds[1] - one.value)],
                "arrayminus": [max(0.0, one.value - bounds[0])],
                "color": looks[fusion][0],
                "thickness": 2,
                "width": 6,
            },
            "text": [f"{one.trial_id}: {measured(one.value)}, 95% interval {interval(*bounds)}"],
            "hovertemplate": "%{text}<extra></extra>",
            "customdata": [one.trial_id],
            "showlegend": False,
        }
        for fusion, one in found.items()
        if (bounds := one.interval) is not None
    ]


# ------------------------------------------------------------------------------------------------------- by setting


def by_setting(subject: Subject) -> list[Block]:
    """The metric by each other setting that varied, those first with which more of the variance goes."""
    trials = subject.ranked
    fields = [field for field in subject.varied if field != naming.FUSION and not field.startswith("lineage.")]
    fields = [field for field in fields if len({repr(entry.trial.get(field)) for entry in trials}) > 1]
    if not fields or len(trials) < 2:
        return [Paragraph("No other setting varied.")]
    values = np.array([subject.value(entry) for entry in trials], float)
    shares = {field: explained([entry.settings().get(field) for entry in trials], values) for field in fields}
    fields.sort(key=lambda field: -(shares[field] or 0.0))
    room = (values.max() - values.min() or 1.0) * 0.06
    span = (float(values.min() - room), float(values.max() + room))
    return [_of_setting(subject, trials, field, shares[field], span) for field in fields]


def _of_setting(
    subject: Subject, trials: Sequence[Entry], field: str, share: float | None, span: tuple[float, float]
) -> Figure:
    given = [entry.settings().get(field) for entry in trials]
    numbers = [value for value in given if isinstance(value, int | float) and is_number(value)]
    looks = _looks(subject)
    metric = subject.objective.metric
    if len(numbers) == len(given):
        axis = Axis(field, whole=all(isinstance(each, int) for each in numbers), logarithmic=is_wide(numbers))
        x: list[object] = list(numbers)
    else:
        names = list(map(plain, given))
        axis, x = Axis(field, categories=sorted(set(names))), list(names)
    traces = []
    fusions = [str(entry.trial[naming.FUSION]) for entry in trials]
    for fusion in dict.fromkeys(fusions):
        rows = [at for at, each in enumerate(fusions) if each == fusion]
        color, symbol = looks[fusion]
        of = [trials[at] for at in rows]
        traces.append(
            points(
                [x[at] for at in rows], [subject.value(entry) for entry in of], of, fusion, color=color, symbol=symbol
            )
        )
    told = (
        "" if share is None else f" {share:.0%} of the variance of {metric} over trials goes with this setting alone."
    )
    return figure(
        f"by-{field.replace('.', '-').replace('_', '-')}",
        f"{metric} by {naming.short(field)}",
        traces,
        axis,
        Axis(metric_in_words(subject.objective), span=span),
        caption=f"Each point is the best epoch of a trial.{told} Few trials say little about a setting.",
        alternative=f"{metric} of {len(trials)} trials by {field}.{told}",
        height=300,
    )


def is_number(value: Scalar) -> bool:
    """Whether a setting is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def explained(given: Sequence[Scalar], values: NDArray[np.float64]) -> float | None:
    """The share of the variance that goes with a setting alone, corrected for the number of its values.

    This is adjusted eta squared. Where a number has many values, they are grouped into its lower, middle and upper
    third. None where there are too few trials to say.
    """
    groups = list(map(str, given))
    if all(map(is_number, given)) and len(set(given)) > 3:
        as_numbers = np.array(given, float)
        groups = list(map(str, np.digitize(as_numbers, np.quantile(as_numbers, [1 / 3, 2 / 3]))))
    kinds = sorted(set(groups))
    if len(values) < _FEWEST or len(kinds) >= len(values) or values.std() == 0:
        return None
    within = sum(
        float(np.square(of - of.mean()).sum()) for kind in kinds for of in [values[[group == kind for group in groups]]]
    )
    n, total = len(values), float(np.square(values - values.mean()).sum())
    return max(0.0, 1 - (within / (n - len(kinds))) / (total / (n - 1)))


# --------------------------------------------------------------------------------------------------------- progress


def progress(subject: Subject) -> list[Block]:
    """The best value so far, trial by trial."""
    numbered = list(enumerate(subject.entries, start=1))
    found = [(at, entry, value) for at, entry in numbered if (value := subject.value(entry)) is not None]
    if not found:
        return [Paragraph("No trial has the metric yet.")]
    counted = [(at, value) for at, entry, value in found if not entry.meaning.failed]
    best = np.array([value for _, value in counted])
    running = np.maximum.accumulate(best) if subject.objective.direction == "max" else np.minimum.accumulate(best)
    entries = [entry for _, entry, _ in found]
    texts = [naming.in_words(subject.varied_settings(entry), subject.varied) for entry in entries]
    metric = subject.objective.metric
    traces: list[Trace] = [
        points([at for at, _, _ in found], [value for _, _, value in found], entries, "trials", color=palette.GREY,
               texts=texts),
        {"type": "scatter",
            "x": [at for at, _ in counted],
            "y": running.tolist(),
            "mode": "lines",
            "line": {"shape": "hv", "color": palette.SERIES[0], "width": 2},
            "name": "best so far",
            "hoverinfo": "skip",
        },
    ]  # fmt: skip
    last = counted[-1][1] if counted else None
    return [
        figure(
            "best-so-far",
            "The best value so far",
            traces,
            Axis("trial, in order of start", whole=True),
            Axis(metric_in_words(subject.objective)),
            caption="Each point is the best epoch of a trial. The line is the best value up to there: where it has "
            f"been flat for long, more trials of this space may bring little. {_LEADS}",
            alternative=f"Best {metric} of each of {len(found)} trials in order of start; the last one has "
            f"{measured(last)}, the best so far is {measured(float(running[-1])) if len(running) else '-'}.",
        )
    ]


# ------------------------------------------------------------------------------------------------- accuracy and FID


def trade_off(subject: Subject) -> list[Block]:
    """Accuracy against FID, one figure for each way in which FID was measured."""
    rows = [
        (entry, epoch)
        for entry in subject.entries
        for epoch in entry.epochs
        if epoch.get("fid") is not None and epoch.get("val_acc") is not None
    ]
    if not rows:
        return [Paragraph("No epoch has a FID: eval.fid_every was 0, or it could not be measured.")]
    kinds: dict[tuple[FidProtocol, Data], list[tuple[Entry, Row]]] = {}
    for entry, epoch in rows:
        kinds.setdefault((fid_protocol_of(epoch), data_of(entry.trial)), []).append((entry, epoch))
    return [_of_protocol(subject, at, key[0], alike) for at, (key, alike) in enumerate(kinds.items())]


def _of_protocol(subject: Subject, at: int, protocol: FidProtocol, alike: Sequence[tuple[Entry, Row]]) -> Figure:
    extractor, images, reference = protocol
    ordered = sorted(alike, key=lambda row: (fid_and_accuracy(row)[0], -fid_and_accuracy(row)[1]))
    sound = [row for row in ordered if not row[0].meaning.failed]
    front = pareto_front(sound, fid_and_accuracy, ("min", "max"))
    looks = _looks(subject)
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": [epoch["fid"] for _, epoch in front],
            "y": [epoch["val_acc"] for _, epoch in front],
            "mode": "lines",
            "line": {"color": palette.GREY, "dash": "dot", "width": 2},
            "name": "Pareto front",
            "hoverinfo": "skip",
        }
    ]
    fusions = [str(entry.trial[naming.FUSION]) for entry, _ in ordered]
    for fusion in dict.fromkeys(fusions):
        of = [row for row, each in zip(ordered, fusions, strict=True) if each == fusion]
        color, symbol = looks[fusion]
        traces.append(
            points(
                [epoch["fid"] for _, epoch in of],
                [epoch["val_acc"] for _, epoch in of],
                [entry for entry, _ in of],
                fusion,
                color=color,
                symbol=symbol,
                texts=[f"epoch {epoch['epoch']}" for _, epoch in of],
            )
        )
    return figure(
        f"trade-off-{at + 1}",
        "Accuracy against FID",
        traces,
        Axis("FID (less is better)", logarithmic=is_wide([fid_and_accuracy(row)[0] for row in ordered])),
        Axis("val_acc (more is better)"),
        caption=f"FID by {extractor} of {images} images against {reference}. Each point is an epoch; better is up and "
        "to the left. No epoch on the dotted line, the Pareto front, is beaten in both at once. "
        f"{_LEADS}",
        alternative=f"{len(ordered)} epochs; the front goes from FID {measured(fid_and_accuracy(front[0])[0])} with "
        f"val_acc {measured(fid_and_accuracy(front[0])[1])} to FID {measured(fid_and_accuracy(front[-1])[0])} with "
        f"val_acc {measured(fid_and_accuracy(front[-1])[1])}."
        if front
        else f"{len(ordered)} epochs.",
        height=HEIGHT + 40,
    )


def fid_and_accuracy(row: tuple[Entry, Row]) -> tuple[float, float]:
    """Both metrics of an epoch that has them."""
    fid, accuracy = (as_number(row[1][name]) for name in ("fid", "val_acc"))
    assert fid is not None
    assert accuracy is not None
    return fid, accuracy
