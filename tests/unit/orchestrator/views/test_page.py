"""The report: one file, nothing loaded from elsewhere, every trial's data in it and none of its markup."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator import report
from orchestrator.records.store import Attempt
from tests.support.browser import Browser
from tests.support.fakes import metrics
from tests.support.paths import local
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, add, fids, judged


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
    picture = local(store.samples_file(CONFIG.with_settings({"seed": 1}).trial_id, 2))
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


def test_a_place_where_no_page_can_be_is_said_in_words(results: Path) -> None:
    judged(results, {1: [120]})
    done = CliRunner().invoke(report.app, ["--results", str(results), "--out", str(results)])
    assert (done.exit_code, "cannot be written: Is a directory" in " ".join(done.output.split())) == (2, True)
    assert not list(results.parent.glob(".*"))


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
        Attempt(trial_id=failed.trial_id, attempt=1, number=1, state="FAILED", started=at(), error=error), failed
    )
    store.add_epoch(CONFIG.with_settings({"seed": 1}).trial_id, 1, metrics(2, fid_error="too few images", val_acc=0.1))
    page = written(results)
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "fid: too few images (1 epochs)" in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        assert "CI" not in os.environ, "the report is checked in Debian's chromium, which is not installed"
        pytest.skip("needs Debian's chromium")
    with Browser(program, tmp_path_factory.mktemp("browser")) as started:
        yield started


def test_the_browser_hears_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/a.png'><script>console.error('no'); undefined.x</script>")
    browser.open(page, width=400)
    assert browser.requests == [page.as_uri(), "http://127.0.0.1:9/a.png"]
    for said in ("'no'", "TypeError", "ERR_"):
        assert any(said in problem for problem in browser.problems), browser.problems


def searched(results: Path) -> set[str]:
    """A sweep that has something for every section, and its trials."""
    store = judged(results, {1: [120, 150], 2: [100, 110], 3: [140, 149], 4: [90, 95]})
    trials = {CONFIG.with_settings({"seed": seed}).trial_id for seed in range(1, 5)}
    alike = {"fid_extractor": "classifier-1", "fid_images": 100, "fid_reference": "digits/validation-1"}
    for trial_id in trials:
        for row in store.epochs_of(trial_id):
            epoch = int(row["epoch"])
            extra = {f"fid.{label}": 50.0 + label - epoch for label in range(4)} | {
                "block_film.gamma_mean": 1.0 / epoch
            }
            again = metrics(epoch, val_acc=row["val_acc"], fid=30.0 / epoch, extra=extra, kept_epochs=(1, 2), **alike)
            store.add_epoch(trial_id, 1, again)
            Image.new("RGB", (256, 40), (90, 90, 200)).save(local(store.samples_file(trial_id, epoch)))
    failed = CONFIG.with_settings({"model.nr_filters": 4})
    attempt = Attempt(trial_id=failed.trial_id, attempt=1, number=9, state="FAILED", started=at(), error="disk full")
    store.write_attempt(attempt, failed)
    return trials


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_it_and_a_click_on_a_point_leads_to_its_trial(
    browser: Browser, results: Path, width: int
) -> None:
    trials = searched(results)
    written(results)
    file = results / "report.html"
    browser.open(file, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    plots = browser.run(
        "[...document.querySelectorAll('.plotly-graph-div')].map(plot => ["
        "plot.querySelectorAll('.main-svg').length, plot.getBoundingClientRect().right, plot.layout.yaxis.title.text])"
    )
    names = {name for _, _, name in plots}
    assert names >= {"val_acc", "accuracy (dotted: training)", "FID of a class", "block_film.gamma_mean"}
    assert all(drawn and right <= width for drawn, right, _ in plots)
    of_trials = browser.run(
        "[...document.querySelectorAll('.plotly-graph-div')].map((plot, at) => [at, plot]).filter("
        "([_, plot]) => plot.data.some(trace => trace.customdata)).map(([at]) => at)"
    )
    assert len(of_trials) >= 7
    for plot in of_trials:
        x, y = browser.run(
            f"(() => {{ location.hash = ''; const plot = document.querySelectorAll('.plotly-graph-div')[{plot}];"
            "plot.scrollIntoView({block: 'center'}); const box = plot.querySelector('.point').getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        browser.click(x, y)
        reached = browser.run("location.hash").removeprefix("#trial-")
        assert reached in trials, (plot, reached)
        row = browser.run("document.querySelector(':target').getBoundingClientRect().top")
        assert 0 <= row < 900
    assert browser.problems == []
    assert browser.requests == [file.as_uri()]
