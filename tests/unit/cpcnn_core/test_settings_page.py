"""docs/settings.md: every field of the configuration in its order, with the values that it takes and its default."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from cpcnn_core.config import Scalar, field_names
from cpcnn_core.labels import DEFAULT_LABEL_DIM
from cpcnn_core.sources import SOURCES
from documentation import settings
from tests.support.pages import default_of, rows
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "settings.md").read_text()
HEADS = ("Data", "The network", "Training", "Evaluation", "The rest")
ROWS = {row[0].strip("`"): row[1:] for head in HEADS for row in rows(PAGE, head)}
BOUND = re.compile(r"(from|above|to|at most|below) ([\d.e+-]+)")


def test_the_page_has_every_field_in_its_order() -> None:
    assert tuple(ROWS) == field_names()
    assert len(ROWS) > 50


@pytest.mark.parametrize("name", field_names())
def test_a_field_s_row_says_its_values_its_default_and_what_it_means(name: str) -> None:
    field = settings.fields()[name]
    written, default, unit, meaning = ROWS[name]
    assert default_of(default) == field.default
    assert type(default_of(default)) is type(field.default)
    assert len(meaning) > 8
    assert bool(unit) == ("number" in written or "multiple" in written or name == "protocol")


def takes(name: str, value: Scalar) -> bool:
    """Whether the configuration takes a value, as far as the field alone says so."""
    alone = TypeAdapter[object](settings.fields()[name].rebuild_annotation())
    try:
        alone.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in ROWS if BOUND.search(ROWS[name][0])])
def test_the_bounds_that_a_row_says_are_those_of_the_configuration(name: str) -> None:
    written = ROWS[name][0]
    step: float = 4 if "multiple of 4" in written else 1 if "whole" in written else 1e-9
    for word, number in BOUND.findall(written):
        bound = int(number) if "whole" in written or "multiple" in written else float(number)
        inside, outside = {
            "from": (bound, bound - step),
            "above": (bound + step, bound),
            "to": (bound, bound + step),
            "at most": (bound, bound + step),
            "below": (bound - step, bound),
        }[word]
        assert takes(name, inside), (word, inside)
        assert not takes(name, outside), (word, outside)
    assert takes(name, None) == ("`null`" in written)


@pytest.mark.parametrize("name", [name for name in ROWS if re.fullmatch(r"(`[\w-]+`(, (or )?)?)+", ROWS[name][0])])
def test_the_options_that_a_row_says_are_those_of_the_configuration(name: str) -> None:
    listed = [default_of(option) for option in re.findall(r"`[\w-]+`", ROWS[name][0])]
    assert all(takes(name, option) for option in listed)
    assert not takes(name, "neither") or name == "data.name"  # a registry, which a validator asks


def test_what_null_means_for_data_is_what_the_data_sets_say() -> None:
    for name, otherwise in (("image_size", None), ("channels", None), ("quantize", True)):
        said = {source: value for value, source in re.findall(r"`?(\w+)`? for `(\w+)`", ROWS[f"data.{name}"][3])}
        meant = {source: getattr(held, name) for source, held in SOURCES.items()}
        assert said == {source: str(value).lower() for source, value in meant.items() if value != otherwise}
        assert "else" in ROWS[f"data.{name}"][3]
    assert f"`null`: {DEFAULT_LABEL_DIM}." in ROWS["model.label_dim"][3]
