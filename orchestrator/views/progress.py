"""What a running sweep shows: a live table on a terminal, plain lines elsewhere and where somebody debugs."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.process import debugging, streams
from orchestrator.records import trial_ids
from orchestrator.records.columns import as_number
from orchestrator.records.states import State, meaning_of
from orchestrator.text.formatting import measured, plain
from orchestrator.views.board import Board, Column, Rank

if TYPE_CHECKING:
    from orchestrator.search.ledger import Best  # which imports Optuna; readers of results do without

_SHOWN = ("val_bpd", "train_acc", "val_acc", "fid")  # beside the objective
_WIDE = 110  # columns of a terminal, from which on seconds and memory have room too
_RUNNING = "running"  # the column of ids


class Progress(AbstractContextManager["Progress"]):
    """A View of a sweep of `total` trials; with `plain`, in lines on a terminal too."""

    def __init__(
        self, console: Console, objective: Objective, searched: tuple[str, ...], *, total: int, plain: bool = False
    ) -> None:
        self._console = console
        self._objective = objective
        self._searched = searched
        self._total = total
        self._earlier = 0  # trials that had ended before this run
        self._begun = time.monotonic()
        self._left: dict[str, State] = {}  # by trial id: those that a process ran, and none runs now
        self._running: dict[int, tuple[TrialConfig, EpochMetrics | None]] = {}
        self._earlier_best: Best | None = None
        self._bests: dict[str, Best] = {}  # by trial id: of each trial of this run that has not failed
        self._stage: str | None = None
        self._stage_begun = 0.0
        self._open = ExitStack()
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
            if console.is_terminal and not plain and not debugging.is_debugged()
            else None
        )

    def __enter__(self) -> Self:
        self._open.enter_context(streams.unheld())
        if self._live is not None:
            self._live.start()
            self._open.callback(self._live.stop)
            self._open.enter_context(debugging.leaving(self._fall_back))
        return self

    def _fall_back(self) -> None:
        """Go on in plain lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def note(self, text: str) -> None:
        """Something to know before the first trial runs."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stage(self, text: str) -> None:
        """What is done before the first epoch, and takes seconds."""
        self._stage, self._stage_begun = text, time.monotonic()
        if self._live is None:
            self._say(f"{text} ...")

    def resumed(self, finished: int, best: Best | None) -> None:
        """The sweep goes on where an earlier run stopped."""
        self._earlier, self._earlier_best = finished, best
        if self._live is None:
            self._say(f"resumed after {finished} finished trials")

    def started(self, number: int, config: TrialConfig) -> None:
        """A trial runs."""
        self._left.pop(config.trial_id, None)  # one that had been stopped goes on
        self._running[number] = (config, None)
        self._stage, self._stage_begun = None, time.monotonic()
        if self._live is None:
            self._say(f"trial {config.trial_id} runs: {settings(config, self._searched)}")

    def epoch(self, number: int, config: TrialConfig, metrics: EpochMetrics, value: float | None) -> None:
        """A trial finished an epoch."""
        self._running[number] = (config, metrics)
        before = self._bests.get(config.trial_id)
        if value is not None and (before is None or self._objective.better(value, before[0])):
            self._bests[config.trial_id] = (value, config, metrics.epoch)
        if self._live is None:
            shown = {self._objective.metric: value} | self._beside(metrics)
            values = ", ".join(f"{name} {measured(number)}" for name, number in shown.items())
            at = f"trial {config.trial_id} epoch {metrics.epoch}/{config.train.epochs}"
            self._say(f"{at}: {values}, {metrics.seconds:.1f} s")

    def ended(self, number: int, config: TrialConfig, state: State, value: float | None, reason: str | None) -> None:
        """A trial ended, or was stopped for now."""
        self._running.pop(number, None)
        self._left[config.trial_id] = state
        if meaning_of(state).failed:
            self._bests.pop(config.trial_id, None)
            self._console.print(Text(f"trial {config.trial_id} FAILED: {reason}", style="red"), soft_wrap=True)
        elif self._live is None:
            why = f" ({reason})" if reason else ""
            self._say(f"trial {config.trial_id} {state}: best {self._objective.metric} {measured(value)}{why}")

    def _beside(self, metrics: EpochMetrics) -> dict[str, float]:
        """What is shown beside the objective: training, validation and drawn images, as far as they were measured."""
        row = metrics.row()
        values = {name: as_number(row[name]) for name in _SHOWN if name != self._objective.metric}
        return {name: value for name, value in values.items() if value is not None}

    def _say(self, text: str) -> None:
        # A trial of an earlier run that goes on here and ends again is counted once, as nearly as one can tell.
        done = min(self._total, self._earlier + self._done)
        self._console.print(f"[{done}/{self._total}] {text}", markup=False, highlight=False, soft_wrap=True)

    @property
    def _done(self) -> int:
        """How many trials have ended in this run."""
        return sum(meaning_of(state).ended for state in self._left.values())

    def _best(self) -> Best | None:
        """The best so far, the earliest of equals."""
        best = self._earlier_best
        for candidate in self._bests.values():
            if best is None or self._objective.better(candidate[0], best[0]):
                best = candidate
        return best

    def _render(self) -> Group:
        done = self._done
        elapsed = time.monotonic() - self._begun
        counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(self._left.values()).items()))
        head = f"{min(self._total, self._earlier + done)} of {self._total} trials" + (
            f" ({counts} in this run)" if counts else ""
        )
        if done:
            left = max(0, self._total - self._earlier - done) * elapsed / done
            head += f", {60 * done / elapsed:.1f} a minute, about {duration(left)} left"
        lines = [Text(head)]
        if (best := self._best()) is not None:
            value, config, epoch = best
            lines.append(
                Text(
                    f"best so far: {self._objective.metric} {measured(value)} in epoch {epoch} of {config.trial_id}: "
                    f"{settings(config, self._searched)}"
                )
            )
        if (stage := self._doing()) is not None:
            lines.append(Text(f"{stage} ({duration(time.monotonic() - self._stage_begun)})"))
        return Group(*lines, *([self._table()] if self._running else []))

    def _doing(self) -> str | None:
        """What goes on while no epoch has been finished."""
        if self._stage is not None or not self._running or any(metrics for _, metrics in self._running.values()):
            return self._stage
        [first, *others] = [config.trial_id for config, _ in self._running.values()]
        if not others:
            return f"trial {first} loads the data and makes its first steps"
        return f"trial {first} and {len(others)} more load the data and make their first steps"

    def _table(self) -> Board:
        """The trials that run."""
        running = list(self._running.values())
        rows = [{} if metrics is None else metrics.row() for _, metrics in running]
        beside = [{} if metrics is None else self._beside(metrics) for _, metrics in running]
        ids = trial_ids.shortened(config.trial_id for config, _ in running)
        epochs = [
            f"{row.get('epoch', 0)}/{config.train.epochs}" for (config, _), row in zip(running, rows, strict=True)
        ]
        columns = [
            Column(_RUNNING, [ids[config.trial_id] for config, _ in running], Rank.ALWAYS),
            Column("epoch", epochs, Rank.ALWAYS),
            Column(self._objective.metric, [measured(self._objective.value(row)) for row in rows], Rank.ALWAYS),
        ]
        columns += [
            Column(name, [measured(values.get(name)) for values in beside], Rank.VALUE)
            for name in _SHOWN
            if any(name in values for values in beside)
        ]
        if self._console.width >= _WIDE:
            seconds, memory = zip(*(_costs(metrics) for _, metrics in running), strict=True)
            columns += [Column("s/epoch", seconds, Rank.LAST), Column("memory", memory, Rank.LAST)]
        varied = [settings(config, self._searched) for config, _ in running]
        columns.append(Column("settings", varied, Rank.SETTING, below=""))
        return Board(None, columns, names=(_RUNNING,), ruled=False)


def _costs(metrics: EpochMetrics | None) -> tuple[str, str]:
    """Seconds of an epoch, and the peak of the GPU's memory, or of the process's."""
    if metrics is None:
        return "", ""
    return f"{metrics.seconds:.1f}", f"{metrics.peak_memory_bytes / 2**30:.1f} GiB"


def settings(config: TrialConfig, fields: tuple[str, ...]) -> str:
    """The given fields of a configuration, by their short names."""
    flat = config.flat()
    return ", ".join(f"{field.rpartition('.')[2]} {plain(flat[field])}" for field in fields if field in flat)


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
