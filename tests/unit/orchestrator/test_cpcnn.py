"""`cpcnn`: every command under one name, imported only where it is asked for; help, examples, completion."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from orchestrator import best, cpcnn
from orchestrator import command_line as cli
from orchestrator.choosing.rules import DEFAULT_RULE, RULES
from orchestrator.search import samplers, scheduling, shipped
from orchestrator.text import calling
from tests.support.paths import ROOT

HEAVY = {
    "torch",
    "ray",
    "optuna",
    "pandas",
    "pyarrow",
    "numpy",
    "scipy",
    "wandb",
    "plotly",
    "pydantic",
    "fsspec",
    "PIL",
}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, those of groups too, by what is typed for it."""
    for name in cpcnn.listed():
        command = typer.main.get_command(importlib.import_module(f"orchestrator.{name.replace('-', '_')}").app)
        if isinstance(command, TyperGroup):
            yield from (((name, inner), each) for inner, each in command.commands.items())
        else:
            yield (name,), command


EVERY = [pytest.param(names, command, id=" ".join(names)) for names, command in commands()]


def test_the_list_has_every_command_and_no_other() -> None:
    modules = {file.stem for file in (ROOT / "orchestrator").glob("*.py") if "@app.command" in file.read_text()}
    assert {name.replace("-", "_") for name in cpcnn.listed()} == modules
    said = CliRunner().invoke(cpcnn.app, ["--help"], env={"COLUMNS": "80"}).output
    for listed in cpcnn.COMMANDS:
        assert (listed.help in said) == (listed.name in cpcnn.listed())


IN_ONE_PROCESS = """
import json, sys
from orchestrator import cpcnn
for typed in json.loads(sys.argv[1]):
    sys.argv = ["cpcnn", *typed, "--help"]
    try:
        cpcnn.main()
    except SystemExit as end:
        assert end.code == 0, typed
    print(json.dumps([typed, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def test_no_help_imports_what_takes_long() -> None:
    typed = json.dumps([[], *(names for names, _ in commands()), ["trial"]])
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, typed], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) > 15
    for names, modules in lines:
        assert not HEAVY & set(modules), names


@pytest.mark.parametrize(("names", "command"), EVERY)
def test_each_help_has_two_examples_that_can_be_typed(names: tuple[str, ...], command: Any) -> None:
    head, *typed = [line.strip() for line in command.epilog.split("\n\n")]
    assert head == "Examples:"
    assert len(typed) == 2
    for line in typed:
        program, first, *rest = shlex.split(line)
        assert (program, first) == ("cpcnn", names[0])
        rest = rest[: rest.index(">")] if ">" in rest else rest
        if len(names) > 1 and rest[0] == names[1]:
            rest = rest[1:]
        else:
            assert names[1:] in {(), ("run",), ("continue",)}  # what may be left out
        assert len(line) <= 78  # of a terminal of 80 columns
        command.make_context(names[-1], rest)  # raises for an option that there is not


@pytest.mark.parametrize(("names", "command"), EVERY)
def test_each_option_says_its_default_in_words(names: tuple[str, ...], command: Any) -> None:
    for option in command.params:
        if option.param_type_name != "option" or option.name == "help":
            continue
        assert option.rich_help_panel, option.name
        assert option.help, option.name
        if not option.required:
            in_words = isinstance(option.show_default, str)
            assert in_words or (option.default is not False and option.default not in {None, ""}), option.name


def test_names_in_the_help_are_those_that_there_are() -> None:
    said = " ".join(CliRunner().invoke(cpcnn.app, ["sweep", "--help"], env={"COLUMNS": "500"}).output.split())
    assert f"configurations: {', '.join(list(samplers.SAMPLERS)[:-1])} or {list(samplers.SAMPLERS)[-1]}." in said
    for name in scheduling.SCHEDULERS:
        assert name in said.split("Who stops trials early:")[1].split(".")[0]
    assert samplers.DEFAULT in said
    assert DEFAULT_RULE in RULES
    choice = " ".join(CliRunner().invoke(best.app, ["--help"], env={"COLUMNS": "500"}).output.split())
    assert "|".join(RULES) in choice


def test_the_version_and_a_misspelt_command() -> None:
    from importlib.metadata import version

    said = CliRunner().invoke(cpcnn.app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"cpcnn {version('cpcnn-sweeps')}\n")
    wrong = CliRunner().invoke(cpcnn.app, ["swep"])
    assert wrong.exit_code == 2
    assert "Did you mean 'sweep'?" in wrong.stderr


def completed(line: str) -> list[str]:
    """What a shell is told when Tab is typed at the end of a line."""
    words = line.split(" ")
    environment = {"_CPCNN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    program = "import sys; sys.argv = ['cpcnn']; from orchestrator.cpcnn import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_spaces() -> None:
    assert completed("cpcnn s") == ["sweep", "status", "stop", "spaces"]
    assert completed("cpcnn sweep dig") == ["digits"]
    assert "--retry-failed" in completed("cpcnn sweep digits --re")
    assert completed("cpcnn trial re") == ["replay"]


def test_how_a_command_is_typed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    script = tmp_path / "cpcnn"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "sweep", "digits", "--name", "a b"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert calling.again("best", "--metric", "fid") == "cpcnn best --metric fid"
    assert calling.same() == "cpcnn sweep digits --name 'a b'"
    monkeypatch.setenv("PATH", "/nowhere")
    assert calling.again("new-space", "x.py") == f"{script} new-space x.py"  # not on the PATH
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert calling.same() == "uv run cpcnn sweep digits --name 'a b'"
    monkeypatch.setattr(sys, "argv", ["/x/orchestrator/sweep.py", "digits"])
    assert calling.again("new-space", "x.py") == "uv run python -m orchestrator.new_space x.py"


# --- spaces by name


def test_a_space_that_ships_goes_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.space_file("digits") == ROOT / "search_spaces" / "digits.py"
    assert cli.space_file("./digits") == Path("digits")
    assert cli.space_file("digits.py") == Path("digits.py")
    (tmp_path / "digits").mkdir()
    assert cli.space_file("digits") == ROOT / "search_spaces" / "digits.py"
    (tmp_path / "cpen455").write_text("")  # a file of that name is what was typed
    assert cli.space_file("cpen455") == Path("cpen455")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("digts", "there is no such space file; did you mean digits? There are "),
        ("zzz", "there is no such space file; there are "),
    ],
)
def test_a_name_that_is_none_is_answered_with_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cpcnn.app, ["sweep", typed])
    assert (done.exit_code, done.stderr) == (2, f"error: {typed}: {says}{', '.join(shipped.names())}\n")
    read = CliRunner().invoke(cpcnn.app, ["spaces", typed])
    assert read.exit_code == 2
    assert ", ".join(shipped.names()) in read.stderr


def test_the_spaces_are_listed_with_question_and_cost() -> None:
    said = CliRunner().invoke(cpcnn.app, ["spaces"]).output
    for one in shipped.every():
        assert one.question.endswith("?")
        assert one.cost.endswith(".")
        assert f"{one.name}\n  {one.question}\n  Cost: {one.cost}" in said.replace(" \n", "\n")
    assert {one.name: one.presets for one in shipped.every()}["cpen455"] == ("cpu", "grading")
    assert "_template" not in said
    assert CliRunner().invoke(cpcnn.app, ["spaces", "digits"]).output == shipped.file("digits").read_text()


def test_a_new_space_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cpcnn.app, ["new-space", "mine.py"])
    assert done.exit_code == 0, done.output
    (tmp_path / "mine.py").write_text("# mine")
    again = CliRunner().invoke(cpcnn.app, ["new-space", "mine.py"])
    assert (again.exit_code, again.stderr) == (2, "error: mine.py: exists, and stays as it is; give another name\n")
    assert (tmp_path / "mine.py").read_text() == "# mine"
    for name, says in (("mine", "call it mine.py"), ("no/where.py", "cannot be written")):
        refused = CliRunner().invoke(cpcnn.app, ["new-space", name])
        assert refused.exit_code == 2
        assert says in refused.stderr
