"""`python -m orchestrator.trial SPACE`: one trial in this process, without Ray; imports, replays, images of trials."""

from __future__ import annotations

import bdb
import logging
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from cpcnn_core import environment, renaming
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.starter import Choices
from orchestrator import command_line as cli
from orchestrator.exporting import drawing, submission
from orchestrator.objectives.objective import Objective
from orchestrator.process import signals, streams
from orchestrator.records import beginning, kinds, mixtures
from orchestrator.records.ranking import is_of_training
from orchestrator.records.recording import Recording
from orchestrator.records.states import meaning_of
from orchestrator.records.store import Store, StoreError
from orchestrator.search import space
from orchestrator.text import calling
from orchestrator.text.formatting import measured, plain
from orchestrator.training import importing, replaying, trainer
from orchestrator.views import tracking

logger = logging.getLogger(__name__)

_WAY_OUT = "give this trial another --name"  # where the folder holds trials of other data, or of another protocol
_COLUMNS = ("train_bpd", "val_bpd", "val_acc", "seconds")


class _DefaultRun(TyperGroup):
    """`trial SPACE ...` means `trial run SPACE ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_DefaultRun, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Train one trial in this process. `python -m orchestrator.trial SPACE [OPTIONS]` is short for `run`."""


@app.command()
def run(
    space_file: cli.SpaceFile,
    given: cli.Settings = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --set train.epochs=N.")] = None,
    results: cli.Results = Path("results"),
    name: Annotated[str | None, typer.Option(help="The folder in RESULTS; the space file's name and -trials.")] = None,
    seed: cli.Seed = 0,
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
) -> None:
    """Train the trial of SPACE that --set describes.

    A searched field that is not set takes the configuration's default where the space allows it, else the first option
    or the low bound. The same command again resumes an interrupted trial. Started several times by torchrun or
    accelerate launch, they train it together.
    """
    console = cli.console()
    settings = [*(given or ()), *([f"train.epochs={epochs}"] if epochs is not None else [])]
    with cli.plain_errors(), cli.stoppable():
        place = environment.rendezvous()
        environment.forget_launchers(keep=place)
        asked = space.read(space_file, settings, seed=seed)
        config = trainer.identified(trainer.with_one_extractor(asked.default()))
        store = Store((results / cli.folder_name(name or f"{space_file.stem}-trials")).absolute())
        if place is not None and place.processes > 1 and store.is_remote:
            raise ConfigError(f"--results {results}: {place.processes} processes of a trial need a folder that all see")
        mixtures.check(store, config, way_out=_WAY_OUT)
        if place is not None and place.rank > 0:
            trainer.follow(config, store)
            return
        trainer.check(config)
        with beginning.begun(store, config.trial_id):
            kinds.introduce(store, "trials", asked.question, asked.source)
            _print_settings(console, config)
            with tracking.following(store, wandb=wandb, tensorboard=tensorboard, say=console.print):
                error = train(console, config, store, asked.objective)
    if error is not None:
        cli.fail(f"trial {config.trial_id}: {error}\nIts log is {store.log_file(config.trial_id)}", cli.FAILED)
    console.print(f"Trial {config.trial_id} is in {store.folder}", soft_wrap=True, highlight=False)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(parser=cli.local, metavar="FILE", help="A checkpoint of the starter code, .pth or safetensors."),
    ],
    fusion: Annotated[
        str,
        typer.Option(help=f"The fusion that the file's network has: {', '.join(FUSIONS)}; or several joined by +."),
    ],
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="The file's name of a parameter (or what names begin with up to a dot), and ours. `*` stands for any "
            "characters; A+B=NEW joins two tensors; the same OLD again uses it twice. docs/import.md has examples.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tensor of the file to leave out; `*` as in --rename. May be repeated."),
    ] = None,
    first_classes: Annotated[
        bool, typer.Option("--first-classes", help="Of label tables with more classes than the data, take the first.")
    ] = False,
    given: cli.Settings = None,
    results: cli.Results = Path("results"),
    name: Annotated[str, typer.Option(help="The folder in RESULTS.")] = "imported",
) -> None:
    """Bring a starter-code checkpoint into the results as a trial of its own, evaluated like every other.

    Sizes are read off the file's shapes. Without --set data.name the data set is cpen455, at --set data.root=PATH.
    """
    console = cli.console()
    with cli.plain_errors(), cli.stoppable():
        settings = space.parse_settings(given or ())
        importing.check_settings(settings)
        settings = {"data.name": "cpen455", **settings, "model.fusion": fusion}
        config = trainer.with_one_extractor(TrialConfig.from_flat(settings))
        store = Store((results / cli.folder_name(name)).absolute())
        choices = Choices(renaming.parse_all(rename or ()), tuple(drop or ()), first_classes)

        def say(remark: str) -> None:
            console.print(f"{file}: {remark}", soft_wrap=True, highlight=False)

        config, metrics = importing.import_trial(file, config, store, choices=choices, say=say, way_out=_WAY_OUT)
    _print_settings(console, config)
    console.print(
        f"val_acc {measured(metrics.val_acc, 5)}, val_bpd {measured(metrics.val_bpd, 5)}; "
        f"trial {config.trial_id} is in {store.folder}",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def sample(
    source: Annotated[
        str, typer.Argument(metavar="TRIAL_ID|WEIGHTS", help="A trial, or a .safetensors file of its weights.")
    ],
    sweep: Annotated[str | None, typer.Option(help="The sweep that ran it, where several did.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Whose weights draw; the last one that was kept.")] = None,
    count: Annotated[
        list[str] | None, typer.Option(metavar="N|CLASS=N", help="Images of each class, or of one. May be repeated.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Below 1 likelier images, at 0 no noise at all.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of the noise; the trial's own.")] = None,
    complete: Annotated[
        Path | None,
        typer.Option(parser=cli.local, metavar="IMAGE", help="Keep this image's rows above --from-row, draw the rest."),
    ] = None,
    from_row: Annotated[int | None, typer.Option(help="The first row that is drawn; half the height.")] = None,
    results: cli.Results = Path("results"),
    out: Annotated[
        Path, typer.Option(parser=cli.local, metavar="FOLDER", help="The folder to make for the images.")
    ] = Path("drawn"),
) -> None:
    """Draw images with a trial's weights, 25 of each class by default, or complete one image in as many ways."""
    console = cli.console()
    with cli.plain_errors():
        if out.exists():
            raise ConfigError(f"--out {out}: exists; name another folder, so that old images never mix with new ones")
        file = drawing.weights_file(
            source, results, sweep=None if sweep is None else cli.known_name(sweep), epoch=epoch
        )
        weights, checksum = drawing.load(file)
        half = 0 if complete is None else weights.model.image_shape[1] // 2
        asked = drawing.Request(
            drawing.parse_counts(count or (), weights.model.nr_classes),
            weights.config.seed if seed is None else seed,
            temperature,
            None if complete is None else str(complete),
            half if from_row is None else from_row,
        )
        with _bar(console) as bar:
            task = bar.add_task("rows drawn", total=None)
            drawn = drawing.draw(weights, asked, lambda done, total: bar.update(task, completed=done, total=total))
        drawing.write(out, drawn, asked, file, checksum)
    console.print(
        f"{len(drawn.labels)} images by {file} are in {out / submission.SAMPLES}, all in {out / submission.GRID}",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def replay(
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL_ID", help="As the tables and the leaderboard name it.")],
    sweep: Annotated[str | None, typer.Option(help="The sweep that ran it, where several did.")] = None,
    results: cli.Results = Path("results"),
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.root=PATH", help="Where the data lies now.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder in RESULTS; the sweep's name and -replays.")] = None,
) -> None:
    """Run a recorded trial again in this process, from its recorded configuration and seed, and compare the metrics.

    It begins anew, in a folder of its own, and goes as far as the recorded one went. On a CPU with the recorded number
    of threads and versions every metric is the same; one that is not is printed.
    """
    console = cli.console()
    with cli.plain_errors(), cli.stoppable():
        place = environment.rendezvous()
        environment.forget_launchers()
        if place is not None and place.processes > 1:
            raise ConfigError(f"environment: WORLD_SIZE is {place.processes}; a replay runs in one process")
        recorded = replaying.holder(results, trial_id, None if sweep is None else cli.known_name(sweep))
        config = replaying.recorded_config(recorded, trial_id, given or ())
        store = replaying.scratch(results, cli.folder_name(name) if name else f"{recorded.folder.name}-replays")
        trainer.check(config)
        wanted = recorded.epochs_of(trial_id)
        threads = replaying.threads_by_epoch(recorded.attempts_of(trial_id), wanted)
        objective = replaying.recorded_objective(recorded)
        with beginning.begun(store, config.trial_id):
            kinds.introduce(store, "replays", f"Replays of {recorded.folder.name}.")
            _print_settings(console, config)
            error = train(console, config, store, objective, until=len(wanted), threads=threads)
    if error is not None:
        cli.fail(f"trial {config.trial_id}: {error}", cli.FAILED)
    differences = replaying.differences(wanted, store.epochs_of(trial_id))
    for difference in differences:
        console.print(difference, soft_wrap=True, highlight=False)
    if differences:
        cli.fail(f"{len(differences)} of the recorded metrics came out otherwise", cli.FAILED)
    console.print(f"All metrics of {len(wanted)} epochs are as recorded.", highlight=False)


def train(
    console: Console,
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    *,
    until: int | None = None,
    threads: Mapping[int, int] | None = None,
) -> str | None:
    """Train, showing and recording each epoch, all that are missing, or anew `until` one. Return what went wrong.

    `threads` says with how many of torch's an epoch is trained; those that it does not name with as many as before.
    """
    console.print("epoch  " + "  ".join(f"{name:>9}" for name in _COLUMNS))
    earlier = [] if until is not None else store.epochs_of(config.trial_id)
    for row in earlier:
        _print_epoch(console, row)
    if until is None and store.reported_epochs(config.trial_id) >= config.train.epochs:
        attempts = store.attempts_of(config.trial_id)
        if not attempts or not meaning_of(attempts[-1]["state"]).ended:  # its row was lost, or cut short at the end
            Recording(store, config, number=None).finish("COMPLETE")
        console.print("All epochs were there already; another --seed or --set makes another trial.")
        return None
    begun: list[Recording] = []  # one, once this process alone trains the trial
    with (
        signals.as_interrupts() as asked,
        streams.unheld(),
        _bar(console) as bar,
        trainer.log_to(store.log_file(config.trial_id), redirect=False),
    ):
        task = bar.add_task("trained", total=None)

        def on_progress(stage: str, done: int, total: int) -> None:
            asked.check()
            bar.update(task, description=stage, completed=done, total=total)

        try:
            return _recorded(console, config, store, objective, begun, on_progress, until=until, threads=threads or {})
        except (KeyboardInterrupt, bdb.BdbQuit) as error:
            _interrupt(begun, "the debugger was left" if isinstance(error, bdb.BdbQuit) else signals.why(error))
            console.print(f"Stopped. To go on where it stands:\n  {calling.same()}", soft_wrap=True, highlight=False)
            raise typer.Exit(cli.STOPPED) from None
        except Exception:
            raise
        except BaseException as error:  # as a debugger that ends the whole process
            _interrupt(begun, trainer.describe(error))
            raise


def _recorded(
    console: Console,
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    begun: list[Recording],
    on_progress: trainer.OnProgress,
    *,
    until: int | None,
    threads: Mapping[int, int],
) -> str | None:
    """Train, with a recording that is put into `begun` once it begins. Return what went wrong."""

    def begin() -> None:
        if until is not None:
            replaying.forget(store, config.trial_id)
        begun.append(Recording(store, config, number=None, place=trainer.place()))

    def prepare(epoch: int) -> None:
        if epoch in threads:
            trainer.set_threads(threads[epoch])

    try:
        prepare(1)
        epochs = trainer.run(config, store, trainer.train, objective=objective, on_begin=begin, on_progress=on_progress)
        for metrics in epochs:
            begun[0].add(metrics, trainer.place())
            _print_epoch(console, metrics.row())
            if metrics.epoch == until:
                break
            prepare(metrics.epoch + 1)
        epochs.close()
    except (trainer.TrialBusyError, bdb.BdbQuit):
        raise
    except Exception as error:
        if not begun:
            raise
        logger.exception("the trial failed")
        traceback.print_exc()
        with suppress(OSError):  # which is then what went wrong, and said already
            store.publish_log(config.trial_id)
        begun[0].finish("FAILED", trainer.describe(error))
        return trainer.describe(error)
    whole = begun[0].attempt.epochs >= config.train.epochs
    begun[0].finish("COMPLETE" if whole else "PRUNED", stopped=None if whole else "as far as the recorded trial went")
    return None


def _interrupt(begun: Sequence[Recording], why: str) -> None:
    """Write that the trial waits. Raise nothing: what could not be written is found by whoever takes the trial up."""
    for recording in begun:
        with suppress(StoreError, OSError):
            recording.finish("INTERRUPTED", stopped=why)


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)


def _print_settings(console: Console, config: TrialConfig) -> None:
    defaults, flat = TrialConfig().flat(), config.flat()
    known = [key for key in flat if config.source is None or not is_of_training(key)]
    shown = [f"{key}={plain(flat[key])}" for key in known if defaults.get(key) != flat[key]]
    console.print(f"Trial {config.trial_id}, {', '.join(shown) or 'all defaults'}", soft_wrap=True, highlight=False)


def _print_epoch(console: Console, row: dict[str, Any]) -> None:
    values = "  ".join(f"{measured(row[name]):>9}" for name in _COLUMNS)
    console.print(f"{row['epoch']:5d}  {values}", highlight=False)


if __name__ == "__main__":
    cli.run(app)
