"""The report: one file, nothing loaded from elsewhere, every trial's data in it and none of its markup."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator import report
from orchestrator.store import Attempt
from tests.fakes import metrics
from tests.unit.test_best import CONFIG, add, fids, judged


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def written(results: Path, *arguments: str) -> str:
    done = CliRunner().invoke(report.app, ["--results", str(results), *arguments])
    assert done.exit_code == 0, done.output
    return (results / "report.html").read_text()


def text_of(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_one_page_with_every_figure_and_nothing_from_elsewhere(results: Path) -> None:
    store = judged(results, {1: [120, 150], 2: [100, 110], 3: [140, 149], 4: [90]})
    picture = store.samples_file(CONFIG.with_settings({"seed": 1}).trial_id, 2)
    picture.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(picture)
    page = written(results)
    assert page.count("plotly.js v") == 1
    text = text_of(page)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "data:image/png;base64," in text
    for seed in (1, 2, 3, 4):
        assert f'id="trial-{CONFIG.with_settings({"seed": seed}).trial_id}"' in text
    for title in ("Progress of the search", "Learning curves", "Confusion and calibration", "Failures", "All trials"):
        assert f"<h2>{title}</h2>" in text
    assert "No epoch has a FID" in text
    assert "No trial failed" in text


def test_fids_that_were_not_measured_alike_are_never_in_one_figure(results: Path) -> None:
    fids(results, [20.0, 10.0], seed=1)
    fids(results, [5.0], seed=2, fid_images=250)
    text = text_of(written(results))
    assert "of 100 images against" in text
    assert "of 250 images against" in text


def test_failures_say_why_and_their_text_is_no_markup(results: Path) -> None:
    judged(results, {1: [120]})
    failed = CONFIG.with_settings({"seed": 9})
    store = add(results, [], config=failed)
    error = "ValueError: <script>alert('x')</script>"
    store.write_attempt(
        Attempt(trial_id=failed.trial_id, attempt=1, number=1, state="FAILED", started="2025", error=error), failed
    )
    store.add_epoch(CONFIG.with_settings({"seed": 1}).trial_id, 1, metrics(2, fid_error="too few images", val_acc=0.1))
    page = written(results)
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "fid: too few images (1 epochs)" in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_draws_it_without_an_error(results: Path, tmp_path: Path) -> None:
    judged(results, {1: [120, 150], 2: [100, 110], 3: [140, 149], 4: [90]})
    written(results)
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *(
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={tmp_path / 'browser'}",
                "--window-size=1280,900",
            ),
            f"file://{results / 'report.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.count('class="main-svg"') >= 5
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "rror" in line or "ncaught" in line or "net::" in line]
