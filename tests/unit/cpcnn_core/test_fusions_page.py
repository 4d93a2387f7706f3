"""docs/fusions.md: every fusion with its sites and options, and the network's stages as they are built."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cpcnn_core.config import ModelConfig
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.model import ConditionalPixelCNN
from documentation.values import values
from tests.support.pages import default_of, rows
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "fusions.md").read_text()
FUSION_ROWS = {row[0].strip("`"): row[1:] for row in rows(PAGE, "The built-in fusions")}
OPTION_ROWS = {row[0].strip("`"): row[1:] for row in rows(PAGE, "Options")}
NR_RESNET = 2


def network(fusion: str, **options: bool) -> ConditionalPixelCNN:
    given = {fusion: dict(options)} if options else {}
    config = ModelConfig(fusion=fusion, fusion_options=given, nr_filters=4, nr_resnet=NR_RESNET)
    return ConditionalPixelCNN(config, (3, 8, 8), 2)


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_has_every_fusion_in_the_order_of_the_registry() -> None:
    assert list(FUSION_ROWS) == list(FUSIONS)
    for name, (formula, _, origin) in FUSION_ROWS.items():
        assert len(formula) > 8, name
        assert origin, name


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_acts_where_the_table_says(name: str) -> None:
    model = network(name)
    kind = {site.name: site.kind for site in model.sites}
    used = {kind[site] for site in model.fusion(model.label.table())}
    assert used == set(quoted(FUSION_ROWS[name][1]))


def test_the_drawing_has_every_kind_of_site() -> None:
    drawings = "".join(re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    assert all(site.kind in drawings for site in network("none").sites)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_options_of_a_fusion_are_those_that_name_it(name: str) -> None:
    options = FUSIONS[name].Options.model_fields
    assert {option for option, row in OPTION_ROWS.items() if name in quoted(row[0])} == set(options)
    for option, field in options.items():
        _, written, default, _, meaning = OPTION_ROWS[option]
        if option != "levels":  # a pattern of its own
            assert written == values(field.annotation, field.metadata), option
        assert default_of(default) == field.default, option
        assert meaning, option


def blocks() -> Iterator[tuple[str, str]]:
    for site in network("none").sites:
        if site.kind == "hidden":
            assert site.block is not None
            direction, stage, stream, _ = site.name.split(".", 3)
            if stream == "u":
                yield f"{direction}.{stage}", site.block.resolution


def test_the_stages_are_those_of_the_network() -> None:
    built = list(blocks())
    stages = [(row[0].strip("`"), row[1].strip("`"), row[2]) for row in rows(PAGE, "The network")]
    assert [stage for stage, _, _ in stages] == list(dict.fromkeys(stage for stage, _ in built))
    for stage, resolution, count in stages:
        assert built.count((stage, resolution)) == NR_RESNET + count.endswith("+ 1"), stage


def test_up_u_reaches_every_block() -> None:
    model = network("block_concat", up_u=True)
    everywhere = {site.block for site in model.sites if site.block is not None}
    reached = {site.block for site in model.sites if site.name in model.fusion(model.label.table())}
    assert reached == everywhere
