"""The report's page: figures and tables of one or more sweeps in one HTML file, plotly's code inlined once."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from cpcnn_core import alarms
from cpcnn_core.config import Scalar
from cpcnn_core.files import write_atomically
from cpcnn_core.metrics import EpochMetrics, FidProtocol, fid_protocol_of
from orchestrator.choosing.decision import Decision, sentences
from orchestrator.choosing.selection import Selection
from orchestrator.objectives.objective import Objective, pareto_front
from orchestrator.records import ranking
from orchestrator.records.data_kinds import Data, data_of
from orchestrator.records.provenance import now
from orchestrator.records.ranking import Entry
from orchestrator.records.states import reason_of
from orchestrator.records.store import Row, StoreError, as_number, as_time
from orchestrator.text.formatting import measured, measured_apart, plain
from orchestrator.views import leaderboard
from orchestrator.views.standings import sure_cells, sure_heads

_CURVES = 12  # trials whose learning curves are drawn: more are a tangle
_SHOWN = 25  # trials in the table
_FINALISTS = 3  # whose samples stand side by side
_PICTURES = 4  # epochs of each
_BINS = 15

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 0 12px; color: #1b1b1b; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85em; white-space: nowrap; }
td, th { padding: .2em .7em; text-align: left; border-bottom: 1px solid #eee; } tr.chosen { background: #eaf4ea; }
tr:target { background: #fff3c4; } .plotly-graph-div { max-width: 100%; overflow: hidden; }
img { image-rendering: pixelated; max-width: 100%; }
figure { display: inline-block; margin: 0 12px 12px 0; max-width: 100%; }
figcaption { font-size: .8em; color: #555; }
"""
_CLICKS = """
for (const plot of document.querySelectorAll('.plotly-graph-div')) plot.on('plotly_click', event => {
  const trial = event.points[0].customdata;
  if (trial) { location.hash = ''; location.hash = 'trial-' + trial; }
});
window.addEventListener('load', () => window.dispatchEvent(new Event('resize')));
"""

Section = Callable[[Sequence[Entry], Decision], str]


def write(file: Path, selected: Selection, decision: Decision) -> None:
    """Write the page. A section without anything to show says so. Raise StoreError where it cannot be written."""
    page = _page(selected, decision).encode()
    try:
        write_atomically(file, lambda stream: stream.write(page))
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror}; --out FILE puts it elsewhere") from None


def _page(selected: Selection, decision: Decision) -> str:
    entries, _ = ranking.read(selected.stores)
    if not selected.imports:
        entries = [entry for entry in entries if not entry.is_imported]
    title = _text(", ".join(store.folder.name for store in selected.stores))
    entries.sort(key=lambda entry: as_time(entry.trial["started"]))
    body = [
        f"<h1>{title}</h1>",
        f"<p>{len(entries)} trials, {sum(len(entry.epochs) for entry in entries)} epochs; written {now()}.</p>",
        *([] if selected.sentence is None else [f"<p>{_text(selected.sentence)}</p>"]),
        *(f"<h2>{title}</h2>\n{section(entries, decision)}" for title, section in _SECTIONS),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(body)}<script>{_CLICKS}</script></body></html>"
    )


def _best(_: Sequence[Entry], decision: Decision) -> str:
    shown = decision.standings()[:_SHOWN]
    differing = ranking.differing([one.settings for one in shown])
    head = ["", "sweep", "trial", "epoch", decision.epochs.objective.metric, *sure_heads(decision)]
    values = measured_apart([one.value for one in shown])
    settings = leaderboard.setting_cells([one.settings for one in shown], differing)
    rows = []
    for rank, one in enumerate(shown, start=1):
        cells = [str(rank), one.sweep, one.trial_id, str(one.epoch), values[rank - 1]]
        cells += [*sure_cells(one), *settings[rank - 1]]
        rows.append((f' class="{"chosen" if one.chosen else ""}"', cells))
    text = "".join(f"<p>{_text(line)}</p>" for line in sentences(decision))
    return _table([*head, *(field.rpartition(".")[2] for field in differing)], rows) + text


def _progress(entries: Sequence[Entry], decision: Decision) -> str:
    objective = decision.epochs.objective
    values = [(entry, _value(entry, objective)) for entry in entries]
    found = [(number, entry, value) for number, (entry, value) in enumerate(values, start=1) if value is not None]
    numbers, entries_of, reached = zip(*found, strict=True)
    counted = [(number, value) for number, entry, value in found if not entry.meaning.failed]
    best = np.array([value for _, value in counted])
    running = np.maximum.accumulate(best) if objective.direction == "max" else np.minimum.accumulate(best)
    figure = go.Figure(
        [
            _points(numbers, reached, entries_of, "trials"),
            go.Scatter(
                x=[number for number, _ in counted], y=running, mode="lines", line_shape="hv", name="best so far"
            ),
        ]
    )
    return _figure(figure, "trial, in order of start", f"its best {objective.metric}")


def _pareto(entries: Sequence[Entry], _: Decision) -> str:
    rows = [
        (entry, epoch)
        for entry in entries
        for epoch in entry.epochs
        if epoch.get("fid") is not None and epoch.get("val_acc") is not None
    ]
    if not rows:
        return _nothing("No epoch has a FID: eval.fid_every was 0, or it could not be measured.")
    # Values that were not measured alike, on the same data, never share a figure.
    kinds: dict[tuple[FidProtocol, Data], list[tuple[Entry, Row]]] = {}
    for entry, epoch in rows:
        kinds.setdefault((fid_protocol_of(epoch), data_of(entry.trial)), []).append((entry, epoch))
    parts = []
    for ((extractor, images, reference), _data), alike in kinds.items():
        ordered = sorted(alike, key=lambda row: (_fid_and_accuracy(row)[0], -_fid_and_accuracy(row)[1]))
        sound = [row for row in ordered if not row[0].meaning.failed]
        front = pareto_front(sound, _fid_and_accuracy, ("min", "max"))
        figure = go.Figure()
        shown: tuple[tuple[str, list[tuple[Entry, Row]]], ...]
        shown = (("epochs", ordered), ("Pareto front", front))
        for name, of in shown:
            figure.add_trace(
                _points(
                    [epoch["fid"] for _, epoch in of],
                    [epoch["val_acc"] for _, epoch in of],
                    [entry for entry, _ in of],
                    name,
                    [f"epoch {epoch['epoch']}" for _, epoch in of],
                    lines=name != "epochs",
                )
            )
        parts.append(
            f"<p>FID by {_text(extractor)} of {_text(images)} images against {_text(reference)}. A click on a point "
            f"leads to its trial.</p>{_figure(figure, 'FID (less is better)', 'val_acc')}"
        )
    return "".join(parts)


def _curves(entries: Sequence[Entry], decision: Decision) -> str:
    drawn = ranking.ranked(entries, decision.epochs.objective)[:_CURVES]
    figures: list[tuple[str, tuple[str, ...]]] = [
        ("bits per dimension (dotted: training)", ("train_bpd", "val_bpd")),
        ("accuracy (dotted: training)", ("train_acc", "val_acc")),
        ("FID (compares where measured alike)", ("fid",)),
        (
            "distance of drawn images to the nearest training image (dotted: of validation images)",
            ("nearest_train_validation", "nearest_train"),
        ),
        (
            "share of drawn sub-pixels that are 0 or 255 (dotted: of validation images)",
            ("sample_saturation_validation", "sample_saturation"),
        ),
    ]
    figures += [(name, (name,)) for name in _of_fusions(drawn)]
    parts = [f"<p>The best {len(drawn)} trials. A click on a point leads to its trial.</p>"]
    for title, names in figures:
        figure = go.Figure()
        for color, entry in enumerate(drawn):
            for name, dash in zip(names, ("dot", "solid")[-len(names) :], strict=True):
                _add_curve(figure, entry, name, entry.trial_id, color, dash)
        if len(figure.data):
            parts.append(_figure(figure, "epoch", title))
    return "".join(parts) + _class_fids(drawn)


def _class_fids(drawn: Sequence[Entry]) -> str:
    """A line per class; of one trial, since all classes of all trials are a tangle."""
    for entry in drawn:
        names = sorted({name for row in entry.epochs for name, value in row.items() if _is_class_fid(name, value)})
        figure = go.Figure()
        for color, name in enumerate(names):
            _add_curve(figure, entry, name, name, color, "solid")
        if names:
            caption = f"<p>By class, of {_text(entry.trial_id)}, the best trial that has it.</p>"
            return caption + _figure(figure, "epoch", "FID of a class")
    return ""


def _is_class_fid(name: str, value: object) -> bool:
    return name.startswith("fid.") and value is not None


def _of_fusions(drawn: Sequence[Entry]) -> list[str]:
    """The columns in which fusions tell of themselves, as FiLM of its gamma and beta."""
    columns = dict.fromkeys(
        name for entry in drawn for row in entry.epochs for name, value in row.items() if isinstance(value, float)
    )
    known = {field.name for field in fields(EpochMetrics)}
    return [name for name in columns if name not in known and not name.startswith(("val_acc.", "fid."))]


def _add_curve(figure: go.Figure, entry: Entry, column: str, name: str, color: int, dash: str) -> None:
    points = [(row["epoch"], row[column]) for row in entry.epochs if row.get(column) is not None]
    if points:
        x, y = zip(*points, strict=True)
        trace = _points(x, y, [entry] * len(x), name, lines=True)
        trace.line = {"color": _color(color), "dash": dash}
        trace.update(legendgroup=name, showlegend=trace.name not in {other.name for other in figure.data})
        figure.add_trace(trace)


def _sizes(entries: Sequence[Entry], _: Decision) -> str:
    by_bpd = Objective("val_bpd", "min")
    found = [(entry, value) for entry in ranking.sound(entries) if (value := _value(entry, by_bpd)) is not None]
    parts = []
    for field in ("model.nr_resnet", "model.nr_filters", "model.nr_logistic_mix"):
        x = [entry.trial[field] for entry, _ in found]
        if len(set(x)) < 2:
            parts.append(_nothing(f"{field} was not varied."))
            continue
        figure = go.Figure()
        # A bpd of rounded pixels is no bpd of others.
        rounded = dict.fromkeys(entry.trial.get("data.quantize") for entry, _ in found)
        for kind in rounded:
            alike = [(entry, value) for entry, value in found if entry.trial.get("data.quantize") == kind]
            name = "trials" if len(rounded) == 1 else f"data.quantize={plain(kind)}"
            of_kind = [entry for entry, _ in alike]
            figure.add_trace(
                _points([one.trial[field] for one in of_kind], [value for _, value in alike], of_kind, name)
            )
        parts.append(_figure(figure, field, "best val_bpd"))
    return "".join(parts)


def _importance(entries: Sequence[Entry], decision: Decision) -> str:
    objective = decision.epochs.objective
    sound = ranking.sound(entries)
    found = [(entry.settings(), value) for entry in sound if (value := _value(entry, objective)) is not None]
    fields = ranking.differing([settings for settings, _ in found])
    values = np.array([value for _, value in found])
    if len(values) < 4 or not fields or values.std() == 0:
        return _nothing("Too few trials, or nothing was varied.")
    shares = {field: _explained([settings.get(field) for settings, _ in found], values) for field in fields}
    ordered = sorted(shares, key=lambda field: shares[field])
    figure = go.Figure(go.Bar(x=[shares[field] for field in ordered], y=list(map(_label, ordered)), orientation="h"))
    dimensions = [_dimension(field, [settings.get(field) for settings, _ in found]) for field in fields]
    dimensions.append({"label": _label(objective.metric), "values": values})
    parallel = go.Figure(go.Parcoords(line={"color": values, "colorscale": "Viridis"}, dimensions=dimensions))
    return (
        "<p>The share of the variance over trials that goes with each setting alone, corrected for the number of its "
        "values (adjusted eta squared; numbers in thirds). Few trials say little.</p>"
        + _figure(figure, f"share of the variance of {objective.metric}", "")
        + _figure(parallel, "", "", margin={"l": 60, "r": 60, "t": 60, "b": 20})
    )


def _explained(given: Sequence[Scalar], values: NDArray[np.float64]) -> float:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    groups = list(map(str, given))
    if numbers and len(set(given)) > 3:
        thirds = np.quantile(np.array(given, float), [1 / 3, 2 / 3])
        groups = list(map(str, np.digitize(np.array(given, float), thirds)))
    kinds = sorted(set(groups))
    if len(kinds) >= len(values):
        return 0.0
    within = sum(
        float(np.square(of - of.mean()).sum()) for kind in kinds for of in [values[[group == kind for group in groups]]]
    )
    n, total = len(values), float(np.square(values - values.mean()).sum())
    return max(0.0, 1 - (within / (n - len(kinds))) / (total / (n - 1)))


def _dimension(field: str, given: Sequence[Scalar]) -> dict[str, object]:
    label = _label(field.rpartition(".")[2])
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return {"label": label, "values": given}
    kinds = sorted({str(value) for value in given})
    return {
        "label": label,
        "values": [kinds.index(str(value)) for value in given],
        "tickvals": list(range(len(kinds))),
        "ticktext": list(map(_label, kinds)),
    }


def _confusion(_: Sequence[Entry], decision: Decision) -> str:
    store, trial = decision.epochs.trials[decision.epochs.trial[decision.row]]
    try:
        table = store.predictions_table(str(trial["trial_id"]), decision.epoch)
    except StoreError as error:
        return _nothing(f"{error}.")
    Y = sum(name.startswith("log_p_") for name in table.column_names)
    log_p = np.stack([table[f"log_p_{label}"].to_numpy() for label in range(Y)], axis=1)
    label = table["label"].to_numpy()
    counts = np.zeros((Y, Y), int)
    np.add.at(counts, (label, log_p.argmax(axis=1)), 1)
    names = [str(one) for one in range(Y)]
    heat = go.Figure(go.Heatmap(z=counts, x=names, y=names, text=counts, texttemplate="%{text}", colorscale="Blues"))
    heat.update_yaxes(autorange="reversed")
    posterior = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    confidence = (posterior / posterior.sum(axis=1, keepdims=True)).max(axis=1)
    right = log_p.argmax(axis=1) == label
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    there = [one for one in range(_BINS) if (bins == one).any()]
    calibration = go.Figure(
        [
            go.Scatter(
                x=[confidence[bins == one].mean() for one in there],
                y=[right[bins == one].mean() for one in there],
                mode="markers+lines",
                name="measured",
                text=[f"{int((bins == one).sum())} images" for one in there],
            ),
            go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot"}, name="calibrated"),
        ]
    )
    return (
        f"<p>Epoch {decision.epoch} of {_text(decision.trial_id)}, validation images, uniform prior.</p>"
        + _figure(heat, "predicted class", "true class")
        + _figure(calibration, "confidence", "share classified rightly")
    )


def _samples(entries: Sequence[Entry], decision: Decision) -> str:
    parts = []
    stores = {store.folder.name: store for store in decision.epochs.stores}
    rows = {(entry.store.folder.name, entry.trial_id, row["epoch"]): row for entry in entries for row in entry.epochs}
    for one in decision.standings()[:_FINALISTS]:
        store, trial_id = stores[one.sweep], str(one.trial_id)
        files = sorted(store.samples_folder.glob(f"{trial_id}-*.png"))
        spread = sorted({round(at) for at in np.linspace(0, len(files) - 1, _PICTURES)}) if files else []
        for index in spread:
            content = base64.b64encode(files[index].read_bytes()).decode()
            epoch = int(files[index].stem.rpartition("-")[2])
            measured = rows.get((store.folder.name, trial_id, epoch), {})
            caption = f"{trial_id}, epoch {epoch}, a row per class{_fids(measured)}"
            caption += "".join(f"; {sentence}" for sentence in alarms.of_epoch(measured))
            parts.append(
                f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{content}">'
                f"<figcaption>{_text(caption)}</figcaption></figure>"
            )
    return "".join(parts) or _nothing("No samples were drawn: eval.fid_every was 0.")


def _fid_and_accuracy(row: tuple[Entry, Row]) -> tuple[float, float]:
    fid, accuracy = (as_number(row[1][name]) for name in ("fid", "val_acc"))
    assert fid is not None
    assert accuracy is not None
    return fid, accuracy


def _fids(row: Row) -> str:
    """FID of the images, and of each class's."""
    if row.get("fid") is None:
        return ""
    classes = [measured(as_number(value), 1) for name, value in sorted(row.items()) if _is_class_fid(name, value)]
    text = f"; FID {measured(as_number(row['fid']), 1)}" + (f", by class {' '.join(classes)}" if classes else "")
    return text + (f", not of every class: {row['fid_class_error']}" if row.get("fid_class_error") else "")


def _failures(entries: Sequence[Entry], _: Decision) -> str:
    failed = [entry for entry in entries if entry.meaning.failed]
    reasons = [
        ("", [entry.store.folder.name, entry.trial_id, f"{entry.trial['epochs']}", reason_of(entry.trial) or ""])
        for entry in failed
    ]
    unmeasured: dict[str, int] = {}
    for entry in entries:
        for row in entry.epochs:
            for name, reason in row.items():
                if name.endswith("_error") and "standard" not in name and reason:
                    unmeasured[f"{name.removesuffix('_error')}: {reason}"] = (
                        unmeasured.get(f"{name.removesuffix('_error')}: {reason}", 0) + 1
                    )
    missing = "".join(f"<li>{_text(reason)} ({count} epochs)</li>" for reason, count in unmeasured.items())
    return (_table(["sweep", "trial", "epochs", "reason"], reasons) if reasons else _nothing("No trial failed.")) + (
        f"<p>Not measured although due:</p><ul>{missing}</ul>" if missing else ""
    )


def _trials(entries: Sequence[Entry], decision: Decision) -> str:
    objective = decision.epochs.objective
    varied = ranking.differing([entry.settings() for entry in entries])
    values = measured_apart([_value(entry, objective) for entry in entries])
    settings = leaderboard.setting_cells([entry.settings() for entry in entries], varied)
    rows = []
    for row, entry in enumerate(entries):
        cells = [entry.store.folder.name, entry.trial_id, str(entry.trial["state"]), f"{len(entry.epochs)}"]
        cells += [values[row]]
        cells += ["" if entry.trial["seconds"] is None else f"{entry.trial['seconds']:.0f}"]
        cells += settings[row]
        cells += [reason_of(entry.trial) or ""]
        rows.append((f' id="trial-{_text(entry.trial_id)}"', cells))
    names = [field.rpartition(".")[2] for field in varied]
    return _table(["sweep", "trial", "state", "epochs", f"best {objective.metric}", "seconds", *names, "why"], rows)


_SECTIONS: tuple[tuple[str, Section], ...] = (
    ("The best", _best),
    ("Progress of the search", _progress),
    ("Accuracy and FID", _pareto),
    ("Learning curves", _curves),
    ("Bits per dimension and the size of the network", _sizes),
    ("Which settings matter", _importance),
    ("Confusion and calibration", _confusion),
    ("Samples", _samples),
    ("Failures", _failures),
    ("All trials", _trials),
)


def _points(
    x: Sequence[object],
    y: Sequence[object],
    entries: Sequence[Entry],
    name: str,
    more: Sequence[str] = (),
    *,
    lines: bool = False,
) -> go.Scatter:
    """Points that name their trial, and lead to it when clicked."""
    texts = [entry.trial_id + (f", {more[index]}" if more else "") for index, entry in enumerate(entries)]
    mode = "lines+markers" if lines else "markers"
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode=mode,
        name=_label(name),
        text=list(map(_label, texts)),
        customdata=[entry.trial_id for entry in entries],
    )


def _figure(figure: go.Figure, x: str, y: str, *, margin: Mapping[str, int] | None = None) -> str:
    figure.update_layout(
        template="plotly_white",
        height=420,
        margin=margin or {"l": 50, "r": 10, "t": 20, "b": 50},
        legend={"orientation": "h", "y": -0.25, "font": {"size": 10}},
        xaxis_title=_label(x),
        yaxis_title=_label(y),
    )
    made: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False}
    )
    return made


def _color(index: int) -> str:
    return f"hsl({index * 360 / _CURVES:.0f}, 65%, 40%)"


def _table(head: Iterable[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Rows with their HTML attributes."""
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    lines = ("".join(f"<td>{_text(cell)}</td>" for cell in cells) for _, cells in rows)
    body = "".join(f"<tr{attributes}>{line}</tr>" for (attributes, _), line in zip(rows, lines, strict=True))
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(entry: Entry, objective: Objective) -> float | None:
    best = entry.best(objective)
    return None if best is None else objective.value(best)


def _nothing(why: str) -> str:
    return f"<p>{_text(why)}</p>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _label(text: str) -> str:
    """The text for plotly, which takes tags of HTML in a label for its own, and turns these references back."""
    return html.escape(text, quote=False)
