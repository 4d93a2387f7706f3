"""`cpcnn trial SPACE`: one trial by hand, without Ray; imports, replays, images of trials and data."""

from __future__ import annotations

import ast
import bdb
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperGroup

from orchestrator import command_line as cli
from orchestrator.text import literals

if TYPE_CHECKING:
    from cpcnn_core import environment
    from cpcnn_core.config import TrialConfig
    from orchestrator.objectives.objective import Objective
    from orchestrator.records.store import Store
    from orchestrator.training import continuing
    from orchestrator.training.replaying import Replay
    from orchestrator.training.replicas import Replicated
    from orchestrator.views import tracking

_WAY_OUT = "give this trial another --name"  # where the folder holds trials of other data, or of another protocol

_IMPORTING = "Importing PyTorch"

_TRAINING_PANEL = "How it is trained"
_IMPORT_PANEL = "What is taken of FILE"
_DRAWING_PANEL = "What is drawn"

Renames = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD=NEW",
        rich_help_panel=_IMPORT_PANEL,
        show_default="the starter code's names",
        help="The file's name of a parameter (or what names begin with up to a dot), and ours. `*` stands for any "
        "characters; A+B=NEW joins two tensors; the same OLD again uses it twice. docs/import.md has examples.",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_IMPORT_PANEL,
        show_default="none",
        help="A tensor of the file to leave out; `*` as in --rename. May be repeated.",
    ),
]
FirstClasses = Annotated[
    bool,
    typer.Option(
        "--first-classes",
        rich_help_panel=_IMPORT_PANEL,
        show_default="refuse other classes",
        help="Of label tables with more classes than the data, take the first.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_TRAINING_PANEL,
        show_default="this one alone",
        help="How many processes share each batch, with a GPU each where there are any.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_TRAINING_PANEL,
        show_default="the space's",
        help="Short for --set train.epochs=N.",
    ),
]
InAll = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        rich_help_panel=_TRAINING_PANEL,
        show_default="as many as the trial had",
        help="Instead: how many in all.",
    ),
]
MoreEpochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_TRAINING_PANEL,
        show_default="none",
        help="How many epochs more.",
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="the only one that has it",
        help="The sweep that ran the trial, where several did.",
    ),
]
TrialId = Annotated[str, typer.Argument(metavar="TRIAL_ID", help=cli.TRIAL_HELP)]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="TRIAL_ID|FILE",
        rich_help_panel=cli.CHOICE_PANEL,
        help="A trial that has ended, or a .pth of starter code.",
    ),
]
StarterFile = Annotated[
    Path,
    typer.Argument(parser=cli.local, metavar="FILE", help="A checkpoint of the starter code, .pth or safetensors."),
]
Source = Annotated[
    str, typer.Argument(metavar="TRIAL_ID|WEIGHTS", help="A trial, or a .safetensors file of its weights.")
]
WeightsOf = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="the last one that was kept",
        help="Whose weights draw.",
    ),
]
Count = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|CLASS=N",
        rich_help_panel=_DRAWING_PANEL,
        show_default="25 of each class",
        help="Images of each class, or of one by its name or number. May be repeated.",
    ),
]
Temperature = Annotated[
    float,
    typer.Option(min=0.0, rich_help_panel=_DRAWING_PANEL, help="Below 1 likelier images, at 0 no noise at all."),
]
NoiseSeed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        rich_help_panel=_DRAWING_PANEL,
        show_default="the trial's own",
        help="Of the noise.",
    ),
]
Complete = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="IMAGE",
        rich_help_panel=_DRAWING_PANEL,
        show_default="none",
        help="Keep this image's rows above --from-row, draw the rest.",
    ),
]
FromRow = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_DRAWING_PANEL,
        show_default="half the height",
        help="The first row that is drawn.",
    ),
]
Drawn = Annotated[
    Path,
    typer.Option(
        parser=cli.local,
        metavar="FOLDER",
        rich_help_panel=cli.OUT_PANEL,
        show_default="the folder drawn",
        help="The folder to make for the images.",
    ),
]


def _fusions() -> tuple[str, ...]:
    """The names in the core's registry, which is read and not imported: that takes as long as PyTorch."""
    spec = importlib.util.find_spec("cpcnn_core.fusion")
    assert spec is not None
    assert spec.origin is not None
    return literals.keys(ast.parse(Path(spec.origin).read_text(encoding="utf-8")), "FUSIONS")


Fusion = Annotated[
    str,
    typer.Option(
        rich_help_panel=_IMPORT_PANEL,
        help=f"The fusion that the file's network has: {', '.join(_fusions())}; or several joined by +.",
    ),
]


def _name(default: str) -> Any:  # Any: a class of options that typer does not publish
    return typer.Option(rich_help_panel=cli.RESULTS_PANEL, show_default=default, help="The folder in RESULTS.")


class _DefaultRun(TyperGroup):
    """`trial SPACE ...` means `trial run SPACE ...`, and `trial --from ...` means `trial continue --from ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # Any: a class that typer does not publish
        if any(arg == "--from" or arg.startswith("--from=") for arg in args) and args[0] not in self.commands:
            args = ["continue", *args]
        elif args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_DefaultRun, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Train one trial in this process. `trial SPACE` is short for `run`, `trial --from` for `continue`."""


@app.command(
    epilog=cli.examples(
        "trial digits --set model.fusion=stem_add --epochs 2",
        "trial cpen455 --preset cpu --set data.root=PATH --processes 2",
    )
)
@cli.plain_errors()
@cli.stoppable()
def run(
    space_file: cli.SpaceFile,
    preset: cli.Preset = None,
    given: cli.Settings = None,
    epochs: Epochs = None,
    results: cli.Results = Path("results"),
    name: Annotated[str | None, _name("the space's name, the preset's, and -trials")] = None,
    seed: cli.Seed = 0,
    processes: Processes = None,
    plain: cli.PlainOption = False,
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    tracker: cli.TrackerOption = None,
) -> None:
    """Train the trial of SPACE that --set describes.

    A searched field that is not set takes the configuration's default where the space allows it, else the first option
    or the low bound. The same command again resumes an interrupted trial. Started several times by torchrun or
    accelerate launch, they train it together. `python -m pdb -m orchestrator.trial SPACE` debugs it.
    """
    console = cli.console()
    with cli.doing(console, _IMPORTING, plain=plain):
        from orchestrator.records import kinds
        from orchestrator.records.store import Store
        from orchestrator.search import shipped, space
        from orchestrator.training import trainer
        from orchestrator.views import tracking

    trackers = tracking.asked(tracker or (), wandb=wandb, tensorboard=tensorboard)
    way = _way(trackers, processes, plain=plain)
    settings = [*(given or ()), *([f"train.epochs={epochs}"] if epochs else [])]
    asked = space.read(space_file, settings, preset=preset, seed=seed)
    config = trainer.identified(trainer.with_one_extractor(asked.default()))
    store = Store((results / cli.folder_name(name or f"{shipped.sweep_name(space_file, preset)}-trials")).absolute())

    def begin() -> None:
        names = trainer.content(config.data).class_names
        kinds.introduce(store, "trials", asked.question, asked.source, class_names=names)
        _print_settings(console, config)

    _train_by_hand(console, config, store, asked.objective, way, begin)


@app.command(
    "continue",
    epilog=cli.examples("trial --from 1a2b3c --more-epochs 10", "trial --from weights.pth --set data.root=PATH"),
)
@cli.plain_errors()
@cli.stoppable()
def continue_(
    source: From,
    more_epochs: MoreEpochs = None,
    epochs: InAll = None,
    given: cli.Settings = None,
    sweep: Sweep = None,
    results: cli.Results = Path("results"),
    name: Annotated[str | None, _name("the trial's own, and continued for a file")] = None,
    processes: Processes = None,
    plain: cli.PlainOption = False,
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    tracker: cli.TrackerOption = None,
) -> None:
    """Go on from the last weights of a trial, or from a file of weights, as a new trial whose parent the tables name.

    Settings of training and measuring may change; the network and the data may not. The optimizer goes on too where
    its state is known. The same command again resumes an interrupted trial.
    """
    console = cli.console()
    with cli.doing(console, _IMPORTING, plain=plain):
        from orchestrator.records import kinds, trial_ids
        from orchestrator.records.store import Store
        from orchestrator.search.settings import parse_settings
        from orchestrator.training import continuing, replaying, trainer
        from orchestrator.views import tracking

    trackers = tracking.asked(tracker or (), wandb=wandb, tensorboard=tensorboard)
    way = _way(trackers, processes, plain=plain)
    settings = parse_settings(given or ())
    length = continuing.Length(more_epochs, epochs)
    if continuing.is_file(source):
        into = Store((results / cli.folder_name(name or "continued")).absolute())
        start = continuing.of_file(cli.local(source), length, settings)
    else:
        chosen = None if sweep is None else cli.known_name(sweep)
        source = trial_ids.whole(results, source, chosen)
        holder = replaying.holder(results, source, chosen)
        into = holder if name is None else Store((results / cli.folder_name(name)).absolute())
        start = continuing.of_trial(holder, source, length, settings)

    def begin() -> None:
        names = trainer.content(start.config.data).class_names
        kinds.introduce(into, "trials", f"Trials that continue {source}.", class_names=names)
        _print_settings(console, start.config)
        for remark in start.remarks:
            console.print(f"{source}: {remark}", soft_wrap=True, highlight=False)

    objective = replaying.recorded_objective(into)
    _train_by_hand(console, start.config, into, objective, way, begin, start=start)


class _Way(NamedTuple):
    """How a trial is trained by hand, which changes nothing of it."""

    trackers: tracking.Asked
    place: environment.Rendezvous | None
    processes: int  # that this one starts
    plain: bool


def _way(trackers: tracking.Asked, processes: int | None, *, plain: bool) -> _Way:
    """How, by the options and by the environment, from which the launchers' variables go. Raise ConfigError."""
    from cpcnn_core import environment
    from cpcnn_core.config import ConfigError
    from orchestrator.process import launcher

    launched = launcher.processes()
    place = None if launched is not None else environment.rendezvous()
    if processes is not None and (launched is not None or place is not None):
        raise ConfigError(f"--processes {processes}: a launcher starts this trial's processes already; leave one out")
    environment.forget_launchers(keep=place)
    return _Way(trackers, place, processes or launched or 1, plain)


def _train_by_hand(
    console: Console,
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    way: _Way,
    begin: Callable[[], None],
    *,
    start: continuing.Start | None = None,
) -> None:
    """Train a trial in this process, or this process's share of it, and say where it is. Exit where it failed.

    `begin` is called once nothing is in the way of it.
    """
    from cpcnn_core.config import ConfigError
    from orchestrator.records import beginning, mixtures
    from orchestrator.training import trainer
    from orchestrator.views import tracking

    place = way.place
    if place is not None and place.processes > 1 and store.is_remote:
        raise ConfigError(f"--results {store.folder.parent}: a trial of several processes needs a folder that all see")
    mixtures.check(store, config, way_out=_WAY_OUT)
    if place is not None and place.rank > 0:
        _follow(config, store)
        return
    with cli.doing(console, "Loading the data", plain=way.plain):
        trainer.check(config)
    with beginning.begun(store, config.trial_id):
        begin()
        with tracking.following(
            store, way.trackers, say=partial(console.print, markup=False, highlight=False, soft_wrap=True)
        ):
            several = _several(way.processes)
            _warn_of_crowding(way.processes)
            error = train(console, config, store, objective, several=several, plain=way.plain, start=start)
    if error is not None:
        cli.fail(f"trial {config.trial_id}: {error}\nIts log is {store.log_file(config.trial_id)}", cli.FAILED)
    console.print(f"Trial {config.trial_id} is in {store.folder}", soft_wrap=True, highlight=False)


def _follow(config: TrialConfig, store: Store) -> None:
    """Train this process's share of a trial that another one records, which says how it ended."""
    from cpcnn_core.errors import PreemptedError
    from orchestrator.process import notice, spot
    from orchestrator.training import trainer

    with notice.heeded(spot.sources()) as taken:
        try:
            trainer.follow(config, store, taken)
        except PreemptedError:
            raise typer.Exit(cli.STOPPED) from None


@app.command(
    "import",
    epilog=cli.examples(
        "trial import model.pth --fusion input_map --set data.root=PATH",
        "trial import m.pth --fusion none --drop 'extra.*' --set data.root=PATH",
    ),
)
@cli.plain_errors()
@cli.stoppable()
def import_(
    file: StarterFile,
    fusion: Fusion,
    rename: Renames = None,
    drop: Drop = None,
    first_classes: FirstClasses = False,
    given: cli.Settings = None,
    results: cli.Results = Path("results"),
    name: Annotated[str, _name("imported")] = "imported",
) -> None:
    """Bring a starter-code checkpoint into the results as a trial of its own, evaluated like every other.

    Sizes are read off the file's shapes. Without --set data.name the data set is cpen455, at --set data.root=PATH.
    """
    console = cli.console()
    with cli.doing(console, _IMPORTING):
        from cpcnn_core import renaming
        from cpcnn_core.config import TrialConfig
        from cpcnn_core.starter import Choices
        from orchestrator.records.store import Store
        from orchestrator.search.settings import parse_settings
        from orchestrator.text.formatting import measured
        from orchestrator.training import importing, trainer

    settings = parse_settings(given or ())
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


@app.command(
    epilog=cli.examples(
        "trial sample 1a2b3c --count 10 --temperature 0.9",
        "trial sample 1a2b3c --complete image.png --from-row 16 --out completed",
    )
)
@cli.plain_errors()
def sample(
    source: Source,
    sweep: Sweep = None,
    epoch: WeightsOf = None,
    results: cli.Results = Path("results"),
    count: Count = None,
    temperature: Temperature = 1.0,
    seed: NoiseSeed = None,
    complete: Complete = None,
    from_row: FromRow = None,
    out: Drawn = Path("drawn"),
) -> None:
    """Draw images with a trial's weights, 25 of each class by default, or complete one image in as many ways."""
    console = cli.console()
    from cpcnn_core.config import ConfigError

    if out.exists():
        raise ConfigError(f"--out {out}: exists; name another folder, so that old images never mix with new ones")
    with cli.doing(console, _IMPORTING):
        from orchestrator.exporting import drawing, submission
        from orchestrator.records import trial_ids
        from orchestrator.views import bar

    chosen = None if sweep is None else cli.known_name(sweep)
    if not source.endswith(".safetensors"):
        source = trial_ids.whole(results, source, chosen)
    file = drawing.weights_file(source, results, sweep=chosen, epoch=epoch)
    weights, checksum = drawing.load(file)
    asked = drawing.requested(
        weights, count or (), seed=seed, temperature=temperature, complete=complete, from_row=from_row
    )
    with bar.shown(console) as advance:
        drawn = drawing.draw(weights, asked, partial(advance, "rows drawn"))
    drawing.write(out, drawn, asked, file, checksum, class_names=weights.class_names)
    console.print(
        f"{len(drawn.labels)} images by {file} are in {out / submission.SAMPLES}, all in {out / submission.GRID}",
        soft_wrap=True,
        highlight=False,
    )


@app.command(epilog=cli.examples("trial look digits", "trial look cpen455 --set data.root=PATH --split validation"))
@cli.plain_errors()
def look(
    space_file: cli.SpaceFile,
    preset: cli.Preset = None,
    given: cli.Settings = None,
    split: Annotated[
        Literal["train", "validation", "test"],
        typer.Option(rich_help_panel=cli.OUT_PANEL, help="Whose images to show."),
    ] = "train",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=cli.local,
            metavar="FILE",
            rich_help_panel=cli.OUT_PANEL,
            show_default="DATA-SPLIT.png in this folder",
            help="The PNG.",
        ),
    ] = None,
) -> None:
    """Show the data that SPACE trains on: a picture with a row per class, as the network sees the images."""
    console = cli.console()
    from cpcnn_core.config import ConfigError
    from orchestrator.search import space
    from orchestrator.training import trainer

    config = space.read(space_file, given or (), preset=preset).default()
    data = trainer.dataset(config.data)
    from orchestrator.views import look as looking  # torch takes seconds; a mistake is answered before

    file = Path(f"{data.name}-{split}.png") if out is None else out
    if file.suffix.lower() != ".png":
        raise ConfigError(f"--out {file}: the picture is a PNG; let its name end in .png")
    size = "x".join(map(str, data.image_shape))
    console.print(f"{data.name}: images of {size} (channels, height, width)", soft_wrap=True, highlight=False)
    console.print(looking.counts(data))
    console.print(looking.write(data, split, file), soft_wrap=True, highlight=False, markup=False)


@app.command(epilog=cli.examples("trial replay 1a2b3c", "trial replay 1a2b3c --sweep cpen455 --set data.root=PATH"))
@cli.plain_errors()
@cli.stoppable()
def replay(
    trial_id: TrialId,
    sweep: Sweep = None,
    results: cli.Results = Path("results"),
    given: cli.DataRoot = None,
    name: Annotated[str | None, _name("the sweep's name and -replays")] = None,
) -> None:
    """Run a recorded trial again in this process, from its recorded configuration and seed, and compare the metrics.

    It begins anew, in a folder of its own, and goes as far as the recorded one went. On a CPU with the recorded number
    of threads and versions every metric is the same; one that is not is printed.
    """
    console = cli.console()
    with cli.doing(console, _IMPORTING):
        from cpcnn_core import environment
        from cpcnn_core.config import ConfigError
        from orchestrator.records import beginning, kinds, trial_ids
        from orchestrator.records.store import as_int
        from orchestrator.training import replaying, trainer

    place = environment.rendezvous()
    environment.forget_launchers()
    if place is not None and place.processes > 1:
        raise ConfigError(f"environment: WORLD_SIZE is {place.processes}; a replay runs in one process")
    chosen = None if sweep is None else cli.known_name(sweep)
    trial_id = trial_ids.whole(results, trial_id, chosen)
    recorded = replaying.holder(results, trial_id, chosen)
    scratch = cli.folder_name(name) if name else f"{recorded.folder.name}-replays"
    again = replaying.prepared(recorded, trial_id, given or (), replaying.scratch(results, scratch))
    trainer.check(again.config)
    with beginning.begun(again.store, trial_id):
        names = trainer.content(again.config.data).class_names
        kinds.introduce(again.store, "replays", f"Replays of {recorded.folder.name}.", class_names=names)
        _print_settings(console, again.config)
        until = max(as_int(row["epoch"]) for row in again.wanted)
        error = train(
            console,
            again.config,
            again.store,
            again.objective,
            until=until,
            threads=again.threads,
            start=again.start,
        )
    if error is not None:
        cli.fail(f"trial {trial_id}: {error}", cli.FAILED)
    _compare(console, again)


def _compare(console: Console, again: Replay) -> None:
    """Say what came out otherwise than it is recorded. Exit where anything did."""
    differences = again.differences()
    for difference in differences:
        console.print(difference, soft_wrap=True, highlight=False)
    if differences:
        cli.fail(f"{len(differences)} of the recorded metrics came out otherwise", cli.FAILED)
    console.print(f"All metrics of {len(again.wanted)} epochs are as recorded.", highlight=False)


def train(
    console: Console,
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    *,
    several: Replicated | None = None,
    plain: bool = False,
    until: int | None = None,
    threads: Mapping[int, int] | None = None,
    start: continuing.Start | None = None,
) -> str | None:
    """Train by hand, as `by_hand.train` does, and show each epoch. Return what went wrong."""
    from orchestrator.process import signals, streams
    from orchestrator.training import by_hand
    from orchestrator.views import bar
    from orchestrator.views.epochs import Epochs

    epochs = Epochs(console, config)
    epochs.print_head()
    if until is None:
        for row in store.epochs_of(config.trial_id):
            epochs.print_epoch(row)
        if by_hand.is_finished(store, config):
            console.print("All epochs were there already; another --seed or --set makes another trial.")
            return None
    with signals.as_interrupts() as asked, streams.unheld(), bar.shown(console, plain=plain) as advance:

        def on_progress(stage: str, done: int, total: int) -> None:
            asked.check()
            advance(stage, done, total)

        try:
            return by_hand.train(
                config,
                store,
                objective,
                on_epoch=epochs.print_epoch,
                on_progress=on_progress,
                train=several,
                until=until,
                threads=threads,
                start=start,
            )
        except (KeyboardInterrupt, bdb.BdbQuit) as error:
            cli.stopped(console, "Stopped. To go on where it stands:", error)


def _several(processes: int) -> Replicated | None:
    """So many processes that train a trial and share this one's threads; None where it trains alone."""
    if processes == 1:
        return None
    import torch

    from cpcnn_core.config import ConfigError
    from orchestrator.training import trainer
    from orchestrator.training.replicas import Replicated

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(
            f"--processes {processes}: each takes a GPU, and there are {gpus}; with CUDA_VISIBLE_DEVICES= before the "
            "command they train on the CPU"
        )
    threads = max(1, torch.get_num_threads() // processes)
    torch.set_num_threads(threads)  # what the attempt's row says of each
    return Replicated(trainer.TRAINER, processes, threads)


def _warn_of_crowding(processes: int) -> None:
    """Say where this trial's threads would wait for one another, or for what else the machine does."""
    import torch

    from orchestrator.machines.crowding import Machine

    if torch.accelerator.is_available():
        return
    machine = Machine.here()
    count = max(1, int(machine.free) // processes)
    way_out = f"OMP_NUM_THREADS={count} before the command gives each process {count}."
    if (problem := machine.problem(torch.get_num_threads(), processes, way_out)) is not None:
        cli.warn(problem)


def _print_settings(console: Console, config: TrialConfig) -> None:
    from cpcnn_core.config import TrialConfig
    from orchestrator.records.ranking import is_of_training
    from orchestrator.text.formatting import plain

    defaults, flat = TrialConfig().flat(), config.flat()
    known = [key for key in flat if config.source is None or not is_of_training(key)]
    shown = [f"{key}={plain(flat[key])}" for key in known if defaults.get(key) != flat[key]]
    console.print(f"Trial {config.trial_id}, {', '.join(shown) or 'all defaults'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
