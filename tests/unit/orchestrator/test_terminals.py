"""What commands print at every width, without colour and without UTF-8: no number is cut off, and nothing fails."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cpcnn_core.config import TrialConfig
from orchestrator import best, report, spaces, status, stop, sweep, trial
from orchestrator import command_line as cli
from orchestrator.objectives.objective import Objective
from orchestrator.records import trial_ids
from orchestrator.records.store import Attempt, Store, StoreError
from orchestrator.search.space import SearchSpace
from orchestrator.tune.plan import Plan
from orchestrator.views import bar
from orchestrator.views.progress import Progress
from search_spaces import desirability, ints, soft_goal
from tests.support.fakes import metrics
from tests.support.terminal import draws
from tests.support.times import at
from tests.unit.orchestrator.test_best import judged

WIDTHS = (60, 80, 120, 200)
OBJECTIVE = Objective.of(desirability(val_acc=soft_goal(0.5, 0.95), fid=soft_goal(20.0, 0.5, log=True)))
SETTINGS = ("model.fusion", "model.nr_resnet", "model.nr_filters", "model.nr_logistic_mix", "train.lr")


def configurations() -> list[TrialConfig]:
    fusions = ("input_concat+block_film+skip_add+head_add", "none", "block_three_bias", "stem_add")
    return [
        TrialConfig.from_flat(
            {
                "model.fusion": fusion,
                "model.nr_resnet": 1 + number % 2,
                "model.nr_filters": 8 + number,
                "model.nr_logistic_mix": 2 + number,
                "train.lr": 0.00312345 * (1 + number),
                "train.epochs": 2,
            }
        )
        for number, fusion in enumerate(fusions)
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A sweep with the settings and metrics of digits, and one trial that failed."""
    store = Store(tmp_path / "results" / "digits")
    store.create()
    for number, config in enumerate(configurations()):
        state = "FAILED" if number == 3 else "COMPLETE"
        attempt = Attempt(
            trial_id=config.trial_id,
            attempt=1,
            number=number,
            state=state,
            error="a letter that not every terminal has: ä" if state == "FAILED" else None,
            started=at(f"2025-01-0{1 + number}"),
            ended=at(f"2025-01-0{2 + number}"),
        )
        for epoch in (1, 2):
            value = metrics(epoch, val_acc=0.81239 + 0.0371 * number, fid=3.0507 + 1.13 * number, train_acc=0.87654)
            store.add_epoch(config.trial_id, 1, value)
        store.write_attempt(attempt, config)
    return tmp_path / "results"


def numbers(text: str) -> set[str]:
    """The numbers with decimals in a text, and those that were cut off."""
    return set(re.findall(r"\d+\.\d*", text))


def head(text: str) -> str:
    """The heads of the columns of the table in it."""
    return next(line for line in text.splitlines() if re.match(" +trial ", line))


def printed(app: typer.Typer, arguments: list[str], width: int, charset: str = "utf-8") -> str:
    environment = {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner(charset=charset).invoke(app, arguments, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.output


def shown(results: Path, width: int, *, wide: bool = False) -> str:
    plan = Plan("digits", SearchSpace("a test", "", {"model.nr_filters": ints(8, 11)}, {}, 4, OBJECTIVE), results, 4)
    console = Console(width=width, no_color=True, force_terminal=True)
    with console.capture() as captured:
        sweep.show(console, plan, wide=wide)
    return re.sub(r"\x1b\[\d*m", "", captured.get())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_leaderboard_has_every_number_whole(results: Path, width: int) -> None:
    said, whole = shown(results, width), shown(results, 1000)
    assert numbers(said) == numbers(whole)
    assert "…" not in said
    table = [line for line in said.splitlines() if re.match(r" *\d ", line)]
    assert max(map(len, table)) <= width
    heads = head(said)
    assert re.match(" +trial +score ", heads)
    there = {name for name in ("val_acc", "nr_filters", "fusion", "state") if f" {name}" in heads}
    narrow = {60: {"val_acc", "nr_filters"}, 80: {"val_acc", "fusion"}}
    assert there - {"state"} == narrow.get(width, {"val_acc", "nr_filters", "fusion"})
    assert ("state" in there) == (width == 200)
    for config in configurations():
        assert f"nr_logistic_mix {config.model.nr_logistic_mix}" in said or "nr_logistic_mix" in heads


def test_wide_puts_all_into_the_table(results: Path) -> None:
    narrow, wide = shown(results, 60), shown(results, 60, wide=True)
    assert "nr_logistic_mix 3" in narrow
    assert "nr_logistic_mix 3" not in wide
    heads = head(wide)
    assert all(field.rpartition(".")[2] in heads for field in (*SETTINGS, "val_acc", "fid", "epoch", "state"))


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_command_prints_whole_numbers_anywhere(results: Path, width: int, charset: str) -> None:
    judged(results, {1: [120, 150], 2: [100, 110]})
    at = ["--results", str(results)]
    for app, arguments in (
        (status.app, at),
        (best.app, ["--metric", "val_acc", "--no-export", "--sweep", "digits", *at]),
        (best.app, ["--metric", "val_acc", "--no-export", "--sweep", "one", *at]),
        (report.app, ["--sweep", "digits", *at]),
        (spaces.app, []),
    ):
        said = printed(app, arguments, width, charset)
        assert numbers(said) == numbers(printed(app, arguments, 1000))
        assert "…" not in said
        if charset == "ascii":
            assert said.isascii()
    if charset == "ascii":
        assert "\\xe4" in printed(status.app, at, width, charset)  # the letter of the error


@pytest.mark.parametrize("width", WIDTHS)
def test_the_interval_comes_before_the_settings(results: Path, width: int) -> None:
    judged(results, {1: [120, 150], 2: [100, 110]})
    said = printed(best.app, ["--metric", "val_acc", "--no-export", "--sweep", "one", "--results", str(results)], width)
    heads = head(said)
    assert "95% interval" in heads


@pytest.mark.parametrize("width", [20, *WIDTHS])
def test_a_running_sweep_has_every_number_whole(width: int) -> None:
    console = Console(width=width, no_color=True, force_terminal=True)
    with console.capture(), Progress(console, OBJECTIVE, SETTINGS, total=4) as view:
        for number, config in enumerate(configurations()):
            view.started(number, config)
            view.epoch(number, config, metrics(1, val_acc=0.81234, fid=3.05071), 0.73914)
        with console.capture() as captured:
            console.print(view._render(), soft_wrap=True)
    said = captured.get()
    assert {"0.7391", "3.0507", "0.8123"} <= numbers(said)
    for config in configurations():
        assert config.trial_id[: trial_ids.SHORTEST] in said
        assert f"nr_logistic_mix {config.model.nr_logistic_mix}" in " ".join(said.split())
    assert "…" not in said


def test_off_a_terminal_a_table_has_one_line_for_each_trial(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = CliRunner().invoke(
        best.app, ["--metric", "val_acc", "--no-export", "--sweep", "digits", "--results", str(results)]
    )
    heads = head(result.output)
    assert "nr_logistic_mix" in heads
    assert "state" in heads


# --- ids


def test_a_shown_id_is_what_no_other_trial_begins_with() -> None:
    ids = ["0123456789ab", "012345678fff", "0123999999ff", "ffffffffffff"]
    assert trial_ids.shortened(ids) == {
        "0123456789ab": "0123456789",
        "012345678fff": "012345678f",
        "0123999999ff": "012399",
        "ffffffffffff": "ffffff",
    }
    assert trial_ids.shortened(ids[3:], among=["fffffffffff0"]) == {"ffffffffffff": "ffffffffffff"}


def test_a_beginning_is_as_good_as_the_id_and_several_are_named(results: Path) -> None:
    [first, *others] = [config.trial_id for config in configurations()]
    at = ["--results", str(results), "--sweep", "digits", "--json", "--no-export"]
    said = json.loads(printed(best.app, ["--metric", "val_acc", "--trial", first[:6], *at], 80))
    assert [one["trial_id"] for one in said["best"]] == [first]
    assert trial_ids.whole(results, first[:6]) == first
    assert trial_ids.whole(results, "zz") == "zz"  # the command says that there is none
    twin = first[:7] + ("0" if first[7] != "0" else "1") + first[8:]
    file = Store(results / "digits").trials_folder / f"{first}.parquet"
    other = Store(results / "other")
    other.create()
    shutil.copy(str(file), str(other.trials_folder / f"{twin}.parquet"))
    with pytest.raises(StoreError, match=f"{first[:6]}: several trials begin so: .*type more of the id") as refused:
        trial_ids.whole(results, first[:6])
    assert f"{first} in digits" in str(refused.value)
    assert f"{twin} in other" in str(refused.value)
    assert others[0] not in str(refused.value)
    assert trial_ids.whole(results, first[:6], "digits") == first
    assert first[:8] in shown(results, 200)  # which tells it from the other sweep's


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (trial.app, ["replay"]),
        (trial.app, ["sample", "--out", "nowhere"]),
        (trial.app, ["continue", "--more-epochs", "1", "--from"]),
        (stop.app, []),
        (best.app, ["--metric", "val_acc", "--no-export", "--trial"]),
    ],
)
def test_who_takes_an_id_takes_a_beginning(results: Path, app: typer.Typer, arguments: list[str]) -> None:
    [first, second, *_] = [config.trial_id for config in configurations()]
    at = ["--results", str(results)]
    asked = CliRunner().invoke(app, [*arguments, first[:6], *at])
    assert first in asked.output  # each says something of the trial, by its id
    store = Store(results / "digits")
    file = store.trials_folder / f"{first}.parquet"
    shutil.copy(str(file), str(store.trials_folder / f"{first[:6]}ffffff.parquet"))
    several = CliRunner().invoke(app, [*arguments, first[:6], *at])
    assert (several.exit_code, several.stderr.count("\n")) == (2, 1)
    assert f"{first[:6]}: several trials begin so: " in several.stderr
    assert f"{first} in digits" in several.stderr
    assert second not in several.stderr


def test_ids_of_trials_that_were_compacted_are_known(results: Path) -> None:
    store = Store(results / "digits")
    known = set(store.trial_ids())
    assert store.compact(at_least=1) > 0
    assert set(Store(results / "digits").trial_ids()) == known == {config.trial_id for config in configurations()}


def test_a_stage_is_a_line_in_a_log_and_stands_on_a_terminal_until_it_is_over() -> None:
    log = Console(width=80, record=True)
    with log.capture() as captured, Progress(log, OBJECTIVE, SETTINGS, total=4) as view:
        view.stage("Starting Ray")
    assert captured.get() == "[0/4] Starting Ray ...\n"
    terminal = Console(width=80, force_terminal=True, no_color=True)
    first, second = configurations()[:2]

    def now() -> str:
        with terminal.capture() as seen:
            terminal.print(view._render())
        return seen.get()

    with terminal.capture(), Progress(terminal, OBJECTIVE, SETTINGS, total=4) as view:
        view.stage("Starting Ray")
        assert "Starting Ray (0 s)" in now()
        view.started(0, first)
        assert f"trial {first.trial_id} loads the data and makes its first steps (0 s)" in " ".join(now().split())
        view.started(1, second)
        assert "and 1 more load the data" in " ".join(now().split())
        view.epoch(0, first, metrics(1), 0.5)
        assert "first steps" not in now()


def test_what_takes_a_while_is_said_on_a_terminal_and_in_a_log() -> None:
    for here, plain in ((Console(width=80), False), (Console(width=80, force_terminal=True), True)):
        with here.capture() as captured, cli.doing(here, "Importing PyTorch", plain=plain):
            pass
        assert captured.get() == "Importing PyTorch ...\n"
    terminal = Console(width=80, force_terminal=True, force_interactive=True)
    with terminal.capture() as captured, cli.doing(terminal, "Importing PyTorch"):
        pass
    assert "Importing PyTorch ..." in captured.get()
    assert draws(captured.get())  # it is gone once it is done


@pytest.mark.parametrize("width", [40, *WIDTHS])
def test_a_bar_leaves_room_for_its_numbers(width: int) -> None:
    console = Console(width=width, no_color=True, force_terminal=True)
    progress = bar.made(console)
    progress.add_task("rows evaluated", total=51_900, completed=12_345)
    with console.capture() as captured:
        console.print(progress.get_renderable())
    assert "rows evaluated" in captured.get()
    assert "12345/51900" in captured.get()
    assert "-:--:--" in captured.get()
