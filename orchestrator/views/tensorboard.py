"""TensorBoard as a view of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cpcnn_core.config import Scalar
from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.space_record import RecordedChoice, RecordedSpace
from orchestrator.records.store import Row, Store, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.views.sections import of_class, sectioned, tag
from orchestrator.views.tracker import classes_of, metrics_of, pixels_of, rows_of, settings_of

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # type: ignore[import-untyped]
    from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

_FOLDER = "tensorboard"
_COLUMNS = ("val_acc", "val_bpd", "fid", "score")  # of the table of HParams, at each trial's best epoch


def look(store: Store, _mode: str = "") -> str:
    """What to type to see a sweep in it, also while it runs."""
    return f"tensorboard --logdir {shlex.quote(str(store.local_mirror / _FOLDER))}"


class TensorBoard:
    """Event files in `tensorboard/<trial_id>`, and beside them one that says what the table of HParams shows."""

    def __init__(self, store: Store, mode: str = "") -> None:
        self._store = store
        self._folder = store.local_mirror / _FOLDER
        self._writers: dict[str, SummaryWriter] = {}
        self._has_columns = self._folder.is_dir() and any(self._folder.glob("events.*"))

    @cached_property
    def _class_names(self) -> Sequence[str]:
        return self._store.class_names()

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        epoch = as_int(row["epoch"])
        writer = self._writer(trial, epoch)
        for name, value in metrics_of(row).items():
            writer.add_scalar(tag(sectioned(name)), value, epoch)
        if samples is not None:
            pixels = pixels_of(samples)
            writer.add_image("samples/all", pixels, epoch, dataformats="HWC")
            for label, images in rows_of(pixels, classes_of(row, self._class_names)).items():
                writer.add_image(tag(of_class("samples", label)), images, epoch, dataformats="HWC")
        writer.flush()

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        last = max((as_int(row["epoch"]) for row in trial.epochs), default=0)
        writer = self._writers.pop(trial.trial_id, None) or self._begun(trial, last + 1)
        # At its last epoch: of a trial that went on, the table shows the value with the latest one.
        for name, value in {} if best is None else _best(best):
            writer.add_scalar(name, value, last)
        writer.file_writer.add_summary(_ended(is_failure=trial.meaning.failed))
        writer.close()

    def close(self) -> None:
        """See `Tracker`."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, trial: Entry, epoch: int) -> SummaryWriter:
        if trial.trial_id not in self._writers:
            self._writers[trial.trial_id] = self._begun(trial, epoch)
        return self._writers[trial.trial_id]

    def _begun(self, trial: Entry, epoch: int) -> SummaryWriter:
        from tensorboardX import SummaryWriter

        self._write_columns(trial)
        # Whatever an earlier process wrote of this epoch or a later one is not shown twice.
        folder = str(self._folder / trial.trial_id)
        writer = SummaryWriter(folder, purge_step=epoch, filename_suffix=f".from-{epoch}")
        settings = settings_of(trial)
        text = "\n".join(f"    {name}: {value}" for name, value in settings.items())
        writer.add_text("configuration", text, epoch)
        writer.file_writer.add_summary(_started(settings))
        return writer

    def _write_columns(self, trial: Entry) -> None:
        """Say once what the table of HParams shows: the fields that vary, where it is known which do."""
        if self._has_columns:
            return
        from tensorboardX import SummaryWriter

        fields = (self._store.read_sweep() or SweepRecord()).fields
        of_trial: dict[str, Sequence[Scalar]] = {name: (value,) for name, value in settings_of(trial).items()}
        with SummaryWriter(str(self._folder)) as writer:
            writer.file_writer.add_summary(_columns(dict(_varying(fields)) if fields else of_trial))
        self._has_columns = True


def _best(row: Row) -> Iterator[tuple[str, float]]:
    yield "best/epoch", as_int(row["epoch"])
    shown = metrics_of(row)
    for name in _COLUMNS:
        if name in shown:
            yield f"best/{name}", shown[name]


# ------------------------------------------------------------------------------ HParams, TensorBoard's table of trials


def _varying(space: RecordedSpace) -> Iterator[tuple[str, Sequence[Scalar]]]:
    """Every field of a space that may be several things, with values that tell of which type it is."""
    for name, field in space.items():
        if not isinstance(field, RecordedChoice):
            yield name, (1.0,)
            continue
        if len(field.options) > 1:
            yield name, [option for option, _ in field.options]
        for _, branch in field.options:
            yield from _varying(branch)


def _columns(fields: Mapping[str, Iterable[Scalar]]) -> Summary:
    from tensorboardX.proto.api_pb2 import (  # type: ignore[import-untyped]
        DataType,
        Experiment,
        HParamInfo,
        MetricInfo,
        MetricName,
    )
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    names = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    infos = []
    for name, values in fields.items():
        kinds = [names.get(type(value), "DATA_TYPE_FLOAT64") for value in values if value is not None]
        if kinds:  # TensorBoard has no null
            infos.append(HParamInfo(name=name, type=DataType.Value(kinds[0])))
    metrics = [MetricInfo(name=MetricName(tag=f"best/{name}")) for name in (*_COLUMNS, "epoch")]
    return _summary("experiment", HParamsPluginData(experiment=Experiment(hparam_infos=infos, metric_infos=metrics)))


def _started(settings: Mapping[str, Scalar]) -> Summary:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo

    started = SessionStartInfo()
    for name, value in settings.items():
        if isinstance(value, bool):
            started.hparams[name].bool_value = value
        elif isinstance(value, str):
            started.hparams[name].string_value = value
        elif value is not None:
            started.hparams[name].number_value = value
    return _summary("session_start_info", HParamsPluginData(session_start_info=started))


def _ended(*, is_failure: bool) -> Summary:
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo

    status = Status.Value("STATUS_FAILURE" if is_failure else "STATUS_SUCCESS")
    return _summary("session_end_info", HParamsPluginData(session_end_info=SessionEndInfo(status=status)))


def _summary(tag: str, content: HParamsPluginData) -> Summary:
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=f"_hparams_/{tag}", metadata=SummaryMetadata(plugin_data=data))])
