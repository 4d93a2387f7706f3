"""`python -m orchestrator.best --metric val_acc`: choose a checkpoint, say how sure, check it, export it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cpcnn_core.suggest import nearest
from orchestrator import candidates, leaderboard, streams, where
from orchestrator import command_line as cli
from orchestrator.candidates import ChoiceError, Epochs
from orchestrator.choosing import DEFAULT_RULE, RULES, Candidates, Judge, Rule, Verdict
from orchestrator.objective import Direction
from orchestrator.progress import plain
from orchestrator.space import parse_settings
from orchestrator.storage import Folder, beside
from orchestrator.store import CONFIRMATION, Store, sweeps

app = cli.command()

Sweeps = Annotated[list[str] | None, typer.Option("--sweep", help="A sweep to choose from; may be repeated; all.")]


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
    out: Annotated[Path | None, typer.Option(help="The folder to export to; one within the sweep's folder.")] = None,
    export: Annotated[bool, typer.Option("--export/--no-export", help="Whether to export the choice.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that exists.")] = False,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.root=PATH", help="Where the data lies now.")
    ] = None,
) -> None:
    """Print the best trials with how sure that is; export the choice with all that is handed in."""
    console = Console(stderr=True) if as_json else cli.console()
    with cli.plain_errors(ChoiceError, where.WhereError):
        settings = parse_settings(given or ())
        if set(settings) - {"data.root"}:
            raise ChoiceError(f"--set {', '.join(settings)}: only data.root can be set here")
        data_root = settings.get("data.root")
        stores = chosen_sweeps(results, sweep or ())

        conditions = where.parse(condition) if condition else ()

        def chosen() -> Choice:
            return choose(candidates.read(stores, metric, mode=mode, conditions=conditions), rule)

        if confirm is not None:
            if ensemble is not None:
                raise ChoiceError("--confirm and --ensemble do not go together")
            from orchestrator import confirming  # takes a second; who does not ask for it does without

            asked = {"metric": metric, "mode": mode, "rule": rule, "where": condition, "finalists": confirm}
            name = confirming.name_of([store.folder.name for store in stores], **asked, seeds=seeds)
            decision = confirming.run(console, results, name, chosen, finalists=confirm, seeds=seeds, root=data_root)
        else:
            choice = chosen()
            gain = None if ensemble is None else ensemble_of(choice, ensemble)
    if confirm is not None:
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


def choose(epochs: Epochs, rule: Rule = DEFAULT_RULE) -> Choice:
    """The epoch to hand in, among those whose weights are on disk. Raise ChoiceError where there is none."""
    objective = epochs.objective
    if not epochs.kept.any():
        raise ChoiceError(f"no epoch with a {objective.metric} has its weights on disk any more; nothing to export")
    evidence = candidates.evidence(epochs)
    among, notes = evidence.epochs, list(evidence.notes)
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
            f"The highest value, {epochs.objective.metric} {epochs.values[top]:.4f} in epoch {epochs.epoch[top]} of "
            f"{trial['trial_id']}, cannot be chosen: its weights were not kept"
        )
    ]


def chosen_sweeps(results: Folder, names: Sequence[str]) -> list[Store]:
    """The sweeps of these names, or all but confirmations. Raise ChoiceError where one is not there, or none is."""
    found = {store.folder.name: store for store in sweeps(results)}
    if not found:
        raise ChoiceError(
            f"{results}: holds no sweep; {cli.again('orchestrator.sweep', 'search_spaces/digits.py')} runs one"
        )
    for name in names:
        if name not in found:
            raise ChoiceError(f"--sweep {name}: no such sweep in {results}{nearest(name, found)}")
    if names:
        return [found[name] for name in dict.fromkeys(names)]
    # A confirmation's runs repeat what these sweeps found.
    return [store for store in found.values() if CONFIRMATION not in (store.read_sweep() or {})] or list(found.values())


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
                "settings": leaderboard.Entry(store, held, ()).settings(),
                "_by": float(by[row]),
            }
        )
    shown.sort(key=lambda one: (not one["chosen"], -one.pop("_by")))
    return shown


def _turned(choice: Choice, low: float, high: float) -> list[float]:
    return sorted([choice.sign * float(low), choice.sign * float(high)])


def describe(choice: Choice, *, top: int) -> dict[str, Any]:
    """The choice for JSON."""
    verdict = choice.verdict
    corrected = None
    if verdict is not None:
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
        "notes": list(choice.notes),
        "best": standings(choice)[:top],
    }


def table(choice: Choice, *, top: int) -> Table:
    """The first `top` trials, with the settings in which they differ."""
    shown = standings(choice)[:top]
    metric = choice.epochs.objective.metric
    made = Table(title=f"the best {len(shown)} of {choice.total_trials} trials, by {metric}", box=SIMPLE_HEAD)
    several = len({one["sweep"] for one in shown}) > 1
    entries = [one["settings"] for one in shown]
    differing = leaderboard.differing(entries)
    sure = [] if choice.verdict is None else ["95% interval", "P(best)", "set"]
    heads = ["", *(["sweep"] if several else []), "trial", "epoch", metric, *sure]
    for head in heads:
        made.add_column(head, justify="right" if head in {"epoch", metric, "P(best)"} else "left", no_wrap=True)
    for field in differing:
        made.add_column(field.rpartition(".")[2], no_wrap=True)
    made.add_column("state", no_wrap=True)
    for rank, one in enumerate(shown, start=1):
        certainty = []
        if one["interval"] is not None:
            low, high = one["interval"]
            certainty = [f"{low:.4f} to {high:.4f}", f"{one['probability_best']:.2f}", "*" * one["indistinguishable"]]
        made.add_row(
            str(rank),
            *([one["sweep"]] if several else []),
            one["trial_id"],
            f"{one['epoch']}/{one['settings']['train.epochs']}",
            f"{one['value']:.4f}",
            *certainty,
            *(plain(one["settings"][field]) if field in one["settings"] else "" for field in differing),
            one["state"],
        )
    return made


def sentences(choice: Choice) -> list[str]:
    """What the table does not say."""
    said = [f"{note}." for note in choice.notes]
    verdict, metric = choice.verdict, choice.epochs.objective.metric
    chosen = f"Chosen by --rule {choice.rule}: epoch {choice.epoch} of {choice.trial_id}"
    if verdict is None:
        return [*said, f"{chosen}."]
    low, high = _turned(choice, verdict.corrected_low, verdict.corrected_high)
    together = len(np.unique(choice.epochs.trial[verdict.indistinguishable]))
    return [
        *said,
        (
            f"{chosen}. Corrected for the choice its {metric} is {choice.sign * verdict.corrected:.4f} "
            f"({low:.4f} to {high:.4f})."
        ),
        f"{together} of {choice.total_trials} trials cannot be told from the best (*).",
    ]


def ensemble_of(choice: Choice, count: int) -> dict[str, Any]:
    """What the mean prediction of the best `count` trials would gain. Raise ChoiceError where it cannot be known."""
    from orchestrator.ensemble import gain

    if choice.epochs.objective.metric != "val_acc" or choice.verdict is None:
        raise ChoiceError("--ensemble: needs --metric val_acc and stored predictions")
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
    folder = out or beside(sweep.parent) / sweep.name / "exports" / f"{metric}-{entry.trial_id}-{number:04d}"
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
        console.print(f"Exported epoch {number} of trial {entry.trial_id}{agreed}.", highlight=False)
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


__all__ = ["RULES", "Choice", "ChoiceError", "Direction", "app", "choose", "chosen_sweeps", "describe", "table"]

if __name__ == "__main__":
    cli.run(app)
