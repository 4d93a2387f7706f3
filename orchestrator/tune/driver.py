"""The driver of a sweep: one process that holds the folder, asks for trials, has Ray run them and writes the tables."""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from pydantic import JsonValue

from cpcnn_core.config import ConfigError, DataConfig
from cpcnn_core.errors import DataError
from cpcnn_core.metrics import fid_protocol_of
from cpcnn_core.suggest import nearest
from orchestrator.machines import launch
from orchestrator.process import notice, signals, spot
from orchestrator.records import beginning, mixtures, provenance, ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.room import Room
from orchestrator.records.store import Store, as_int, config_of, sweeps
from orchestrator.records.sweep_file import Asked, Run, SweepRecord
from orchestrator.search import growth, study_file, warm_start
from orchestrator.search.budget import BudgetMeter, spent
from orchestrator.search.ledger import Best, Ledger, View
from orchestrator.search.study import Study
from orchestrator.training import trainer
from orchestrator.training.trainer import Content
from orchestrator.tune.continuation import Continuation
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import FailingError, Outcome, Plan, SweepError

logger = logging.getLogger(__name__)

_CTRL_C = signals.name_of(signal.SIGINT)
_CLOSED = "SIGHUP"  # a terminal that is closed
_OTHERS_FAILED = "other trials of the sweep failed for one cause"


def run(plan: Plan, view: View, *, beside: Callable[[], AbstractContextManager[None]] = nullcontext) -> Outcome:
    """Run the sweep until its trials have ended, or until a signal asks it to end. A sweep that was begun is resumed.

    `beside` is entered once the folder is bound to the plan's question. One that fails before its first trial leaves
    nothing behind. Raise SweepError, StoreError, StudyError, ClusterError or what is wrong with the data.
    """
    store = plan.store
    if plan.disk is not None and store.is_remote:
        raise SweepError(
            f"--disk: bounds what a folder on disk holds, and {store.folder} is behind a URL; leave it out"
        )
    address = launch.cluster_address()
    new = beginning.is_new(store)
    if new and address is not None:
        launch.find_cluster(address)  # before anything is spent; one that has ended needs none
    absent = beginning.absent_folders(store)
    with signals.as_interrupts():
        return _run_in(store, absent, plan, view, beside, new=new)


def _run_in(
    store: Store,
    absent: Sequence[Path],
    plan: Plan,
    view: View,
    beside: Callable[[], AbstractContextManager[None]],
    *,
    new: bool,
) -> Outcome:
    """Run the sweep in its folder, of which those `absent` are made."""
    store.create()
    store = store.retrying()
    traceless = beginning.without_a_trace(store, absent) if new else nullcontext()
    with holding(store, way_out=plan.way_out) as store, study_file.writing(store.study_file), traceless:
        store.remove_leftovers()
        for line in store.set_damaged_aside():
            view.note(f"warning: {line}")
        there = mixtures.Held.of(store)
        there.check_protocol(way_out=plan.way_out)
        view.stage("Loading the data")
        plan = _with_one_data_set(_with_one_extractor(plan, store), there)
        if new:
            view.stage("Checking data and configurations")
            _check_data(plan)  # before the folder is bound to this question
        _agree(plan, store)
        for line in store.unify():
            view.note(f"warning: {line}")
        if new and plan.more_epochs is not None:
            raise SweepError(f"--more-epochs: {store.folder} holds no sweep yet that could be continued")
        with beside():
            outcome = _search(plan, store, view, new=new)
            if plan.more_epochs is not None and not outcome.interrupted and outcome.spent is None:
                outcome = _continue(plan, store, view)
        if new and outcome.interrupted:
            beginning.remove(store, absent)  # where no trial had begun
        return outcome


def _search(plan: Plan, store: Store, view: View, *, new: bool) -> Outcome:
    study = Study(plan.space, store, seed=plan.seed, trials=plan.trials, retry_failed=plan.retry_failed)
    try:
        entries = _entries(plan, store)
        ledger = Ledger(study, store, plan.space.objective, view, plan.space.schedule.scheduler(plan.space.epochs))
        ledger.recall(entries, retrying=plan.retry_failed)
        if plan.confirmation is not None:
            ledger.retrying = "the same command"
        if ledger.is_over:
            return Outcome(study.finished, ran=False, interrupted=False)
        if ledger.hopeless is not None:  # all that earlier runs tried failed for one cause: nothing new is tried
            ledger.interrupt(_OTHERS_FAILED)
            raise ledger.fatal or FailingError(ledger.hopeless)
        meter = BudgetMeter(plan.budget, spent(store.trials().rows(), store.epochs().rows()))
        if limit := meter.exhausted():
            ledger.interrupt(_spent(limit))  # what a killed driver left running
            if ledger.fatal is not None:
                raise ledger.fatal
            return Outcome(study.finished, ran=False, interrupted=False, spent=limit)
        if not new:
            _check_data(plan)
        if plan.announcement is not None:
            view.note(plan.announcement)
        for line in _warm_start(plan, store, study):
            view.note(line)
        _record_run(plan, store)
        if study.finished or study.left_behind:
            view.resumed(study.finished, _best_so_far(plan, entries))
        return _run_all(plan, store, ledger, meter, view, lambda: study.finished)
    finally:
        study.close()


def _run_all(
    plan: Plan, store: Store, ledger: Ledger, meter: BudgetMeter, view: View, finished: Callable[[], int]
) -> Outcome:
    """Run all trials of the ledger. Raise what keeps it from writing, or FailingError."""
    ledger.room = None if plan.disk is None else Room(store, plan.disk)
    limit = _run(plan, store, ledger, stop := _Stop(), meter, view)
    if ledger.fatal is not None:
        raise ledger.fatal
    if ledger.hopeless is not None:
        raise FailingError(ledger.hopeless)
    store.compact()
    unfinished = ledger.is_busy or not ledger.is_over
    interrupted = stop.requested and unfinished
    return Outcome(finished(), ran=True, interrupted=interrupted, spent=limit if unfinished else None)


def _continue(plan: Plan, store: Store, view: View) -> Outcome:
    """Let the COMPLETE trials of a sweep that has finished go on. Early stopping has no say in that."""
    entries = _entries(plan, store)
    going_on = Continuation(plan, store, entries, view.note)
    plan = replace(plan, trials=max(1, going_on.total))
    ledger = Ledger(going_on, store, plan.space.objective, view)
    if ledger.is_over:
        return Outcome(going_on.finished, ran=False, interrupted=False)
    meter = BudgetMeter(plan.budget, spent(store.trials().rows(), store.epochs().rows()))
    if limit := meter.exhausted():
        ledger.interrupt(_spent(limit))
        return Outcome(going_on.finished, ran=False, interrupted=False, spent=limit)
    _check_data(plan)
    record = store.read_sweep() or SweepRecord()
    continued = list(dict.fromkeys([*record.continued, plan.more_epochs or 0]))
    store.write_sweep(record.model_copy(update={"continued": continued}))
    _record_run(plan, store)
    view.note(f"{going_on.total - going_on.finished} COMPLETE trials go on for {plan.more_epochs} epochs more.")
    view.resumed(going_on.finished, _best_so_far(plan, entries))
    return _run_all(plan, store, ledger, meter, view, lambda: going_on.finished)


def _with_one_extractor(plan: Plan, store: Store) -> Plan:
    """Decide once what `eval.fid_extractor=auto` is, for all trials and machines, and for whoever resumes the sweep."""
    default = plan.space.default()
    if not default.eval.fid_every or default.eval.fid_extractor != "auto":
        return plan
    decided = (store.read_sweep() or SweepRecord()).settings.get(trainer.EXTRACTOR)
    if decided is None:
        decided = trainer.with_one_extractor(default).eval.fid_extractor
    settled = plan.space.with_settings({trainer.EXTRACTOR: decided})
    settled.check()
    return replace(plan, space=settled)


def _with_one_data_set(plan: Plan, there: mixtures.Held) -> Plan:
    """Say in the space by its digest which data all trials are about. Raise MixtureError where the folder's differ.

    Simulated trials have no data.
    """
    if plan.trainer != trainer.TRAINER:
        return plan
    recorded = there.sweep.settings.get(trainer.DIGEST)
    config = plan.space.default().data
    found = _content(config.model_copy(update={"digest": None}), config.digest if recorded is None else str(recorded))
    digest = found.digest
    there.check_data(config, digest, way_out=plan.way_out)
    if config.digest not in {None, digest}:
        trainer.dataset(config)  # which says that it is other data than the one asked for
    space = plan.space.with_settings({trainer.DIGEST: digest})
    return replace(plan, space=space, class_names=found.class_names)


def _content(config: DataConfig, recorded: str | None) -> Content:
    """What the data is now, read by a node of the cluster where it is not here.

    A sweep that has ended is looked at again without its data: where that cannot be read, the `recorded` digest stands.
    """
    try:
        return trainer.content(config)
    except DataError:
        if recorded is not None:
            return Content(recorded)
        if launch.cluster_address() is None:
            raise
    from orchestrator.tune import local_ray

    with local_ray.started():
        return local_ray.elsewhere(trainer.content, config)


def _agree(plan: Plan, store: Store) -> None:
    """Write sweep.json, or see that it asks the same question. Raise SweepError where it does not."""
    asked = Asked.model_validate({**plan.space.describe(), "seed": plan.seed})
    record = store.read_sweep() or _new(plan, asked)
    fields = growth.recorded(plan.space.fields)
    if record.asked is None:  # a folder into which trials were run by hand has not asked anything yet
        kind = "sweep" if record.confirmation is None else "confirmation"
        record = record.model_copy(update={"kind": kind, "asked": asked})
    before = asked if record.asked is None else record.asked
    was, now = before.identifying(), asked.identifying()
    if was != now:
        changes = "\n".join(_changes("", was, now))
        refusals = list(growth.refusals(before, record.fields, asked, fields)) if plan.extend else []
        if not plan.extend or refusals:
            way = (
                "it did not only grow: " + "; ".join(refusals)
                if refusals
                else f"{plan.way_out}, delete the folder, or, if the space only grew, say --extend"
            )
            raise SweepError(
                f"{store.folder}: holds a sweep that asked something else; {way}. What differs:\n{changes}"
            )
        # Optuna keeps the options of each parameter; the study is made anew from the rows under the new ones.
        store.set_study_aside()
        record = record.model_copy(update={"asked": asked, "extended": [*record.extended, provenance.now()]})
    names = {"class_names": plan.class_names} if plan.class_names else {}
    store.write_sweep(record.model_copy(update={"fields": fields, **names}))


def _new(plan: Plan, asked: Asked) -> SweepRecord:
    """What sweep.json says of a sweep that begins."""
    confirms = plan.confirmation is not None
    record = SweepRecord(
        name=plan.name,
        kind="confirmation" if confirms else "sweep",
        question=plan.space.question,
        source=plan.space.source,
        asked=asked,
        created=provenance.now(),
        runs=[],
    )
    return record.model_copy(update={"confirmation": plan.confirmation}) if confirms else record


def _record_run(plan: Plan, store: Store) -> None:
    """Add to sweep.json by which code, and on which machine, the trials from here on are run."""
    record = store.read_sweep() or SweepRecord()
    run = Run(
        started=provenance.now(),
        trials=plan.trials,
        hours=plan.budget.hours,
        gpu_hours=plan.budget.gpu_hours,
        scheduler=plan.space.schedule.model_dump(),
        git_commit=provenance.git_commit(),
        versions=provenance.versions(),
        hardware=provenance.hardware(),
        data_root=plan.space.settings.get("data.root"),
        fid_weights=plan.space.settings.get("eval.fid_weights"),
    )
    learned = [*record.warm_start, *plan.warm_start]
    warm = {"warm_start": list(dict.fromkeys(learned))} if learned else {}
    store.write_sweep(record.model_copy(update={**warm, "runs": [*record.runs, run]}))


def _changes(prefix: str, before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> Generator[str]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(f"{prefix}{key} ", old, new)
        elif old != new:
            was = json.dumps(old) if key in before else "absent"
            now = json.dumps(new) if key in after else "absent"
            yield f"  {prefix}{key}: was {was}, is {now}"


def _check_data(plan: Plan) -> None:
    """Find out here, not in each trial, that the data is missing or broken; and decode it once for all of them."""
    if _trains_here(plan):
        trainer.check(plan.space.default())
        trainer.check_each(plan.space.extremes())


def _trains_here(plan: Plan) -> bool:
    """Whether this machine has the data, since its own cores or GPUs train the trials."""
    return plan.trainer == trainer.TRAINER and launch.cluster_address() is None


def _warm_start(plan: Plan, store: Store, study: Study) -> Generator[str]:
    """Let the study learn from earlier sweeps; a line on each. Raise SweepError where there is no such sweep.

    A study that was made anew, since the space grew or the file was lost, learns again what the one before had learned.
    """
    before = (store.read_sweep() or SweepRecord()).warm_start
    lost = [name for name in before if name not in study.learned_from and name not in plan.warm_start]
    if not plan.warm_start and not lost:
        return
    others = {store.folder.name: store for store in sweeps(plan.results) if store.folder.name != plan.name}
    for name in plan.warm_start:
        if name not in others:
            raise SweepError(
                f"--warm-start {name}: no other sweep of that name in {plan.results}{nearest(name, others)}"
            )
    for name in lost:
        if name not in others:
            yield f"warm start from {name}: it is not in {plan.results} any more"
    own = (fid_protocol_of(row) for row in plan.store.epochs().rows() if row["fid"] is not None)
    protocol = next(own, None)
    if protocol is None and _trains_here(plan):
        protocol = trainer.fid_protocol(plan.space.default())
    wanted = [name for name in (*plan.warm_start, *lost) if name in others]
    for source in warm_start.gather(plan.space, [others[name] for name in wanted], protocol):
        yield source.summary(study.learn(source.used))


def _entries(plan: Plan, store: Store) -> list[Entry]:
    """The trials in the folder that this space admits; others were run there by hand."""
    admitted = []
    for entry in ranking.read([store])[0]:
        with suppress(ConfigError):
            if plan.space.params_of(config_of(entry.trial)) is not None:
                admitted.append(entry)
    return admitted


def _best_so_far(plan: Plan, entries: list[Entry]) -> Best | None:
    leader = ranking.leader(entries, plan.space.objective)
    if leader is None:
        return None
    entry, epoch, value = leader
    return value, config_of(entry.trial), as_int(epoch["epoch"])


class _Stop:
    """Whether the user, or the machine's owner, wants the sweep to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.why = _CTRL_C
        self.is_writing = False  # the rows of what is stopped
        self._asked = 0.0  # when the first signal came

    @property
    def why_saved(self) -> str | None:
        """Why trials are to save their state before they end; None where somebody waits for them to be gone."""
        return self.why if self.requested and self.why != _CTRL_C else None

    @property
    def is_taken(self) -> bool:
        """Whether this process's job or machine is taken away, rather than that somebody leaves."""
        return self.requested and self.why not in {_CTRL_C, _CLOSED}

    def heed(self, taken: notice.Notice) -> None:
        """Stop where this machine is to be taken away."""
        if taken() and not self.requested:
            self.requested, self.why = True, str(taken.reason)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        why, now = signals.name_of(number), time.monotonic()
        if not self.requested:
            self.requested, self.why, self._asked = True, why, now
        elif number == signal.SIGINT or (
            # Others come in twos at any time: a terminal that is closed and its shell send one each.
            number in notice.SIGNALS
            and why == self.why
            and now - self._asked > notice.TOGETHER_SECONDS  # as `uv run` passes on what its group got too
            and not self.is_writing
        ):
            raise KeyboardInterrupt


def _spent(limit: str) -> str:
    return f"the sweep's budget was spent: {limit}"


def _run(plan: Plan, store: Store, ledger: Ledger, stop: _Stop, meter: BudgetMeter, view: View) -> str | None:
    """Have Ray run the trials; of those that it leaves, say so in their rows. Return the limit that was reached."""
    with _stopping(stop):
        try:
            limit = _tune(plan, store, ledger, stop, meter, view)
        except BaseException as error:
            stop.is_writing = True
            interrupted = isinstance(error, KeyboardInterrupt)
            ledger.interrupt(stop.why if interrupted else trainer.describe(error))
            raise
        stop.is_writing = True
        if stop.requested:
            ledger.interrupt(stop.why)
        elif limit is not None:
            ledger.interrupt(_spent(limit))
        elif ledger.hopeless is not None:
            ledger.interrupt(_OTHERS_FAILED)
        elif ledger.fatal is not None:
            ledger.interrupt(trainer.describe(ledger.fatal))
    return limit


def _stopping(stop: _Stop) -> AbstractContextManager[None]:
    return signals.handled_by(stop, (signal.SIGINT, *signals.ENDING))


def _tune(plan: Plan, store: Store, ledger: Ledger, stop: _Stop, meter: BudgetMeter, view: View) -> str | None:
    """Have Ray run the trials. Return the limit of the budget that ended it, if one did."""
    from orchestrator.tune import local_ray

    clouds = spot.sources()
    view.stage("Starting Ray")
    with (
        local_ray.started() as available,
        notice.asked(clouds) as taken,
        tempfile.TemporaryDirectory(prefix="cpcnn-sweep-") as throwaway,
    ):
        from orchestrator.tune import running

        def is_asked_to() -> bool:
            stop.heed(taken)
            return stop.requested

        try:
            placing = running.place(plan, store, available, view, is_stopping=is_asked_to)
        except KeyboardInterrupt:
            stop.requested = True
            return None
        ledger.gpus = placing.share.gpus
        view.stage("Starting a process for each trial that runs at once; it imports PyTorch")
        limit: list[str] = []

        def is_stopping() -> bool:
            limit[:] = filter(None, [meter.tick(ledger.running, ledger.gpus_held)])
            return is_asked_to() or bool(limit) or ledger.hopeless is not None

        try:
            running.run(
                plan,
                store,
                ledger,
                placing,
                is_stopping=is_stopping,
                why_saved=lambda: stop.why_saved,
                is_taken=lambda: stop.is_taken,
                throwaway=throwaway,
            )
        except KeyboardInterrupt:
            stop.requested = True
        if placing.watch is not None:
            placing.watch.end()
        return limit[0] if limit else None
