"""Names of every printable character: none is taken for a URL, a template, markup, a pattern or a shell's word."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
import typer
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from cpcnn_core import fetching, places
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.errors import DataError
from orchestrator import best, export, report, status, sweep, track, trial
from orchestrator import command_line as cli
from orchestrator.choosing.where import Condition, parse
from orchestrator.exporting import card
from orchestrator.exporting import folder as folder_of
from orchestrator.exporting.export_record import ExportRecord
from orchestrator.machines import cluster_file, launch
from orchestrator.machines.cluster import ClusterError
from orchestrator.objectives.objective import Objective
from orchestrator.records import location
from orchestrator.records.location import RemotePath
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Attempt, Store, StoreError
from orchestrator.search import space, study_file
from orchestrator.search.settings import parse_settings
from orchestrator.search.study_file import StudyFile
from orchestrator.text import markdown, names
from orchestrator.tune.plan import Plan
from orchestrator.views import bar
from tests.support import odd, remote
from tests.support.fakes import metrics
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, fids, judged

# --- which names there are


def test_a_sweep_may_be_called_whatever_a_file_system_holds() -> None:
    for name in odd.NAMES:
        assert cli.folder_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "plain name of a folder"),
        (".", "plain name of a folder"),
        ("..", "plain name of a folder"),
        ("a/b", "plain name of a folder"),
        ("/", "plain name of a folder"),
        ("-x", "begins with -, as options do"),
        ("a\nb", r"cannot be printed \('\\n'\)"),
        ("a\x1b[31mb\x7f", r"cannot be printed \('\\x1b', '\\x7f'\)"),
        ("a\0", r"cannot be printed \('\\x00'\)"),
        ("a\u202eb", r"cannot be printed \('\\u202e'\)"),
        ("a\udcffb", r"cannot be printed \('\\udcff'\)"),
        ("ä" * 101, "202 bytes in UTF-8; at most 200"),
    ],
)
def test_other_names_are_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(StoreError, match=f"^--name .*{says}"):
        cli.folder_name(name)


def test_an_identifier_stands_for_one_name_alone() -> None:
    found = {name: names.identifier(name) for name in (*odd.NAMES, "digits", "a.b_c-9")}
    assert len(set(found.values())) == len(found)
    assert (found["digits"], found["a.b_c-9"]) == ("digits", "a.b_c-9")
    taken = names.identifier(found["a,b"])  # a sweep that is called like another one's identifier
    assert taken not in found.values()


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_identifier_holds_what_every_tool_takes(one: str, other: str) -> None:
    one, other = (text.encode(errors="ignore").decode() for text in (one, other))
    assert re.fullmatch(r"[A-Za-z0-9_.-]{0,77}", names.identifier(one))
    assert (names.identifier(one) == names.identifier(other)) == (one == other)


# --- paths and URLs


def test_a_path_is_what_a_shell_would_make_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert places.path("~/results") == Path("/home/me/results")
    assert places.path("~") == Path("/home/me")
    for text in ("results", "./~x", "./s3:/x", "a~", "a:/b", "//a", "C:", *odd.NAMES):
        if text != "~x":
            assert places.path(text) == Path(text)
            assert not places.is_url(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3:/bucket/x", r"which has two slashes \(s3://bucket/x\); a folder of that name is \./s3:/bucket/x"),
        ("gs:/x", r"two slashes \(gs://x\)"),
        ("file:/x", r"two slashes \(file://x\)"),
        ("~nobody-of-that-name/x", r"~nobody-of-that-name is nobody's home folder here; .* \./~nobody-of-that-name/x"),
        ("", "an empty path"),
        ("s3://key:s3cret@bucket/x", r"^s3://\.\.\.: is a URL; expected a path on this machine"),
    ],
)
def test_what_nobody_means_as_a_folder_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        places.path(text)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("folder", ["~x", "./s3:/x", "-x", "./a::b", "/s3:/x", *odd.WORDS])
def test_a_folder_is_spelled_so_that_it_is_found_again(folder: str) -> None:
    spelled = location.spelled(Path(folder))
    assert location.located(spelled) == Path(folder)
    assert not spelled.startswith("-")
    assert location.spelled(Path("results")) == "results"
    assert location.spelled(RemotePath("s3://bucket/~x")) == "s3://bucket/~x"


PLACES: tuple[tuple[typer.Typer, tuple[str, ...]], ...] = (
    (sweep.app, ("search_spaces/digits.py", "--results", "PLACE")),
    (sweep.app, ("PLACE",)),
    (sweep.app, ("search_spaces/digits.py", "--dry-run", "--cluster", "PLACE")),
    (sweep.app, ("--check-cluster", "PLACE")),
    (sweep.app, ("search_spaces/cpen455.py", "--set", "data.root=PLACE")),
    (sweep.app, ("search_spaces/digits.py", "--set", "eval.fid_weights=PLACE")),
    (trial.app, ("search_spaces/digits.py", "--results", "PLACE")),
    (trial.app, ("PLACE",)),
    (trial.app, ("import", "PLACE", "--fusion", "none")),
    (trial.app, ("import", "a.pth", "--fusion", "none", "--set", "data.root=PLACE")),
    (trial.app, ("sample", "a.safetensors", "--out", "PLACE")),
    (trial.app, ("sample", "PLACE.safetensors")),
    (trial.app, ("sample", "a.safetensors", "--complete", "PLACE")),
    (trial.app, ("replay", "0123", "--results", "PLACE")),
    (status.app, ("--results", "PLACE")),
    (track.app, ("--sweep", "x", "--tensorboard", "--results", "PLACE")),
    (best.app, ("--metric", "val_acc", "--results", "PLACE")),
    (best.app, ("--metric", "val_acc", "--out", "PLACE")),
    (best.app, ("--metric", "val_acc", "--set", "data.root=PLACE")),
    (report.app, ("--results", "PLACE")),
    (report.app, ("--out", "PLACE")),
    (export.app, ("PLACE",)),
    (export.app, ("folder", "--data-root", "PLACE")),
)


@pytest.mark.parametrize(("app", "arguments"), PLACES)
@pytest.mark.parametrize("place", ["s3:/bucket/x", "~nobody-of-that-name/x"])
def test_every_argument_that_names_a_place_refuses_it_and_makes_nothing(
    app: typer.Typer, arguments: tuple[str, ...], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = Path("search_spaces").absolute()
    monkeypatch.chdir(tmp_path)
    Path("search_spaces").symlink_to(spaces)
    done = CliRunner().invoke(app, [argument.replace("PLACE", place) for argument in arguments])
    assert done.exit_code == 2, done.output
    said = re.sub(r"[\s│]+", "", done.output)
    assert ("hastwoslashes" if place.startswith("s3") else "nobody'shomefolder") in said
    assert [path.name for path in tmp_path.iterdir()] == ["search_spaces"]


def test_a_data_set_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"{odd.ALL}.py"
    file.write_text('space = {}\nsettings = {"data.name": "cpen455", "data.root": "here"}\n')

    def root(*given: str) -> Any:
        return space.read(file, given).settings["data.root"]

    assert root() == str(tmp_path / "here")
    assert root("data.root=s3://bucket/cpen455") == "s3://bucket/cpen455"  # which was a folder of this machine once
    assert root("data.root=~/x") == str(tmp_path / "x")
    for name in odd.NAMES:
        assert root(f"data.root=./{name}") == str(tmp_path / name)
    for name in ("true", "123", '"x"', "a=b", "[1]"):
        assert root(f"data.root={name}") == str(tmp_path / name)
    with pytest.raises(ConfigError, match=r"data\.root"):
        TrialConfig.from_flat({"data.name": "cpen455", **parse_settings(["data.root=null"])})
    file.write_text("1 / 0\n")
    with pytest.raises(space.SpaceError, match=f"^{re.escape(str(file))}:1: ZeroDivisionError"):
        space.read(file)


def test_a_url_of_data_may_hold_what_chains_file_systems_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    for name in (odd.ALL, "a::b", "simplecache::x", "[*?]"):
        folder = tmp_path / name / name
        folder.mkdir(parents=True)
        (folder / name).write_text(name)
        copy = fetching.folder(f"file://{tmp_path / name}")
        assert [path.read_text() for path in copy.rglob("*") if path.is_file()] == [name]
    with pytest.raises(DataError, match=r"^data\.root: s3:/x: is neither a path nor a URL"):
        fetching.folder("s3:/x")


@pytest.mark.parametrize("named", ["token", "403", "forbidden", "unauthorized"])
def test_a_folder_s_name_is_not_taken_for_what_storage_says(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_PAUSES", (0.001, 0.001))
    file = RemotePath(f"{remote.folder()}/{named}/a", patience=60)
    failures = iter(range(2))

    def before(operation: str, path: str) -> None:
        if operation == "put" and next(failures, None) is not None:
            raise ConnectionError(f"no route to {path}")

    with remote.asking(before):
        file.write_bytes(b"1")  # tried again
    with pytest.raises(OSError, match="refused"), remote.asking(lambda *_: (_ for _ in ()).throw(OSError("forbidden"))):
        RemotePath(f"{remote.folder()}/x/a", patience=60).write_bytes(b"1")


# --- databases


def test_the_url_of_a_study_leads_to_its_file_and_to_no_other() -> None:
    for name in odd.NAMES:
        path = Path("/results") / name / "study.db"
        url = sqlalchemy.make_url(study_file.url(path).format(SCHEMA_VERSION=12))  # as Optuna does
        assert (url.database, dict(url.query)) == (str(path), {})


def test_two_sweeps_never_share_a_study(tmp_path: Path) -> None:
    held = [tmp_path / name for name in ("a?b", "a?c", odd.ALL)]
    for folder in held:
        folder.mkdir()
        file = StudyFile(folder / "study.db")
        assert file.get_all_studies() == []
        optuna.create_study(storage=file, study_name=folder.name[:9])
        file.close()
    assert {path.parent for path in tmp_path.rglob("study.db")} == set(held)
    for folder in held:  # as optuna-dashboard opens it
        [study] = optuna.storages.RDBStorage(study_file.url(folder / "study.db")).get_all_studies()
        assert study.study_name == folder.name[:9]


# --- the terminal


def printed(thing: Any, capsys: pytest.CaptureFixture[str]) -> str:
    cli.console().print(thing, soft_wrap=not isinstance(thing, Table))
    return capsys.readouterr().out


def test_what_is_printed_is_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    for text in odd.TEXTS:
        assert printed(text, capsys) == f"{text}\n"
        assert printed(Text(text), capsys) == f"{text}\n"
        table = Table(text, title=text, caption=text, box=None, pad_edge=False)
        table.add_row(text)
        assert {line.strip() for line in printed(table, capsys).splitlines()} == {text.strip()}
        with pytest.raises(typer.Exit):
            cli.fail(text, 2)
        assert capsys.readouterr().err == f"error: {text}\n"
        progress = bar.made(cli.console())
        progress.add_task(text, total=1)
        [shown] = [column.render(progress.tasks[0]) for column in progress.columns if isinstance(column, TextColumn)]
        assert shown.plain == text


def test_what_a_terminal_would_obey_is_shown_instead(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[31mb\x1b]0;title\x9bc\x7f"
    assert printed(evil, capsys) == "a\\x1b[31mb\\x1b]0;title\\x9bc\\x7f\n"
    with pytest.raises(typer.Exit):
        cli.fail(evil, 2)
    assert "\x1b" not in capsys.readouterr().err


def test_a_stream_that_lacks_a_character_shows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii"))
    cli.console().print(odd.ALL, soft_wrap=True)
    sys.stdout.flush()
    assert held.getvalue().decode("ascii") == odd.ALL.encode("ascii", "backslashreplace").decode() + "\n"


# --- the next command


def searched(results: Path, name: str) -> Plan:
    """A sweep that has ended."""
    judged(results, {1: [120, 150], 2: [100, 110]}, sweep=name)
    asked = space.SearchSpace("a test", "", {}, {}, 2, Objective("val_acc", "max"))
    return Plan(name, asked, results, trials=2)


def words(line: str) -> list[str]:
    """The arguments after `python -m`, as a shell would hand them over."""
    found = shlex.split(line)
    return found[found.index("-m") + 1 :]


@pytest.mark.parametrize("name", odd.SHORT)
def test_the_next_command_chooses_from_the_sweep_that_was_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = searched(tmp_path / odd.ALL, name)
    sweep.show(cli.console(), plan)
    module, *arguments = words(capsys.readouterr().out.splitlines()[-1])
    assert module == "orchestrator.best"
    done = CliRunner().invoke(best.app, [*arguments, "--no-export", "--json"])
    assert done.exit_code == 0, done.output
    assert {one["sweep"] for one in json.loads(done.stdout)["best"]} == {name}


def test_the_command_for_optunas_dashboard_opens_the_study(tmp_path: Path) -> None:
    plan = searched(tmp_path, odd.ALL)
    optuna.create_study(storage=StudyFile(plan.store.study_file), study_name="x")
    done = CliRunner().invoke(status.app, ["--results", str(tmp_path), "--sweep", odd.ALL])
    assert done.exit_code == 0, done.output
    assert f"{odd.ALL}: 2 of 2 trials have ended" in done.output
    [*program, url] = shlex.split(done.output.splitlines()[-1])
    assert program == ["uv", "run", "optuna-dashboard"]
    assert [study.study_name for study in optuna.storages.RDBStorage(url).get_all_studies()] == ["x"]


def test_a_job_of_a_cluster_is_called_and_asked_for_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, dict[str, Any]] = {}

    class Jobs:
        def submit_job(self, **held: Any) -> str:
            given[shlex.split(held["entrypoint"])[-3]] = held
            return str(held["submission_id"])

    monkeypatch.setattr(launch, "_client", lambda _: Jobs())
    monkeypatch.setattr(launch, "runtime_env", dict)
    asked = ["search_spaces/digits.py", "--submit", "http://127.0.0.1:8265", "--results", f"/shared/{odd.ALL}"]
    for name in odd.SHORT:
        done = CliRunner().invoke(sweep.app, [*asked, "--name", name])
        assert done.exit_code == 0, done.output
        job = given[name]["submission_id"]
        command = ["python", "-m", "orchestrator.sweep", *asked[:1], *asked[3:], "--name", name, "--address", "auto"]
        assert shlex.split(given[name]["entrypoint"]) == command
        [*_, stop] = done.output.splitlines()
        assert shlex.split(stop) == f"uv run ray job stop --address http://127.0.0.1:8265 {job}".split()
    assert len({held["submission_id"] for held in given.values()}) == len(given) == len(odd.SHORT)


def test_broken_predictions_of_a_sweep_called_not_there_are_said(tmp_path: Path) -> None:
    store = judged(tmp_path, {1: [120]}, sweep="not there")
    [file] = store.predictions_folder.glob("*.parquet")
    file.write_bytes(b"PAR1")
    done = CliRunner().invoke(best.app, ["--metric", "val_acc", "--results", str(tmp_path), "--no-export"])
    assert f"{file}: not readable as Parquet" in " ".join(done.output.split())
    file.unlink()
    done = CliRunner().invoke(best.app, ["--metric", "val_acc", "--results", str(tmp_path), "--no-export"])
    assert "no predictions of theirs are stored" in " ".join(done.output.split())


def test_the_condition_that_is_proposed_can_be_pasted(tmp_path: Path) -> None:
    fids(tmp_path, [20.0], seed=1, fid_reference=f"{odd.ALL}-1")
    fids(tmp_path, [10.0], seed=2, fid_reference=f"{odd.ALL}-2")
    asked = ["--metric", "fid", "--results", str(tmp_path), "--no-export"]
    done = CliRunner().invoke(best.app, asked)
    assert done.exit_code == 2
    proposed = done.output.partition("choose one kind with ")[2].partition(", or a sweep")[0]
    [option, condition] = shlex.split(proposed)
    assert CliRunner().invoke(best.app, [*asked, option, condition]).exit_code == 0


def test_an_export_whose_name_begins_as_an_option_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    folder_of.verify_in_fresh_process(Path("-x"))
    assert started[0][-1] == str(tmp_path / "-x")


def test_the_line_that_a_node_s_shell_reads_finds_a_folder_of_any_name(tmp_path: Path) -> None:
    home = tmp_path / odd.ALL.replace(":", "")  # which separates the folders of PATH
    (home / "cluster").mkdir(parents=True)
    for name in ("install.sh", "environment.sh"):
        (home / "cluster" / name).write_text(Path("cluster", name).read_text())
    (home / "token").write_text("x")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "uv").chmod(0o755)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
    }
    for _ in range(2):
        subprocess.run(["bash", str(home / "cluster" / "install.sh")], env=environment, check=True)
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1
    asked = ["bash", "-c", '. ~/.bashrc; printf %s "$RAY_AUTH_MODE"']
    assert subprocess.run(asked, env=environment, check=True, capture_output=True, text=True).stdout == "token"


def test_the_check_of_a_manifest_can_be_pasted(tmp_path: Path) -> None:
    file = tmp_path / odd.ALL
    file.write_text("apiVersion: ray.io/v1\n")
    with pytest.raises(ClusterError) as raised:
        cluster_file.load(file)
    command = str(raised.value).removeprefix(f"{file}: a Kubernetes manifest; `").removesuffix("` checks it")
    assert shlex.split(command) == ["kubectl", "apply", "--dry-run=server", "-f", str(file)]


@given(st.text(), st.text())
def test_a_condition_is_read_as_it_is_shown(text: str, other: str) -> None:
    conditions = (Condition("fid_reference", "==", text), Condition("host", "!=", other))
    assert parse(" and ".join(map(str, conditions))) == conditions


# --- Markdown


def read(source: str) -> list[str]:
    """The text of each block as a reader of Markdown sees it, with what is set as code in angle brackets."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = []
    for token in parser.parse(source):
        if token.type in {"fence", "code_block", "html_block"}:
            blocks.append(f"<{token.type}>{token.content}")
        elif token.type == "inline":
            kinds = {"text": "{}", "code_inline": "<{}>", "softbreak": "\n"}
            blocks.append(
                "".join(
                    kinds.get(child.type, f"<{child.type}>").format(child.content) for child in token.children or []
                )
            )
        elif not token.type.startswith("paragraph_"):
            blocks.append(f"<{token.type}>")
    return blocks


def test_a_text_in_markdown_reads_as_it_is() -> None:
    for text in odd.TEXTS:
        assert read(f"a {markdown.prose(text)} b") == [f"a {text.strip()} b"]
        assert read(f"a {markdown.code(text)} b") == [f"a <{text}> b"]


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], include_characters=" "))


@given(st.lists(PRINTABLE, min_size=1))
def test_prose_in_markdown_has_no_markup(lines: list[str]) -> None:
    expected = [
        "\n".join(group)
        for filled, held in itertools.groupby((line.strip() for line in lines), key=bool)
        if filled
        for group in [list(held)]
    ]
    assert read(markdown.prose("\n".join(lines))) == expected


@given(PRINTABLE.filter(str.strip))
def test_code_in_markdown_is_verbatim(text: str) -> None:
    assert read(f"x{markdown.code(text)}x") == [f"x<{text}>x"]


@given(st.lists(PRINTABLE, min_size=1))
def test_a_block_of_code_in_markdown_is_verbatim(lines: list[str]) -> None:
    assert read("\n".join(markdown.block(lines))) == ["<fence>" + "".join(f"{line}\n" for line in lines)]


@pytest.mark.parametrize("described", [card._trained, card._imported])
def test_a_model_card_names_a_sweep_of_any_name(tmp_path: Path, described: Any) -> None:
    for name in odd.NAMES:
        trial_of = Entry(Store(tmp_path / name), {"trial_id": "0123456789ab"}, ())
        place = {"git_commit": "0123abc", "device": name, "started": "2025", "ended": "2025"}
        handed = {"fid": None, "fid_error": name}
        record = ExportRecord(
            sweep=name, trial_id="0123456789ab", chosen_by="val_acc", choice=None, recorded={"epoch": 1},
            measured_again={}, accuracy={}, as_graded=None, class_names=(), confusion=[], submission=handed,
            is_imported=False, origin=place, exported={}, versions={},
        )  # fmt: skip
        lines = described(trial_of, CONFIG, record, "a network", "images")
        shown = read("\n".join(lines))
        assert any(f"<{name}>" in block for block in shown)
        assert sum(name.strip() in block for block in shown) >= 3  # the sweep, the device, and why there is no FID
        assert not [block for block in shown if re.search("<(em|strong|link|image|html|s)_", block)]


# --- HTML


class Reader(HTMLParser):
    """The elements of a page, and the text of each kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.kinds: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds.add(tag)
        self.open.append(tag)
        self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]][-1] += data


def page_of(results: Path) -> Reader:
    done = CliRunner().invoke(report.app, ["--results", str(results)])
    assert done.exit_code == 0, done.output
    assert f"{results / 'report.html'}: " in done.output
    return Reader((results / "report.html").read_text(encoding="utf-8"))


def test_a_report_shows_names_and_nothing_that_they_could_mean(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    judged(plain, {1: [120, 150]}, sweep="plain")
    expected = page_of(plain)
    for name in (odd.ALL, "<script>alert(1)", "<b>&lt;&amp;'\""):
        results = tmp_path / name
        store = judged(results, {1: [120, 150]}, sweep=name)
        column = "</script><b>&lt;"
        [trial_id] = {row["trial_id"] for row in store.epochs().rows()}
        for epoch in (1, 2):
            extra = {f"fid.{name}": 1.0, f"fid.{column}": 2.0, name: 0.5, column: 1.5}
            store.add_epoch(trial_id, 1, metrics(epoch, val_acc=0.5, extra=extra, kept_epochs=(1, 2)))
        failed = CONFIG.with_settings({"seed": 9})
        error = f"ValueError: {name} {column}"
        attempt = Attempt(trial_id=failed.trial_id, attempt=1, number=1, state="FAILED", started=at(), error=error)
        store.write_attempt(attempt, failed)
        page = page_of(results)
        assert page.kinds == expected.kinds
        assert (page.text["title"], page.text["h1"]) == ([f"{name}: report"], [name])
        assert {name, error} <= set(page.text["td"])
        drawn = "".join(page.text["script"][1:])
        assert column not in drawn
        for label in (name, column):  # as a label of plotly, which would take a tag for its own
            text = json.dumps(label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
            assert text in drawn


def test_the_odd_names_are_odd(tmp_path: Path) -> None:
    """Each is a folder that exists under exactly this name; a test of names that nobody can have would show nothing."""
    for name in odd.NAMES:
        (tmp_path / name).mkdir(exist_ok=True)
    assert {path.name for path in tmp_path.iterdir()} == set(odd.NAMES)
