"""The report: one file, nothing loaded from elsewhere, every trial's data in it and none of its markup."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator import report
from orchestrator.choosing import finalists
from orchestrator.records.kinds import introduce
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Attempt, Store
from orchestrator.views.page.palette import GREY, SERIES, TEXT_ON, THEMES, contrast
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
    assert page.count('id="plotly-code"') == 1
    assert len(page.encode()) < 3_000_000
    text = text_of(page)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "data:image/png;base64," in text
    for seed in (1, 2, 3, 4):
        assert f'id="trial-{CONFIG.with_settings({"seed": seed}).trial_id}"' in text
    for title in ("By fusion", "Progress of the search", "Learning curves", "Confusion and calibration", "All trials"):
        assert f">{title}</h2>" in text
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
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "fid: too few images (1 epochs)" in page


def test_of_a_thousand_classes_the_page_names_the_most_confused_and_stays_small(results: Path) -> None:
    names = [f"species {label}, <i>{label}</i>" for label in range(1000)]
    store = add(results, [0.0])
    introduce(store, "trials", "Which?", class_names=names)
    label = np.arange(1500) % 1000
    log_p = np.random.default_rng(0).normal(size=(1500, 1000))
    log_p[label == 7, 8] = 10.0  # both images of it
    log_p[label != 7, label[label != 7]] = 10.0
    right = float((log_p.argmax(axis=1) == label).mean())
    store.add_epoch(CONFIG.trial_id, 1, metrics(1, val_acc=right, kept_epochs=(1,)))
    images = [f"{at}.png" for at in range(1500)]
    store.write_predictions(CONFIG.trial_id, 1, images=images, labels=label.tolist(), log_likelihood=log_p)
    page = written(results)
    assert len(page.encode()) < 3_000_000
    confused = page.split('<table id="confused"')[1].split("</table>")[0]
    assert re.findall(r"species \d+", confused) == ["species 7", "species 8"]
    classes = page.split('<table id="classes"')[1].split("</table>")[0]
    assert re.findall(r"species (\d+)", classes)[0] == "7"  # the worst first
    assert classes.count("<tr") == 1001
    assert "<i>7" not in page
    assert "1000 classes</span>" in page


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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a sweep that has something for every section."""
    results = tmp_path_factory.mktemp("searched") / "results"
    searched(results)
    written(results)
    return results / "report.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_it_and_a_click_on_a_point_leads_to_its_trial(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    trials = {CONFIG.with_settings({"seed": seed}).trial_id for seed in range(1, 5)}
    assert browser.run("document.documentElement.scrollWidth") <= width
    plots = browser.run(
        "[...document.querySelectorAll('.plot')].map(plot => [plot.querySelectorAll('.main-svg').length,"
        "plot.getBoundingClientRect().right, plot.closest('figure').querySelector('h3').textContent])"
    )
    names = {name for _, _, name in plots}
    assert names >= {"The best value so far", "Accuracy", "FID of each class", "block_film.gamma_mean"}
    assert all(drawn and right <= width for drawn, right, _ in plots)
    of_trials = browser.run(
        "[...document.querySelectorAll('.plot')].map((plot, at) => [at, plot]).filter("
        "([_, plot]) => plot.data.some(trace => trace.customdata)).map(([at]) => at)"
    )
    assert len(of_trials) >= 7
    for plot in of_trials:
        x, y = browser.run(
            f"(() => {{ location.hash = ''; const plot = document.querySelectorAll('.plot')[{plot}];"
            "plot.scrollIntoView({block: 'center'}); const at = plot.data.findIndex(trace => trace.customdata);"
            "const box = plot.querySelectorAll('.scatter')[at].querySelector('.point').getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        browser.click(x, y)
        reached = browser.run("location.hash").removeprefix("#trial-")
        assert reached in trials, (plot, reached)
        row = browser.run("document.querySelector(':target').getBoundingClientRect().top")
        assert 0 <= row < 900
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]


def test_an_axis_of_epochs_or_trials_has_whole_numbers_alone(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    ticks = browser.run(
        "[...document.querySelectorAll('.plot')].filter(plot => /epoch|trial/.test(plot.layout.xaxis.title.text))"
        ".flatMap(plot => [...plot.querySelectorAll('.xtick text')].map(tick => tick.textContent))"
    )
    assert ticks
    assert all(tick.isdigit() for tick in ticks), ticks


def test_the_table_of_trials_sorts_and_filters_by_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    column = "[...document.querySelectorAll('#all-trials tbody tr:not([hidden])')].map(row => {}.textContent)"
    values = column.format("row.cells[2]")
    head = "document.querySelectorAll('#all-trials th button')[2]"
    browser.run(f"{head}.focus()")
    browser.press("Enter")
    rising = browser.run(values)
    assert rising[:4] == sorted(rising[:4])
    assert rising[4] == "-"  # of the trial that failed
    assert browser.run(f"{head}.closest('th').getAttribute('aria-sort')") == "ascending"
    browser.press("Enter")
    assert browser.run(values) == [*reversed(rising[:4]), "-"]
    browser.run("document.querySelector('#all-trials-filter').focus()")
    browser.type("failed")
    assert browser.run(column.format("row.cells[1]")) == ["FAILED"]
    assert browser.run("document.querySelector('[data-count]').textContent") == "1 of 5 trials"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_figures_have_the_page_s_colours(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=1280, dark=dark)
    theme = THEMES["dark" if dark else "light"]
    assert browser.run("document.querySelector('.plot').layout.font.color") == theme["text"]
    r, g, b = (int(theme["page"][at : at + 2], 16) for at in (1, 3, 5))
    assert browser.run("getComputedStyle(document.body).backgroundColor") == f"rgb({r}, {g}, {b})"


# ------------------------------------------------------------------------------- what a page owes who does not see it


class Outline(HTMLParser):
    """The elements of a page with their attributes, and the text of headings and buttons."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_every_figure_is_in_words_that_plotly_knows(page: Path) -> None:
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    assert len(found) > 8
    for text in found:
        drawing = json.loads(text)
        go.Figure(**drawing)  # raises for a word that is none
    with pytest.raises(ValueError, match="Invalid property"):
        go.Figure(layout=drawing["layout"] | {"legnd": {}})


def test_the_page_says_in_words_what_it_shows(page: Path) -> None:
    outline = Outline(text_of(page.read_text()))
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "a level of headings is left out"
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("alt" in image for image in outline.of("img"))
    shown = [image for image in outline.of("img") if image.get("class") != "overlay"]
    assert all(len(image["alt"] or "") > 10 for image in shown)
    labels = {label["for"] for label in outline.of("label")}
    assert all(field["id"] in labels for field in outline.of("input"))
    plots = [plot for plot in outline.of("div") if plot.get("class") == "plot"]
    assert len(plots) > 5
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 20 for plot in plots)
    for name in ("aria-labelledby", "aria-describedby"):
        assert {attributes[name] for _, attributes in outline.elements if name in attributes} <= set(ids)
    wide = [part for part in outline.of("div") if part.get("class") == "wide"]
    assert all(part["tabindex"] == "0" and part["role"] == "region" for part in wide)
    assert all(head.get("scope") in {"row", "col"} for head in outline.of("th"))
    targets = {(link["href"] or "")[1:] for link in outline.of("a")}
    assert targets <= set(ids)
    [html] = outline.of("html")
    assert html["lang"] == "en"


@pytest.mark.parametrize("name", sorted(THEMES))
def test_colours_have_the_contrast_that_text_and_figures_need(name: str) -> None:
    theme = THEMES[name]
    for text, ground in TEXT_ON:
        assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for color in (*SERIES, GREY):
        for ground in ("page", "card"):
            assert contrast(color, theme[ground]) >= 3, (color, ground)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_a_page_with_pictures_of_the_course_s_size_that_no_png_makes_smaller_is_under_three_megabytes(
    results: Path,
) -> None:
    searched(results)
    store = Store(results / "one")
    generator = np.random.default_rng(0)

    def noise(height: int, width: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, format="PNG")
        return buffer.getvalue()

    drawn = [
        Picture(kind="drawn", label=at % 4, png=noise(32, 32), nearest="a", nearest_png=noise(32, 32), distance=0.5)
        for at in range(32)
    ]
    ratio = generator.normal(size=32 * 32).tolist()
    classified = [
        Picture(kind="validation", label=0, png=noise(32, 32), image="a", predicted=1, confidence=0.9, other=1,
                log_ratio=ratio)
        for _ in range(9)
    ]  # fmt: skip
    for one in finalists.of_sweep(store):
        store.write_pictures(one.trial_id, one.epoch, drawn + classified)
        for epoch in (1, 2):
            [row] = [row for row in store.epochs_of(one.trial_id) if row["epoch"] == epoch]
            extra = {f"val_acc.{label}": 0.5 for label in range(4)}
            extra |= {"class_distance.min": 0.1, "class_distance.mean": 0.3, "fusion.block_film.gamma_std": 0.2}
            store.add_epoch(one.trial_id, 1, metrics(epoch, val_acc=row["val_acc"], kept_epochs=(1, 2), extra=extra))
            grid = Image.open(io.BytesIO(noise(4 * 33, 25 * 33))).resize((25 * 66, 4 * 66), Image.Resampling.NEAREST)
            grid.save(local(store.samples_file(one.trial_id, epoch)))
    page = written(results)
    assert page.count("data:image/png") > 100
    assert len(page.encode()) < 3_000_000
    assert page.count("Left: drawn as class") == len(drawn)  # each sample beside its nearest training image
    best = finalists.of_sweep(store)[0].trial_id
    for epoch in (1, 2):
        [row] = [row for row in store.epochs_of(best) if row["epoch"] == epoch]
        assert (f"epoch {epoch}, weights kept<" in page) == (row["checkpoint"] is not None)
    assert "weights kept<" in page
    assert "Dotted: the mean of all pairs of classes." in page
    assert page.count("What the fusion tells of itself") == 1
