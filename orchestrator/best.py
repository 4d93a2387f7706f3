"""`python -m orchestrator.best --metric val_acc`: choose a checkpoint, say how sure, check it, export it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator import candidates, leaderboard, selection, streams, where
from orchestrator import command_line as cli
from orchestrator.candidates import ChoiceError, Epochs
from orchestrator.choosing import DEFAULT_RULE, RULES, Candidates, Judge, Rule, Verdict
from orchestrator.formatting import interval, measured, measured_apart, probability
from orchestrator.leaderboard import Entry
from orchestrator.names import identifier
from orchestrator.objective import Direction
from orchestrator.selection import Selection
from orchestrator.space import parse_settings
from orchestrator.storage import beside

app = cli.command()

Sweeps = Annotated[
    list[str] | None,
    typer.Option("--sweep", help="A sweep to choose from; may be repeated. Without: those of the latest question."),
]


@app.command()
def main(
    metric: Annotated[str, typer.Option(help="The column of `epochs` to choose by.")],
    results: cli.Results = Path("results"),
    sweep: Sweeps = None,
    condition: Annotated[
        str, typer.Option("--where", metavar="CONDITIONS", help='As in "fid <= 30 and model.nr_filters < 100".')
    ] = "",
    mode: Annotated[Literal["max", "min"] | None, typer.Option(help="Which way is better; the metric's own.")] = None,
    rule: Annotated[Rule, typer.Option(help="How to choose; docs/choosing.md says which does what.")] = DEFAULT_RULE,
    top: Annotated[int, typer.Option(min=1, help="How many trials to print.")] = 10,
    confirm: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Train the K finalists again on new seeds, which decide.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="R", help="With --confirm: how many new seeds for each.")] = 3,
    ensemble: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="Also say what averaging the K best trials would gain.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=cli.local, metavar="FOLDER", help="The folder to export to; one within the sweep's folder."
        ),
    ] = None,
    export: Annotated[bool, typer.Option("--export/--no-export", help="Whether to export the choice.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that exists.")] = False,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.root=PATH", help="Where the data lies now.")
    ] = None,
) -> None:
    """Print the best trials with how sure that is; export the choice with all that is handed in."""
    console = cli.console(stderr=as_json)
    with cli.plain_errors(ChoiceError, where.WhereError):
        settings = parse_settings(given or ())
        if set(settings) - {"data.root"}:
            raise ChoiceError(f"--set {', '.join(settings)}: only data.root can be set here")
        data_root = settings.get("data.root")
        selected = selection.select(results, sweep or ())
        conditions = where.parse(condition) if condition else ()

        def chosen() -> Choice:
            return choose(read(selected, metric, mode=mode, conditions=conditions), rule)

        if selected.sentence is not None and not as_json:
            console.print(selected.sentence, soft_wrap=True, highlight=False)

        if confirm is not None:
            if ensemble is not None:
                raise ChoiceError("--confirm and --ensemble do not go together")
            from orchestrator import confirming  # takes a second; who does not ask for it does without

            asked = {"metric": metric, "mode": mode, "rule": rule, "where": condition, "finalists": confirm}
            name = confirming.name_of([store.folder.name for store in selected.stores], **asked, seeds=seeds)
            decision = confirming.run(console, results, name, chosen, finalists=confirm, seeds=seeds, root=data_root)
        else:
            choice = chosen()
            gain = None if ensemble is None else ensemble_of(choice, ensemble)
    if confirm is not None:
        for problem in decision.epochs.problems:
            console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
        if not as_json:
            console.print(confirming.table(decision))
            for line in confirming.sentences(decision):
                console.print(line, soft_wrap=True, highlight=False)
        described = decision.describe()
        exported = decision.epochs, decision.row
    else:
        for problem in choice.epochs.problems:
            console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
        if not as_json:
            console.print(table(choice, top=top))
            for line in (*sentences(choice), *([] if gain is None else [gain["sentence"]])):
                console.print(line, soft_wrap=True, highlight=False)
        described = describe(choice, top=top) | ({} if gain is None else {"ensemble": gain})
        exported = choice.epochs, choice.row
    described |= selected.describe()
    if export:
        described["exported"] = str(_export(console, *exported, out, described, force, data_root, as_json))
    if as_json:
        print(json.dumps(described, indent=2))  # noqa: T201 - the command's output, free of a terminal's markup
        if streams.lost():
            raise typer.Exit(cli.FAILED)  # for whoever reads it: half of it is none


@dataclass(frozen=True)
class Choice:
    """What was chosen among `epochs`, by which rule, and what is known of the contenders."""

    epochs: Epochs  # the contenders
    rule: Rule
    row: int  # of `epochs`
    verdict: Verdict | None  # None where nothing tells how sure the values are
    notes: tuple[str, ...]
    total_trials: int

    @property
    def sign(self) -> float:
        return 1.0 if self.epochs.objective.direction == "max" else -1.0

    @property
    def trial_id(self) -> str:
        return str(self.epochs.trials[self.epochs.trial[self.row]][1]["trial_id"])

    @property
    def epoch(self) -> int:
        return int(self.epochs.epoch[self.row])

    def standings(self) -> list[dict[str, Any]]:
        """`standings` of this choice."""
        return standings(self)


def read(
    selected: Selection,
    metric: str,
    *,
    mode: Direction | None = None,
    conditions: Sequence[where.Condition] = (),
) -> Epochs:
    """The epochs to choose from. Raise ChoiceError, WhereError."""
    return candidates.read(selected.stores, metric, mode=mode, conditions=conditions, imports=selected.imports)


def choose(epochs: Epochs, rule: Rule = DEFAULT_RULE) -> Choice:
    """The epoch to hand in, among those whose weights are on disk. Raise ChoiceError where there is none."""
    with candidates.naming(epochs.problems):
        return _choose(epochs, rule)


def _choose(epochs: Epochs, rule: Rule) -> Choice:
    objective = epochs.objective
    if not epochs.kept.any():
        raise ChoiceError(f"no epoch with a {objective.metric} has its weights on disk any more; nothing to export")
    evidence = candidates.evidence(epochs)
    among, notes = evidence.epochs, [*epochs.notes, *evidence.notes]
    total = len(np.unique(epochs.trial))
    if evidence.sample is None or not among.kept.any():
        if evidence.sample is not None:
            notes.append("No interval: of the epochs that can be judged no weights are on disk")
        if rule != "max":
            notes.append(f"So --rule {rule} has nothing to go by: chosen is the best value")
        row = int(np.where(epochs.kept, epochs.scores, -np.inf).argmax())
        notes += _not_kept(epochs, row)
        shown = np.arange(len(candidates.contenders(epochs)))  # they come first
        if row not in shown:
            shown = np.append(shown, row)
        return Choice(epochs.take(shown), "max", int(np.flatnonzero(shown == row)[0]), None, tuple(notes), total)
    sizes = None
    if rule == "smallest":
        found = [
            candidates.folder_size(among.trials[trial], int(epoch)) if kept else None
            for trial, epoch, kept in zip(among.trial, among.epoch, among.kept, strict=True)
        ]
        sizes = np.array([np.inf if size is None else size for size in found])
        if not np.isfinite(sizes).any():
            raise ChoiceError("--rule smallest: none of the weights that the tables name is on disk; nothing to weigh")
    judge = Judge(Candidates(evidence.sample, among.trial, among.epoch, sizes, among.kept))
    verdict = judge.verdict(rule)
    return Choice(among, rule, verdict.chosen, verdict, (*notes, *_not_kept(among, verdict.chosen)), total)


def _not_kept(epochs: Epochs, row: int) -> list[str]:
    top = int(epochs.scores.argmax())
    if epochs.kept[top] or epochs.scores[top] <= epochs.scores[row]:
        return []
    trial = epochs.trials[epochs.trial[top]][1]
    return [
        (
            f"The best value, {epochs.objective.metric} {measured(epochs.values[top])} in epoch {epochs.epoch[top]} of "
            f"{trial['trial_id']}, cannot be chosen: its weights were not kept"
        )
    ]


def standings(choice: Choice) -> list[dict[str, Any]]:
    """One row per trial: the chosen one first, then by the value that the rule goes by.

    A trial stands with its best epoch of those whose weights are kept (else of all); its probability is that of any of
    its epochs.
    """
    epochs, verdict = choice.epochs, choice.verdict
    by = epochs.scores if verdict is None or choice.rule == "max" else verdict.smoothed
    shown = []
    for trial in dict.fromkeys(epochs.trial.tolist()):
        rows = np.flatnonzero(epochs.trial == trial)
        allowed = rows[epochs.kept[rows]] if epochs.kept[rows].any() else rows
        row = choice.row if trial == epochs.trial[choice.row] else int(allowed[by[allowed].argmax()])
        store, held = epochs.trials[trial]
        shown.append(
            {
                "sweep": store.folder.name,
                "trial_id": held["trial_id"],
                "epoch": int(epochs.epoch[row]),
                "value": float(epochs.values[row]),
                "interval": None if verdict is None else _turned(choice, verdict.low[row], verdict.high[row]),
                "smoothed": None if verdict is None else choice.sign * float(verdict.smoothed[row]),
                "probability_best": None if verdict is None else float(verdict.probability[rows].sum()),
                "indistinguishable": None if verdict is None else bool(verdict.indistinguishable[rows].any()),
                "chosen": row == choice.row,
                "state": held["state"],
                "settings": Entry(store, held, ()).settings(),
                "_by": float(by[row]),
            }
        )
    shown.sort(key=lambda one: (not one["chosen"], -float(f"{one.pop('_by'):.9g}")))  # equals but for rounding: earlier
    return shown


def _turned(choice: Choice, low: float, high: float) -> list[float]:
    return sorted([choice.sign * float(low), choice.sign * float(high)])


def describe(choice: Choice, *, top: int) -> dict[str, Any]:
    """The choice for JSON."""
    verdict = choice.verdict
    corrected, together = None, None
    if verdict is not None:
        together = len(np.unique(choice.epochs.trial[verdict.indistinguishable]))
        corrected = {
            "value": choice.sign * verdict.corrected,
            "interval": _turned(choice, verdict.corrected_low, verdict.corrected_high),
        }
    extractor, images, reference = choice.epochs.drawn or (None, None, None)
    return {
        "metric": choice.epochs.objective.metric,
        "mode": choice.epochs.objective.direction,
        "rule": choice.rule,
        "trials": choice.total_trials,
        "drawn": None if choice.epochs.drawn is None else [extractor, images, reference],
        "corrected": corrected,
        "judged": None if verdict is None else len(np.unique(choice.epochs.trial)),
        "indistinguishable": together,
        "notes": list(choice.notes),
        "best": standings(choice)[:top],
    }


def table(choice: Choice, *, top: int) -> Table:
    """The first `top` trials, with the settings in which they differ."""
    shown = standings(choice)[:top]
    metric = choice.epochs.objective.metric
    made = Table(title=f"the best {len(shown)} of {choice.total_trials} trials, by {metric}", box=SIMPLE_HEAD)
    several = len({one["sweep"] for one in shown}) > 1
    differing = leaderboard.differing([one["settings"] for one in shown])
    heads = ["", *(["sweep"] if several else []), "trial", "epoch", metric, *sure_heads(choice)]
    for head in heads:
        made.add_column(head, justify="right" if head in {"epoch", metric, "P(best)"} else "left", no_wrap=True)
    for field in differing:
        made.add_column(field.rpartition(".")[2], no_wrap=True)
    made.add_column("state", no_wrap=True)
    values = measured_apart([one["value"] for one in shown])
    settings = leaderboard.setting_cells([one["settings"] for one in shown], differing)
    for rank, one in enumerate(shown, start=1):
        made.add_row(
            str(rank),
            *([one["sweep"]] if several else []),
            one["trial_id"],
            leaderboard.epoch_of(one["epoch"], one["settings"]),
            values[rank - 1],
            *sure_cells(one),
            *settings[rank - 1],
            one["state"],
        )
    return leaderboard.kept_whole(made, *heads)


def sure_heads(choice: Choice) -> list[str]:
    """The columns of a table that say how sure the choice is, where that is known."""
    return [] if choice.verdict is None else ["95% interval", "P(best)", "set"]


def sure_cells(one: Mapping[str, Any]) -> list[str]:
    """Their cells for one of `standings`."""
    if one["interval"] is None:
        return []
    return [interval(*one["interval"]), probability(one["probability_best"]), "*" * one["indistinguishable"]]


def sentences(choice: Choice) -> list[str]:
    """What the table does not say."""
    said = [f"{note}." for note in choice.notes]
    verdict, metric = choice.verdict, choice.epochs.objective.metric
    chosen = f"Chosen by --rule {choice.rule}: {_named(choice)}"
    if verdict is None:
        return [*said, f"{chosen}."]
    bounds = interval(*_turned(choice, verdict.corrected_low, verdict.corrected_high))
    return [
        *said,
        f"{chosen}. Corrected for the choice its {metric} is {measured(choice.sign * verdict.corrected)} ({bounds}).",
        *_of_the_set(choice, verdict),
    ]


def _named(choice: Choice) -> str:
    entry = Entry(*choice.epochs.trials[choice.epochs.trial[choice.row]], ())
    return f"imported checkpoint {entry.trial_id}" if entry.is_imported else f"epoch {choice.epoch} of {entry.trial_id}"


def _of_the_set(choice: Choice, verdict: Verdict) -> list[str]:
    """How many trials may be the best one, what P(best) has to do with it, and why the choice is none of them."""
    trial, together = choice.epochs.trial, verdict.indistinguishable
    count, judged = len(np.unique(trial[together])), len(np.unique(trial))
    share = probability(min(1.0, float(verdict.probability[together].sum())))
    known = "" if judged == choice.total_trials else f"; {choice.total_trials - judged} others are not judged"
    said = [
        (
            f"{count} of {judged} trials cannot be told from the best (*){known}. With 95% confidence the truly best "
            f"trial is among them; their P(best) adds up to {share}."
        )
    ]
    if not together[choice.row]:
        why = f"--rule {choice.rule} goes by more than the best value of each trial, and the set by that alone"
        if choice.rule == "max" or not choice.epochs.kept[together].any():
            why = "the weights of their best epochs are not on disk"
        said.append(f"The choice is not among them: {why}.")
    return said


def ensemble_of(choice: Choice, count: int) -> dict[str, Any]:
    """What the mean prediction of the best `count` trials would gain. Raise ChoiceError where it cannot be known."""
    from orchestrator.ensemble import gain

    if choice.epochs.objective.metric != "val_acc" or choice.verdict is None:
        raise ChoiceError("--ensemble: needs --metric val_acc and stored predictions")
    with candidates.naming(choice.epochs.problems):
        return gain(choice.epochs, choice.verdict.smoothed, count)


def _export(
    console: Console,
    epochs: Epochs,
    row: int,
    out: Path | None,
    described: dict[str, Any],
    force: bool,
    data_root: Any,
    quiet: bool,
) -> Path:
    from orchestrator.export import CARD, ExportError, MismatchError
    from orchestrator.export import export as write

    metric = epochs.objective.metric
    entry, epoch = epochs.entry(row)
    number = epoch["epoch"]
    sweep = entry.store.folder
    folder = (
        out or beside(sweep.parent) / sweep.name / "exports" / f"{identifier(metric)}-{entry.trial_id}-{number:04d}"
    )
    try:
        with cli.plain_errors():
            done = write(entry, epoch, metric, folder, force=force, data_root=data_root, choice=described)
    except MismatchError as error:
        cli.fail(str(error), cli.FAILED)
    except ExportError as error:
        cli.fail(str(error), cli.BAD_INPUT)
    if not quiet:
        compared = done.checked.get(metric)
        agreed = f": {metric} {compared[0]:.6f} recorded, {compared[1]:.6f} measured again" if compared else ""
        what = f"imported checkpoint {entry.trial_id}" if entry.is_imported else f"epoch {number} of {entry.trial_id}"
        console.print(f"Exported {what}{agreed}.", highlight=False)
        if done.as_graded is not None:
            console.print(
                "Its pixels are rounded, and so are those of the predictions handed in. The course's scripts do not "
                f"round: they would give the weights val_acc {done.as_graded['val_acc']:.6f}, val_bpd "
                f"{done.as_graded['val_bpd']:.6f}.",
                soft_wrap=True,
                highlight=False,
            )
        console.print(f"  {done.folder} ({CARD} says what is in it)", soft_wrap=True, highlight=False)
    return done.folder


__all__ = ["RULES", "Choice", "ChoiceError", "Direction", "app", "choose", "describe", "read", "table"]

if __name__ == "__main__":
    cli.run(app)
