"""The index of a trial's checkpoints: which files count, and their SHA-256. Free of torch.

An exported folder has `SHA256SUMS` in its place; weights are checked against whichever lies beside them.
"""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpcnn_core.errors import CheckpointError, UserError
from cpcnn_core.metrics import DIRECTIONS

logger = logging.getLogger(__name__)

FORMAT = 1
INDEX, INDEX_BEFORE = "index.json", "index.before.json"
CHECKSUMS = "SHA256SUMS"

Index = dict[str, Any]

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Names that lead out of the folder are none of ours.
_WeightsName = Annotated[str, Field(pattern=r"^weights-[0-9]{4,}\.safetensors$")]
_StateName = Annotated[str, Field(pattern=r"^state-[0-9]{8,}\.pt$")]
_Scalar = str | int | float | None


class Location(Protocol):
    """A file or a folder, on disk or behind a URL."""

    @property
    def name(self) -> str:
        """The last part."""

    @property
    def parent(self) -> Location:
        """The folder that it lies in."""

    def __truediv__(self, name: str, /) -> Location:
        """What has this name in it."""

    def read_bytes(self) -> bytes:
        """All of it. Raise FileNotFoundError."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _State(_Part):
    sha256: _Sha256
    epoch: Annotated[int, Field(ge=0)]


class _Files(_Part):
    history: list[Any]
    weights: dict[_WeightsName, _Sha256 | None]
    states: dict[_StateName, _State]


class _Epoch(_Part):
    """What is relied on in an epoch's metrics, whichever version wrote them."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, _Scalar] = Field(init=False)

    epoch: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=0)]
    kept_epochs: list[int]
    extra: dict[str, float | None]

    @model_validator(mode="after")
    def _metrics_are_numbers(self) -> Self:
        words = [name for name in DIRECTIONS if isinstance(self.__pydantic_extra__.get(name), str)]
        if words:
            raise ValueError(f"{words[0]} is no number")
        return self


class _Whole(_Files):
    trial_id: str
    history: list[_Epoch]


class DamagedIndexError(UserError, ValueError):
    """An index that is not what was written; the message says where."""


def parse(content: bytes, path: object) -> Index:
    """A whole index. Raise DamagedIndexError, or CheckpointError where a later version wrote it."""
    return _parse(content, path, _Whole)


def parse_files(content: bytes, path: object) -> Index:
    """An index as far as it says which files count, whatever it says of epochs. Raise as `parse`."""
    return _parse(content, path, _Files)


def _parse(content: bytes, path: object, model: type[_Part]) -> Index:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedIndexError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DamagedIndexError(f"holds a {type(found).__name__}, expected an object")
    written_in = found.get("format", FORMAT if model is _Files else None)
    if isinstance(written_in, int) and written_in != FORMAT:
        raise CheckpointError(f"{path}: written in format {written_in}, this version reads {FORMAT}")
    try:
        model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedIndexError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if written_in != FORMAT:
        raise DamagedIndexError("names no format")
    return found


def recorded_checksum(file: Location) -> tuple[str, str] | None:
    """The SHA-256 that is recorded for a file of weights, and the name of the file beside it that records it.

    None where nothing beside it records one. Raise OSError where what lies beside it cannot be read.
    """
    folder = file.parent
    for name in (INDEX, INDEX_BEFORE):
        content = _content(folder / name)
        if content is None:
            continue
        try:
            checksum = parse_files(content, folder / name)["weights"].get(file.name)
        except DamagedIndexError as error:
            logger.warning("checkpoint index %s: damaged (%s)", folder / name, error)
            continue
        return None if checksum is None else (checksum, name)
    lines = (_content(folder / CHECKSUMS) or b"").decode(errors="replace").splitlines()
    checksum = next((line[: -len(file.name)].strip() for line in lines if line.endswith(f"  {file.name}")), None)
    return None if checksum is None else (checksum, CHECKSUMS)


def _content(file: Location) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
