"""Planning a confirmation: a sweep of the finalists on new seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from cpcnn_core.config import Scalar
from orchestrator.choosing import candidates, confirming
from orchestrator.choosing.decision import Decision
from orchestrator.choosing.rules import Rule
from orchestrator.choosing.selection import Selection
from orchestrator.objectives.objective import Direction
from orchestrator.records.location import Folder
from orchestrator.records.states import Meaning, meaning_of
from orchestrator.records.store import Store
from orchestrator.tune.plan import Plan

_WAY_OUT = "choose among others, with --sweep or --where, which is a confirmation of its own"


@dataclass(frozen=True)
class Asked:
    """The options of `best` that say what is confirmed; the same ones name the same confirmation."""

    metric: str
    mode: Direction | None
    rule: Rule
    where: str
    finalists: int
    seeds: int


def planned(
    results: Folder, selected: Selection, chosen: Callable[[], Decision], asked: Asked, *, root: Scalar = None
) -> tuple[Plan, confirming.Question]:
    """The sweep that confirms what was chosen among the selected ones, begun or not, and the question that it decides.

    The finalists are those of the first time, whatever has been run since. `root` is where the data lies now. Raise
    ChoiceError, ConfigError, StoreError.
    """
    name = confirming.name_of([store.folder.name for store in selected.stores], **asdict(asked))
    store = Store((results / name).absolute())
    question = confirming.recorded(store)
    if question is None:
        decision = chosen()
        with candidates.naming(decision.epochs.problems):
            question = confirming.ask(
                decision.epochs, decision.standings(), finalists=asked.finalists, seeds=asked.seeds
            )
    for finalist in question.finalists:
        finalist.run(question.seeds[0])
    space = question.space()
    if root is not None:
        space = space.with_settings({"data.root": root})
    described = question.describe()  # written down before anything is run
    # Where no run has come to a good end, there is nothing to decide by, and the ones that failed are run again.
    again = not any(meaning.ended and not meaning.failed for meaning in _meanings(store))
    plan = Plan(name, space, results, trials=space.trials, confirmation=described, retry_failed=again, way_out=_WAY_OUT)
    return replace(plan, announcement=f"{space.question} {plan.trials} runs in {store.folder}."), question


def _meanings(store: Store) -> list[Meaning]:
    """What the states of the trials mean that have run."""
    return [meaning_of(row["state"]) for row in store.latest_attempts().rows()] if store.is_begun else []
