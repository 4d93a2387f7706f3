"""Ray Tune's side of the search: a Searcher that hands out suggestions, a Callback that passes on what became of them.

Tune keeps no state of its own that matters. Its trial ids, its result files and its checkpoints are thrown away; the
ledger's rows and the study are the sweep. Nor does Tune start a trial again whose process died, since it does not where
the process dies while it changes from one trial to the next: the ledger suggests such a trial once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cpcnn_core.errors import PreemptedError
from orchestrator.process import notice
from orchestrator.search.ledger import Ledger
from orchestrator.search.study import Suggestion
from orchestrator.training.stall import Stalls, last_dump
from orchestrator.tune.assignment import Assignment, Epoch, Failure, RayDict, report_of

# A machine whose processes are ended with it breaks its connections before Ray knows that it is gone: "unavailable". A
# process that dies by itself is told as dead by its node, at the latest the next time.
_NODE_LOST = re.compile(
    r"node (?:has |was |is )?(?:died|dead|terminated|preempted)|preempt|actor is temporarily unavailable", re.IGNORECASE
)


# What torch says of a context that is of no more use. Processes that share a GPU under MPS share that fate: a fault of
# one ends all of them, and none is told whose it was.
_DEVICE_LOST = re.compile(r"AcceleratorError|CUDA error")


_SIGNALS = {number.name for number in notice.SIGNALS}


class Halt(BaseException):
    """Leaves Tune's loop at once. No Exception, since Tune would stop each trial politely first, an epoch at a time."""


class StudySearcher(Searcher):  # type: ignore[misc]
    """Hands out what the ledger suggests, as the trainable's config."""

    def __init__(
        self, ledger: Ledger, assign: Callable[[Suggestion], Assignment], is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._assign = assign
        self._is_stopping = is_stopping

    def suggest(self, trial_id: str) -> RayDict | str | None:
        """The next trial's config; None while there is none but a running trial may yet have to be run again."""
        if self._is_stopping():  # the trials that run save their state
            return None
        suggestion = self._ledger.suggest()
        if suggestion is not None:
            return self._assign(suggestion).to_ray()
        return None if self._ledger.is_busy else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: RayDict | None = None, error: bool = False) -> None:
        """Nothing: the callback below hears of it in the same breath, and with the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class LedgerStopper(Stopper):  # type: ignore[misc]
    """Passes each epoch to the ledger, which says whether the trial stops there.

    Tune asks its stopper before anybody else hears of a result, the last one of a trial included.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, trial_id: str, result: RayDict) -> bool:
        """An epoch is finished."""
        report = report_of(result)
        return isinstance(report, Epoch) and self._ledger.epoch(report.number, report.metrics, report.place)

    def stop_all(self) -> bool:
        """Never: the callback below leaves the loop."""
        return False

    def __getstate__(self) -> RayDict:
        """Nothing: Tune pickles it into a state of its own that is thrown away."""
        return {}


class LedgerCallback(Callback):  # type: ignore[misc]
    """Passes Tune's other events to the ledger, and leaves the loop when the ledger or the user wants to stop."""

    def __init__(
        self,
        ledger: Ledger,
        is_stopping: Callable[[], bool],
        stalls: Stalls,
        may_leave: Callable[[int], bool] = lambda _: True,
        is_taken: Callable[[], bool] = lambda: False,
    ) -> None:
        """`may_leave` says whether the loop may be left while so many trials have a process; `is_taken` whether it is
        left since the sweep's job or machine is taken away.
        """
        self._ledger = ledger
        self._is_stopping = is_stopping
        self._stalls = stalls
        self._may_leave = may_leave
        self._is_taken = is_taken

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """A process runs the trial."""
        assignment = Assignment.of_ray(trial.config)
        self._ledger.started(assignment.number)
        self._stalls.watch(trial.trial_id, assignment.log)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """The trial's last epoch is finished, or the scheduler stopped it, or it failed in a process that lives on."""
        self._stalls.forget(trial.trial_id)
        number, report = Assignment.of_ray(trial.config).number, report_of(trial.last_result)
        if not isinstance(report, Failure):
            self._ledger.ended(number, None)
        elif report.is_of_storage:
            self._ledger.halt(number, report.error)
        elif report.is_busy:  # a node that was cut off may train on for minutes
            self._ledger.died(number, report.error, its_fault=False)
        else:
            self._ledger.ended(number, report.error)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """The trial's process died, or could not be used again."""
        self._stalls.forget(trial.trial_id)
        assignment = Assignment.of_ray(trial.config)
        filed = _filed(trial)
        if saved := _preempted(filed):
            stopping = self._is_stopping()
            if not stopping or self._is_taken():  # else it is stopped as the others are, and for that reason
                by, _, place = saved.partition(": ")
                signalled = by in _SIGNALS and not stopping
                where = place if signalled else None
                self._ledger.preempted(assignment.number, saved, where=where, goes_on=not stopping)
            return
        cause = _cause(filed)
        stack = last_dump(assignment.log)
        # The sweep's own folder, which may be called `preempted`, says nothing about the node.
        lost = is_node_lost(_cause(filed.replace(str(assignment.folder), "")))
        reason = f"{cause}; it hung in {stack}" if stack and not lost else cause
        shared = assignment.mps and assignment.share.is_of_a_gpu and _DEVICE_LOST.search(filed) is not None
        if shared:
            reason += "; trials that share a GPU are lost together, so it runs alone from now on"
        self._ledger.died(assignment.number, reason, its_fault=not lost and not shared, alone=shared)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Where Tune can be left without anything half done."""
        for trial_id in self._stalls.overdue():
            _kill(next(trial for trial in trials if trial.trial_id == trial_id))
        for trial in trials:
            if trial.status == Trial.RUNNING:
                self._stop_where_asked(trial)
        if self._ledger.fatal is not None:
            raise Halt
        if self._is_stopping() and self._may_leave(sum(trial.status == Trial.RUNNING for trial in trials)):
            raise Halt

    def _stop_where_asked(self, trial: Trial) -> None:
        """End the process of a trial that the user stops. What it has committed stays; an epoch may take an hour.

        Under MPS it ends after its epoch: a process that is killed there may take those along that share its GPU.
        """
        assignment = Assignment.of_ray(trial.config)
        if self._ledger.asked_to_stop(assignment.number) and not (assignment.mps and assignment.share.is_of_a_gpu):
            _kill(trial)


def is_node_lost(cause: str) -> bool:
    """Whether what Ray says of a process's death is that its machine went away."""
    return _NODE_LOST.search(cause) is not None


def _kill(trial: Trial) -> None:
    """End a process that did not end itself: it is suspended, or does not come back from the kernel."""
    import ray

    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def _filed(trial: Trial) -> str:
    """The error that Tune filed last, in one line; empty where it filed none."""
    if trial.error_file is None or not Path(trial.error_file).exists():
        return ""
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return " ".join(text.rpartition("Failure #")[2].splitlines()[1:])


def _preempted(text: str) -> str | None:
    """Why the trial saved its state and ended, where the error says that it did."""
    _, marker, said = text.rpartition(f"{PreemptedError.__name__}: ")
    return " ".join(said.split()) if marker else None


def _cause(text: str) -> str:
    """The part of the error which names the cause."""
    if not text:
        return "the trial's process died"
    told = re.search(r"Worker exit detail: (.*?)(?= Some common causes|$)", text)
    detail = told[1] if told else text[-500:]
    return f"the trial's process died: {' '.join(detail.split())}"
