"""docs/extending.md and docs/add-a-fusion.md, followed to the letter in a copy: every toy passes its suite and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FUSION_PAGE = (ROOT / "docs" / "add-a-fusion.md").read_text()
COMMAND = re.compile(r"^uv run --group dev pytest (\S+) -k (\w+)$", re.MULTILINE)

pytestmark = [pytest.mark.xdist_group("extending"), pytest.mark.unmeasured]


def insert(file: Path, table: str, lines: str) -> None:
    """An import below the others, an entry at the beginning of the table."""
    imports = "".join(line for line in lines.splitlines(keepends=True) if line.startswith("from "))
    entry = "".join(line for line in lines.splitlines(keepends=True) if line.startswith("    "))
    assert entry.count("\n") == 1
    text = file.read_text()
    text = text.replace("from __future__ import annotations\n", f"from __future__ import annotations\n\n{imports}", 1)
    changed = re.sub(rf"^({table}: .*{{)\n", lambda begin: f"{begin[1]}\n{entry}", text, count=1, flags=re.MULTILINE)
    assert changed != text, f"{file} has no table {table}"
    file.write_text(changed)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which both pages were followed."""
    copy = tmp_path_factory.mktemp("extended")
    for package in ("cpcnn_core", "orchestrator", "search_spaces", "cluster", "tests", "docs"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL):
        assert not (copy / name).exists()
        (copy / name).write_text(content)
    for name, table, lines in re.findall(r"<!-- line: (\S+) (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL):
        insert(copy / name, table, lines)
    [(name, content)] = re.findall(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", FUSION_PAGE, re.DOTALL)
    (copy / "cpcnn_core" / "fusion" / name).write_text(content)
    [line] = re.findall(r"<!-- line: FUSIONS -->\n```python\n(.*?)```", FUSION_PAGE, re.DOTALL)
    imported = "from cpcnn_core.fusion.output_scale import OutputScale\n"
    insert(copy / "cpcnn_core" / "fusion" / "__init__.py", "FUSIONS", imported + line)
    return copy


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


def test_every_toy_passes_its_suite(extended: Path) -> None:
    commands = COMMAND.findall(PAGE)
    assert len(commands) == 6
    files, names = zip(*commands, strict=True)
    shown = run(extended, "pytest", *files, "-k", " or ".join(names), "-p", "no:cacheprovider", "-n0", "-v")
    for file, name in commands:
        passed = re.findall(rf"^{re.escape(file)}::.*{name}.* PASSED", shown, re.MULTILINE)
        assert passed, f"{file} has no test of {name}"


def test_a_trial_of_all_toys_at_once(extended: Path, tmp_path: Path) -> None:
    space = tmp_path / "toys.py"
    space.write_text(
        "from search_spaces import choice\n"
        'question = "do they work together"\n'
        'space = {"model.fusion": choice("output_scale")}\n'
        'settings = {"data.name": "stripes", "model.nr_filters": 4, "train.epochs": 2}\n'
        'objective = "val_brier"\nsampler = "exploring"\nscheduler = "weeding"\ntrials = 1\n'
    )
    results = tmp_path / "results"
    run(extended, "orchestrator.trial", str(space), "--results", str(results), "--tracker", "lines")
    [epochs] = (results / "toys-trials" / "epochs").glob("*.parquet")
    values = [dict(metrics)["val_brier"] for metrics in pq.read_table(epochs)["extra"].to_pylist()]
    assert len(values) == 2
    assert all(0 < value < 2 for value in values)
    [shown] = (results / "toys-trials" / "lines").glob("*.jsonl")
    lines = [json.loads(line) for line in shown.read_text().splitlines()]
    assert [line.get("val_brier") for line in lines] == [*values, None]


def test_the_page_names_every_table_with_its_file() -> None:
    rows = re.findall(r"^\| \[.*\]\((#[\w-]+)\) \| `[^`]+` \| `(\w+)` in `([^`]+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for anchor, table, file in rows:
        assert re.search(rf"^{table}: ", (ROOT / file).read_text(), re.MULTILINE), file
        assert f"\n## {anchor[1:].replace('-', ' ').capitalize()}\n" in PAGE
