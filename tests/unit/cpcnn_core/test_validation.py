"""What is said of values that pydantic refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpcnn_core.validation import IsInstance, a_mapping, mistakes, must_be


@dataclass(frozen=True)
class Range:
    low: int


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    share: Annotated[float, Field(gt=0.0)] = 1.0


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: Annotated[Annotated[int, Field(ge=1)] | None, must_be("a count")] = None
    ranges: Annotated[
        Mapping[Annotated[str, must_be("a name")], Annotated[Range, IsInstance()]], a_mapping("of all")
    ] = Field(default_factory=dict)
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _small(self) -> Sample:
        if self.count == 9:
            raise ValueError("count: 9 is too many")
        return self


def sentences_of(given: object, *, within: str = "") -> list[str]:
    with pytest.raises(ValidationError) as raised:
        Sample.model_validate(given)
    return mistakes(raised.value, Sample.model_fields, within=within)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "count is 0; it must be a count"),
        ({"count": True}, "count is True; it must be a count"),
        ({"count": "1"}, "count is '1'; it must be a count"),
        ({"count": 9}, "count: 9 is too many"),  # a validator of the model's own
        ({"cout": 1}, "cout: no such field; did you mean count?"),
        ({3: 1}, "3: no such field; there are count, ranges, inner"),
        ({"ranges": 3}, "ranges is 3; it must be a mapping of all"),
        ({"ranges": {3: Range(1)}}, "ranges: the key 3 must be a name"),
        ({"ranges": {"a.b": 1}}, "ranges['a.b']: 1 is not allowed: input should be an instance of Range"),
        ({"inner": {"share": 0}}, "inner.share: 0 is not allowed: input should be greater than 0"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_field_value_and_what_is_right(given: object, says: str) -> None:
    assert sentences_of(given) == [says]


def test_each_mistake_is_said_and_where() -> None:
    assert sentences_of({"count": 0, "cout": 1, "ranges": {3: Range(1)}}, within="sample") == [
        "sample.count is 0; it must be a count",
        "sample.ranges: the key 3 must be a name",
        "sample.cout: no such field; did you mean count?",
    ]


def test_what_is_right_passes_as_it_is() -> None:
    whole = Range(1)
    sample = Sample.model_validate({"count": 1, "ranges": MappingProxyType({"a": whole})})
    assert sample.count == 1
    assert sample.ranges["a"] is whole
