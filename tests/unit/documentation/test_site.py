"""The site: links that lead out of docs/ and back, and what would be loaded from another host."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from documentation import layers, site
from tests.support.paths import ROOT

CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("written", "outside", "shown"),
    [
        ("[a](docs/sweeps.md#names-and-paths)", True, "[a](sweeps.md#names-and-paths)"),
        ("[a](CHANGELOG.md), [b](docs/gpu.md)", True, "[a](changelog.md), [b](gpu.md)"),
        ('<img src="docs/report.png" width="52%">', True, '<img src="report.png" width="52%">'),
        ("[a](../CONTRIBUTING.md)", False, "[a](contributing.md)"),
        ("[a](../README.md#on-a-cluster)", False, "[a](index.md#on-a-cluster)"),
        (
            "[a](sweeps.md), [b](#here), ![c](fusions/none.svg)",
            False,
            "[a](sweeps.md), [b](#here), ![c](fusions/none.svg)",
        ),
        ("[a](https://example.org/docs/x)", True, "[a](https://example.org/docs/x)"),
    ],
)
def test_a_link_leads_to_where_the_site_has_the_page(written: str, outside: bool, shown: str) -> None:
    assert site.for_the_site(written, outside=outside) == shown


def test_a_diagram_becomes_the_drawing_of_the_same_layers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = site.with_drawing(page)
    assert "mermaid" not in shown
    assert "(layers.svg)" in shown
    assert len(shown) > len(page) / 2
    drawn = ET.fromstring((ROOT / "docs" / layers.FILE).read_text(encoding="utf-8"))
    boxes = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert boxes == [*layers.layers(ROOT), *layers.BELOW]
    assert all(box.replace(" (files only)", "") in page for box in layers.BELOW)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://elsewhere.org/x.js"></script>'),
        ("a.html", '<script defer src="//elsewhere.org/x.js"></script>'),
        ("a.html", '<img alt="x" src="http://elsewhere.org/x.png">'),
        ("a.html", '<link rel="stylesheet" href="https://elsewhere.org/x.css">'),
        ("a.html", "<style>@import 'https://elsewhere.org/x.css'</style>"),
        ("deep/a.css", "@font-face{src:url(https://elsewhere.org/x.woff2)}"),
    ],
)
def test_what_would_come_from_another_host_is_found(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    [found] = site.loaded_from_elsewhere(tmp_path)
    assert found.startswith(f"{name}: ")


def test_what_the_site_has_itself_and_links_to_follow_are_no_requests(tmp_path: Path) -> None:
    text = '<a href="https://elsewhere.org">x</a><script src="assets/x.js"></script><link rel="icon" href="x.png">'
    (tmp_path / "a.html").write_text(text)
    (tmp_path / "a.css").write_text("a{background:url(x.png)}b{mask:url('data:image/svg+xml,<svg/>')}")
    assert site.loaded_from_elsewhere(tmp_path) == []


def test_the_navigation_has_every_page_once() -> None:
    listed = re.findall(r"^ +- .*: ([\w-]+\.md)$", CONFIG, re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(site.OUTSIDE.values())
    assert sorted(listed) == sorted(pages)


def test_no_font_is_fetched_and_every_doubt_is_an_error() -> None:
    assert "font: false" in CONFIG
    assert "strict: true" in CONFIG
    checks = CONFIG.split("\nvalidation:\n")[1].split("\nnav:")[0]
    assert set(re.findall(r": (\w+)$", checks, re.MULTILINE)) == {"warn"}
    assert "anchors" in checks
