"""What pydantic refuses, in sentences that name the field, the value and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BeforeValidator, GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from cpcnn_core.suggest import nearest

_MUST_BE = "must_be"


class IsInstance:
    """For an annotation: take values of its class as they are.

    Pydantic's own `InstanceOf` also builds a schema of all that the class holds, which costs time at each import.
    """

    def __get_pydantic_core_schema__(self, source: type, _: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(source)


def must_be(right: str) -> WrapValidator:
    """For an annotation: say of a value that its type refuses that it must be `right`, and not pydantic's reason."""

    def checked(value: object, check: ValidatorFunctionWrapHandler) -> object:
        try:
            return check(value)
        except ValidationError:
            raise PydanticCustomError(_MUST_BE, "{right}", {"right": right}) from None

    return WrapValidator(checked)


def a_mapping(right: str) -> BeforeValidator:
    """For an annotation: say of what is no mapping that it must be one `right`. Its keys and values are for its type.

    A BeforeValidator of the mapping as a whole, since `must_be` would hide which of its values was refused.
    """

    def checked(value: object) -> object:
        if not isinstance(value, Mapping):
            raise PydanticCustomError(_MUST_BE, "{right}", {"right": f"a mapping {right}"})
        return dict(value)

    return BeforeValidator(checked)


def mistakes(error: ValidationError, names: Iterable[str], *, within: str = "") -> list[str]:
    """A sentence for each value that was refused. `names` are those that there are, of which one may be misspelt.

    `within` is the name of what was validated, where its fields do not speak for themselves: `resources`.
    """
    known = tuple(names)
    return [_mistake(item, known, within) for item in error.errors(include_url=False)]


def _mistake(item: ErrorDetails, names: tuple[str, ...], within: str) -> str:
    message, parts = item["msg"].removeprefix("Value error, "), item["loc"]
    if parts[-1:] == ("[key]",):
        return f"{'.'.join(filter(None, (within, _field(parts[:-2]))))}: the key {item['input']!r} must be {message}"
    field = _field(parts)
    place = ".".join(filter(None, (within, field)))
    if item["type"] == "value_error":
        return message  # our own validators name the field themselves
    if item["type"] in {"extra_forbidden", "invalid_key"}:
        return f"{place}: no such field{nearest(field, names)}"
    if item["type"] == _MUST_BE:
        return f"{place} is {item['input']!r}; it must be {message}"
    return f"{place}: {item['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


def _field(parts: Iterable[int | str]) -> str:
    """The name of a place: `model.dropout`; `space['model.dropout']` for a key that is a dotted name itself."""
    name = ""
    for part in parts:
        if isinstance(part, str) and (not name or part.isidentifier()):
            name = f"{name}.{part}" if name else part
        else:
            name = f"{name}[{part!r}]" if name else str(part)
    return name
