"""The drawings of fusions: what a network does is what they mark, in a file that every browser shows in both themes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from cpcnn_core.fusion import FUSIONS
from documentation.drawing import Acting, svg

SVG = "{http://www.w3.org/2000/svg}"
SIGNS = {"shift": "+", "scale": "\N{MULTIPLICATION SIGN}", "extra": "\N{DOUBLE VERTICAL LINE}"}


def drawn(name: str) -> ET.Element:
    return ET.fromstring(svg(name))


@pytest.mark.parametrize("name", FUSIONS)
def test_as_many_sites_are_marked_as_the_fusion_uses(name: str) -> None:
    acting, root = Acting.of(name), drawn(name)
    marks = [dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "site on"]
    in_blocks = {site.kind for site in acting.sites if site.block is not None and site.name in acting.done}
    assert len(marks) == len(acting.done) + len(in_blocks)  # those of the large block besides
    assert len(list(root.iter(f"{SVG}circle"))) == len(acting.sites) + 4
    named = {text.text for text in root.iter(f"{SVG}text") if text.get("class") == "name"}
    assert named == set(acting.kinds())


@pytest.mark.parametrize("name", FUSIONS)
def test_a_mark_says_what_is_done(name: str) -> None:
    signs = Counter(text.text for text in drawn(name).iter(f"{SVG}text") if text.text in SIGNS.values())
    done = Counter(SIGNS[what] for what in Acting.of(name).done.values())
    assert set(signs) == set(done)
    assert all(signs[sign] >= count for sign, count in done.items())


def test_adding_scaling_and_concatenating_are_told_apart() -> None:
    done = {name: set(Acting.of(name).done.values()) for name in ("none", "block_mild", "block_film", "input_concat")}
    assert done == {"none": set(), "block_mild": {"shift"}, "block_film": {"scale"}, "input_concat": {"extra"}}


@pytest.mark.parametrize("name", FUSIONS)
def test_everything_lies_inside_and_no_site_on_another(name: str) -> None:
    root = drawn(name)
    _, _, width, height = (float(number) for number in str(root.get("viewBox")).split())
    places = sorted((float(str(dot.get("cx"))), float(str(dot.get("cy")))) for dot in root.iter(f"{SVG}circle"))
    assert all(8 <= x <= width - 8 and 8 <= y <= height - 8 for x, y in places)
    assert all(abs(a[0] - b[0]) > 12 or abs(a[1] - b[1]) > 6 for a, b in pairwise(places))
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", FUSIONS)
def test_it_is_small_has_a_title_needs_nothing_else_and_knows_the_dark(name: str) -> None:
    text = svg(name)
    assert len(text.encode()) < 16_000
    assert "prefers-color-scheme:dark" in text
    assert text.count("http") == 1  # the name of SVG itself
    assert str(drawn(name).findtext(f"{SVG}title")).startswith(f"{name}: ")
