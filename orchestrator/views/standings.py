"""Tables of what was chosen among, and of finalists that were trained again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.choosing.decision import Decision, TrialStanding
from orchestrator.text.formatting import interval, measured, measured_apart, probability
from orchestrator.views import leaderboard
from orchestrator.views.board import Board, Column, Rank

if TYPE_CHECKING:
    from orchestrator.choosing.confirming import Confirmation

INTERVAL, PROBABILITY = "95% interval", "P(best)"


def choice_table(decision: Decision, *, top: int, wide: bool = False) -> Board:
    """The first `top` trials, with the settings in which they differ."""
    shown = decision.standings()[:top]
    metric = decision.epochs.objective.metric
    columns = [
        leaderboard.ranks(len(shown)),
        *leaderboard.names_of([(one.sweep, one.trial_id) for one in shown], decision.epochs.stores),
        Column("epoch", [leaderboard.epoch_of(one.epoch, one.settings) for one in shown], is_number=True),
        Column(metric, measured_apart([one.value for one in shown]), Rank.ALWAYS, is_number=True),
    ]
    sure = [sure_cells(one) for one in shown]
    for index, head in enumerate(sure_heads(decision)):
        cells = [cells[index] if cells else "-" for cells in sure]
        rank = Rank.BESIDE if head == PROBABILITY else Rank.VALUE
        columns.append(Column(head, cells, rank, is_number=head == PROBABILITY))
    columns += leaderboard.setting_columns([one.settings for one in shown])
    columns.append(Column("state", [one.state for one in shown], Rank.LAST))
    title = f"the best {len(shown)} of {decision.total_trials} trials, by {metric}"
    return Board(title, columns, names=leaderboard.NAMES, wide=wide)


def sure_heads(decision: Decision) -> list[str]:
    """The columns of a table that say how sure the choice is, where that is known."""
    return [] if decision.verdict is None else [INTERVAL, PROBABILITY, "set"]


def sure_cells(one: TrialStanding) -> list[str]:
    """Their cells for one of `standings`; none where nothing tells how sure the values are."""
    if one.interval is None or one.probability_best is None:
        return []
    return [interval(*one.interval), probability(one.probability_best), "*" if one.indistinguishable else ""]


def confirmation_table(confirmation: Confirmation, *, wide: bool = False) -> Board:
    """The finalists, best first, with the settings in which they differ."""
    question, shown = confirmation.question, confirmation.standings
    named = [(one.finalist.sweep, one.finalist.trial_id) for one in shown]
    columns = [
        leaderboard.ranks(len(shown)),
        *leaderboard.names_of(named, confirmation.epochs.stores),
        Column("mean", measured_apart([one.mean for one in shown]), Rank.ALWAYS, is_number=True),
        Column(INTERVAL, ["-" if one.interval is None else interval(*one.interval) for one in shown], Rank.VALUE),
        Column(
            PROBABILITY,
            ["-" if one.probability_best is None else probability(one.probability_best) for one in shown],
            is_number=True,
        ),
        Column("runs", [" ".join(measured(value) for _, value in one.runs) for one in shown]),
        Column("before", [measured(one.finalist.value) for one in shown], is_number=True),
        *leaderboard.setting_columns([one.finalist.settings for one in shown]),
    ]
    title = f"{len(shown)} finalists by {question.metric}, on the new seeds {', '.join(map(str, question.seeds))}"
    return Board(title, columns, names=leaderboard.NAMES, wide=wide)
