"""Weights & Biases as a view of a sweep."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, Store, as_int
from orchestrator.text.names import identifier
from orchestrator.views.sections import by_class, of_class, tag
from orchestrator.views.tracker import classes_of, metrics_of, pixels_of, rows_of, settings_of

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

WandbMode: TypeAlias = Literal["online", "offline"]

PROJECT = "cpcnn-sweeps"  # of Weights & Biases, unless WANDB_PROJECT says otherwise
INIT_SECONDS = "20"  # in which its server has to answer, or runs are kept offline; WANDB_INIT_TIMEOUT says otherwise
_LONGEST_GROUP = 128  # characters that Weights & Biases takes

COURSE_NAMES = "course-names"
"""The option by which a run has some metrics also under the names that the course's starter code logs."""

_OF_COURSE: Mapping[str, str] = {
    "training-Average-BPD": "train_bpd",
    "training-epoch": "epoch",
    "val-Average-BPD": "val_bpd",
    "val-epoch": "epoch",
    "FID": "fid",
}  # its picture is called `samples`, as here

logger = logging.getLogger(__name__)


def send(store: Store, mode: str) -> str | None:
    """What to type to send the runs that are kept offline as they were asked to; None where they are not."""
    return _sync(store) if _parts(mode)[0] == "offline" else None


class Wandb:
    """A run of Weights & Biases per trial, grouped by sweep, with the same id whenever the trial goes on.

    Without a key, or where the server does not answer, runs are kept offline in `wandb/`; `wandb sync` sends them.
    """

    def __init__(self, store: Store, mode: str) -> None:
        self._store = store
        self._mode, self._course_names = _parts(mode)
        self._runs: dict[str, Run] = {}

    @cached_property
    def _class_names(self) -> Sequence[str]:
        return self._store.class_names()

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        import wandb

        epoch = as_int(row["epoch"])
        numbers = {"epoch": float(epoch), **metrics_of(row)}
        shown: dict[str, object] = {by_class(name): value for name, value in numbers.items()}
        if self._course_names:
            shown |= {course: numbers[name] for course, name in _OF_COURSE.items() if name in numbers}
        if samples is not None:
            pixels = pixels_of(samples)
            shown["samples"] = wandb.Image(pixels)
            for label, images in rows_of(pixels, classes_of(row, self._class_names)).items():
                # Of the key wandb makes the name of a file.
                shown[tag(of_class("samples", label))] = wandb.Image(images, caption=f"class {label}, epoch {epoch}")
        self._run(trial).log({**shown, "epoch": epoch}, step=epoch)

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        run = self._run(trial)
        if best is not None:
            run.summary.update({"best_epoch": as_int(best["epoch"])})
            run.summary.update({f"best/{by_class(name)}": value for name, value in metrics_of(best).items()})
        run.summary.update({name: trial.trial[name] for name in ("state", "error", "stopped")})
        del self._runs[trial.trial_id]
        run.finish(exit_code=int(trial.meaning.failed))

    def close(self) -> None:
        """See `Tracker`."""
        while self._runs:
            self._runs.popitem()[1].finish()

    def _run(self, trial: Entry) -> Run:
        if trial.trial_id not in self._runs:
            try:
                self._runs[trial.trial_id] = self._begun(trial)
            except Exception as error:
                if self._mode == "offline":
                    raise
                import wandb

                wandb.teardown()  # its service still waits for the server, and holds the run's id
                self._stay_offline(next(iter(str(error).splitlines()), type(error).__name__))
                self._runs[trial.trial_id] = self._begun(trial)
        return self._runs[trial.trial_id]

    def _begun(self, trial: Entry) -> Run:
        import wandb

        sweep = self._store.folder.name
        run: Run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=sweep if len(sweep) <= _LONGEST_GROUP else identifier(sweep),
            name=trial.trial_id,
            id=f"{identifier(sweep)}-{trial.trial_id}",
            config=settings_of(trial),
            dir=str(self._store.local_mirror),
            mode=self._mode,
            # An offline run cannot ask what there is; its id makes it part of the same run when it is sent.
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
                x_disable_stats=True,  # they would be this process's
                save_code=False,
            ),
        )
        run.define_metric("*", step_metric="epoch")
        return run

    def _stay_offline(self, reason: str) -> None:
        self._mode = "offline"
        logger.warning("wandb: %s; runs are kept offline from here on. To send them: %s", reason, _sync(self._store))


def _parts(mode: str) -> tuple[WandbMode, bool]:
    """Whether runs go to the server, and whether they have the course's names too."""
    name, _, option = mode.partition(",")
    return "offline" if name == "offline" else "online", option == COURSE_NAMES


def _sync(store: Store) -> str:
    # The pattern stands outside the quotes: the shell shall find the runs.
    return f"wandb sync {shlex.quote(str(store.local_mirror))}/wandb/offline-run-*"
