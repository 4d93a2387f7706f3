"""Tables of what was chosen among, and of finalists that were trained again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from orchestrator.choosing.decision import Decision, TrialStanding
from orchestrator.records import ranking
from orchestrator.text.formatting import interval, measured, measured_apart, probability
from orchestrator.views import leaderboard

if TYPE_CHECKING:
    from orchestrator.choosing.confirming import Confirmation


def choice_table(decision: Decision, *, top: int) -> Table:
    """The first `top` trials, with the settings in which they differ."""
    shown = decision.standings()[:top]
    metric = decision.epochs.objective.metric
    made = Table(title=f"the best {len(shown)} of {decision.total_trials} trials, by {metric}", box=SIMPLE_HEAD)
    several = len({one.sweep for one in shown}) > 1
    differing = ranking.differing([one.settings for one in shown])
    heads = ["", *(["sweep"] if several else []), "trial", "epoch", metric, *sure_heads(decision)]
    for head in heads:
        made.add_column(head, justify="right" if head in {"epoch", metric, "P(best)"} else "left", no_wrap=True)
    for field in differing:
        made.add_column(field.rpartition(".")[2], no_wrap=True)
    made.add_column("state", no_wrap=True)
    values = measured_apart([one.value for one in shown])
    settings = leaderboard.setting_cells([one.settings for one in shown], differing)
    for rank, one in enumerate(shown, start=1):
        made.add_row(
            str(rank),
            *([one.sweep] if several else []),
            one.trial_id,
            leaderboard.epoch_of(one.epoch, one.settings),
            values[rank - 1],
            *sure_cells(one),
            *settings[rank - 1],
            one.state,
        )
    return leaderboard.kept_whole(made, *heads)


def sure_heads(decision: Decision) -> list[str]:
    """The columns of a table that say how sure the choice is, where that is known."""
    return [] if decision.verdict is None else ["95% interval", "P(best)", "set"]


def sure_cells(one: TrialStanding) -> list[str]:
    """Their cells for one of `standings`; none where nothing tells how sure the values are."""
    if one.interval is None or one.probability_best is None:
        return []
    return [interval(*one.interval), probability(one.probability_best), "*" if one.indistinguishable else ""]


def confirmation_table(confirmation: Confirmation) -> Table:
    """The finalists, best first, with the settings in which they differ."""
    question, shown = confirmation.question, confirmation.standings
    seeds = ", ".join(map(str, question.seeds))
    made = Table(title=f"{len(shown)} finalists by {question.metric}, on the new seeds {seeds}", box=SIMPLE_HEAD)
    varied = ranking.differing([one.finalist.settings for one in shown])
    heads = ("", "sweep", "trial", "mean", "95% interval", "P(best)", "runs", "before")
    for head in heads:
        made.add_column(head, justify="right" if head in {"mean", "P(best)", "before"} else "left", no_wrap=True)
    for field in varied:
        made.add_column(field.rpartition(".")[2], no_wrap=True)
    means = measured_apart([one.mean for one in shown])
    settings = leaderboard.setting_cells([one.finalist.settings for one in shown], varied)
    for rank, one in enumerate(shown, start=1):
        made.add_row(
            str(rank),
            one.finalist.sweep,
            one.finalist.trial_id,
            means[rank - 1],
            "-" if one.interval is None else interval(*one.interval),
            "-" if one.probability_best is None else probability(one.probability_best),
            " ".join(measured(value) for _, value in one.runs),
            measured(one.finalist.value),
            *settings[rank - 1],
        )
    return leaderboard.kept_whole(made, *heads)
