"""docs/settings.md: every field of the configuration in its order, with the values that it takes and its default."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cpcnn_core.config import TrialConfig, field_names
from cpcnn_core.labels import DEFAULT_LABEL_DIM
from cpcnn_core.sources import SOURCES
from tests.support.pages import default_of, rows, values
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "settings.md").read_text()
HEADS = ("Data", "The network", "Training", "Evaluation", "The rest", "What a trial continues")
ROWS = {row[0].strip("`"): row[1:] for head in HEADS for row in rows(PAGE, head)}
BY_NAME = {  # what an annotation does not say
    "data.name": ", ".join(f"`{name}`" for name in SOURCES),
    "data.root": "path or URL, or `null`",
    "eval.fid_weights": "path, or `null`",
    "model.fusion": "[a fusion](fusions.md#the-built-in-fusions), or several joined by `+`",
}


def fields() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= {f"{section}.{name}": field for name, field in info.annotation.model_fields.items()}
        else:
            found[section] = info
    return {name: field for name, field in found.items() if name in field_names()}


def test_the_page_has_every_field_in_its_order() -> None:
    assert tuple(ROWS) == field_names()
    assert len(ROWS) > 50


@pytest.mark.parametrize("name", field_names())
def test_a_field_s_row_says_its_values_its_default_and_what_it_means(name: str) -> None:
    field = fields()[name]
    written, default, meaning = ROWS[name]
    assert written == BY_NAME.get(name) or written == values(field.annotation, field.metadata)
    assert default_of(default) == field.default
    assert type(default_of(default)) is type(field.default)
    assert len(meaning) > 8


def test_what_null_means_for_data_is_what_the_data_sets_say() -> None:
    for name, attribute in (("image_size", "image_size"), ("channels", "channels"), ("quantize", "quantize")):
        said = {source: value for value, source in re.findall(r"`?(\w+)`? for `(\w+)`", ROWS[f"data.{name}"][2])}
        assert said == {source: str(getattr(held, attribute)).lower() for source, held in SOURCES.items()}
    assert f"`null`: {DEFAULT_LABEL_DIM}." in ROWS["model.label_dim"][2]
