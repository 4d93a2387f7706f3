"""What docs/ has from the program: each file is as the program writes it, and what is missing is asked for by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import search_spaces
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.metrics import DIRECTIONS
from documentation import __main__ as command
from documentation import commands, fusion_pages, settings, space_words
from documentation.generated import END, PageError, begin, part, table, with_parts
from documentation.written import written
from orchestrator.cpcnn import app
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.search.scheduling import Schedule
from orchestrator.search.space_file import SpaceFile
from tests.support.paths import ROOT

FILES = {str(path.relative_to(ROOT)): text for path, text in written(ROOT).items()}
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_as_the_program_writes_it(name: str) -> None:
    """`make pages` writes it anew."""
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name]


def test_a_table_that_somebody_changed_is_written_back() -> None:
    before = page("settings.md")
    changed = before.replace("| `train.lr` | number above 0 | `0.001` |", "| `train.lr` | any number | `0.1` |")
    assert changed != before
    assert with_parts(changed, settings.parts()) == before


def test_what_a_person_wrote_stays() -> None:
    before = page("settings.md").replace("the learning rate after warm-up", "how fast it learns")
    assert "how fast it learns" in with_parts(before, settings.parts())


def test_a_row_without_a_meaning_is_asked_for() -> None:
    row = next(line for line in page("settings.md").splitlines() if line.startswith("| `train.lr` |"))
    with pytest.raises(PageError, match=r"`train\.lr` has no row yet"):
        with_parts(page("settings.md").replace(row + "\n", ""), settings.parts())


def test_a_number_without_a_unit_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(settings.UNITS, "train.lr")
    with pytest.raises(PageError, match=r"train\.lr is a number without a unit"):
        with_parts(page("settings.md"), settings.parts())


def test_no_unit_is_left_of_a_field_that_is_gone() -> None:
    options = {option for variant in FUSIONS.values() for option in variant.Options.model_fields}
    assert set(settings.UNITS) <= {*settings.fields(), *options}


def test_a_page_without_the_part_is_named() -> None:
    with pytest.raises(PageError, match="has no <!-- generated: commands -->"):
        with_parts("# Every command\n", {commands.COMMANDS: commands.commands})


def test_the_space_words_are_all_that_a_file_may_say() -> None:
    rows = set(re.findall(r"^\| `([\w.]+)` \|", part(page("spaces.md"), space_words.WORDS), re.MULTILINE))
    inner = {f"scheduler.{name}" for name in Schedule.model_fields}
    inner |= {f"resources.{name}" for name in Resources.model_fields}
    assert rows == (set(SpaceFile.model_fields) - {"question"}) | inner
    metrics = re.findall(r"^\| `(\w+)` \|", part(page("spaces.md"), space_words.METRICS), re.MULTILINE)
    assert all(Objective.of(metric).metric == metric for metric in metrics)
    assert set(metrics) == set(DIRECTIONS) - {"score"}
    functions = re.findall(r"^\| `(\w+)", part(page("spaces.md"), space_words.FUNCTIONS), re.MULTILINE)
    assert set(functions) == {name for name in search_spaces.__all__ if name.islower() or name.isupper()}


@pytest.mark.parametrize("typed", [typed for typed, _ in commands.every()])
def test_a_command_s_section_has_the_options_that_its_help_has(typed: str) -> None:
    said = CliRunner().invoke(app, [*typed.split(), "--help"], env={"COLUMNS": "240"}).output
    section = page("commands.md").split(f"\n## {typed}\n")[1].split("\n## ")[0].split(END)[0]
    rows = "\n".join(line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `-"))
    listed = re.findall(r"^│ \*? *(-[-\w]+)", said, re.MULTILINE)
    assert set(re.findall(r"`(--?[\w-]+)`", rows)) >= set(listed) - {"--help"}
    assert len(re.findall("^", rows, re.MULTILINE)) == len(listed) - 1 or not rows
    for example in re.findall(r"^ *(cpcnn .*\w.*?) *$", said.split("Examples:")[-1], re.MULTILINE):
        assert example in section


def test_every_fusion_has_its_section_with_drawing_formula_and_what_it_reached() -> None:
    text = page("every-fusion.md")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(FUSIONS)
    for name in FUSIONS:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert f"({fusion_pages.FOLDER}/{name}.svg)" in section
        assert re.search(r"^\| formula \| .{8,} \|$", section, re.MULTILINE), name
        assert re.search(r"^Reached: \S", section, re.MULTILINE), name
    assert {path.stem for path in (DOCS / fusion_pages.FOLDER).iterdir()} == set(FUSIONS)


def test_the_command_writes_what_differs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same.md").write_text("same")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    files = {tmp_path / "same.md": "same", tmp_path / "fusions" / "new.svg": "new"}
    monkeypatch.setattr(command, "written", lambda root: files)
    assert command.main() == 0
    assert capsys.readouterr().out == "fusions/new.svg\n"
    assert (tmp_path / "fusions" / "new.svg").read_text() == "new"


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(root: Path) -> dict[Path, str]:
        raise PageError("a row is missing")

    monkeypatch.setattr(command, "written", refuse)
    assert command.main() == 2
    assert capsys.readouterr().err == "error: a row is missing\n"


def test_a_part_keeps_what_is_around_it() -> None:
    old = f"above\n\n{begin('x')}\nold\n{END}\n\nbelow\n"
    assert with_parts(old, {"x": lambda was: was.upper()}) == f"above\n\n{begin('x')}\n\nOLD\n\n{END}\n\nbelow\n"
    assert table(("a", "b"), [("1", ""), ("2", "3")]) == "| a | b |\n| --- | --- |\n| 1 | |\n| 2 | 3 |"
