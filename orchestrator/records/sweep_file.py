"""sweep.json: what a folder of results is, what its sweep was asked, and each run of the driver.

Nothing else reads or writes that file. Its models hold what this release knows of it; keys that it does not know, of
another release or of somebody's own, are kept when the file is written again, and keys that nobody has given are not
written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from cpcnn_core.config import Scalar, not_identifying
from orchestrator.records import layout
from orchestrator.records.errors import StoreError
from orchestrator.records.location import RemoteError
from orchestrator.records.place import Place
from orchestrator.records.space_record import RecordedSpace

VERSION = 1
"""The version of the file, its `schema_version`; a file without one is of the first."""

MENDED = (
    "move it away; the sweep or trial command that the folder belongs to writes it anew, once it has seen that the "
    "rows are of the same data"
)

Number: TypeAlias = int | float


class _Part(BaseModel):
    # Strict: what is read is written again as it was, 1 as 1 and "1" as "1".
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)

    def as_json(self) -> dict[str, JsonValue]:
        """What was given of it, as JSON."""
        given: dict[str, JsonValue] = self.model_dump(exclude_unset=True)
        return given

    def __bool__(self) -> bool:
        """Whether anything was given of it."""
        return bool(self.model_fields_set)


class Asked(_Part):
    """What was asked: two sweeps whose `identifying` parts are the same find the same."""

    protocol: int = 1  # how a model is trained and measured; the first release did not say
    space: Mapping[str, JsonValue] = Field(default_factory=dict)  # field: what it may be, in words
    settings: Mapping[str, Scalar] = Field(default_factory=dict)  # fields that do not vary, without places
    sampler: str | None = None
    objective: Mapping[str, JsonValue] | None = None  # `Objective.describe`
    seed: int | None = None

    def identifying(self) -> dict[str, JsonValue]:
        """As JSON, with the settings that identify it alone."""
        given, settings = self.as_json(), dict[str, JsonValue](self.identifying_settings)
        return given | {"settings": settings} if "settings" in given else given

    @property
    def identifying_settings(self) -> dict[str, Scalar]:
        """The settings but for those in which two that were asked the same may differ."""
        apart = not_identifying(self.settings)
        return {name: value for name, value in self.settings.items() if name not in apart}


class Run(_Part):
    """One run of the driver, by which code and on which machine."""

    started: str | None = None  # UTC, ISO 8601
    trials: int | None = None  # how many the sweep was to have
    hours: Number | None = None
    gpu_hours: Number | None = None
    scheduler: Mapping[str, JsonValue] = Field(default_factory=dict)
    git_commit: str | None = None
    versions: Mapping[str, str | None] = Field(default_factory=dict)
    hardware: Mapping[str, JsonValue] = Field(default_factory=dict)
    data_root: Scalar = None
    fid_weights: Scalar = None
    cost: Number | None = None  # of the nodes in this run; None where they have no price
    price_per_hour: Number | None = None  # of the nodes that were there last
    max_cost: Number | None = None
    sharing: Mapping[str, JsonValue] | None = None  # of GPUs by several trials: how many, by what measurement, how


class SweepRecord(_Part):
    """The content of sweep.json. False where there is none."""

    schema_version: int = VERSION
    name: str | None = None
    kind: str | None = None  # what the folder is, one of `kinds.KINDS`
    question: str | None = None
    source: str | None = None  # the space file
    asked: Asked | None = None  # None where nothing was: trials were run by hand, or imported
    created: str | None = None  # UTC, ISO 8601
    runs: Sequence[Run] = ()
    confirmation: Mapping[str, JsonValue] | None = None  # the question that it decides: `confirming.Question`
    class_names: Sequence[str] = ()  # in the order of their numbers; a sweep of an earlier release has none
    fields: RecordedSpace | None = None  # None in a sweep of the first releases
    warm_start: Sequence[str] = ()  # the sweeps that it learned from
    extended: Sequence[str] = ()  # when its space grew
    continued: Sequence[int] = ()  # by how many more epochs its COMPLETE trials went on

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """The fields that were asked for and do not vary; none where nothing was asked."""
        return {} if self.asked is None else self.asked.settings

    @property
    def objective(self) -> Mapping[str, JsonValue] | None:
        """What was optimised, as `Objective.describe` says it; None where nothing was asked."""
        return None if self.asked is None else self.asked.objective


class SweepFile:
    """Reads and writes one sweep.json."""

    def __init__(self, place: Place) -> None:
        self.path = place.path(layout.SWEEP_FILE)
        self._place = place

    def read(self) -> SweepRecord | None:
        """Its content, None where it is not there. Raise StoreError where it is broken."""
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except RemoteError as error:
            raise StoreError(str(error)) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}: not readable as JSON ({error}); {MENDED}") from None
        if (strange := _strange(content)) is not None:
            raise StoreError(f"{self.path}: {strange}; {MENDED}")
        if isinstance(version := content.get("schema_version", VERSION), int) and version > VERSION:
            raise StoreError(f"{self.path}: a newer version of this program wrote it (schema {version})")
        try:
            return SweepRecord.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise StoreError(f"{self.path}: `{place}`: {first['msg']}; {MENDED}") from None

    def write(self, record: SweepRecord) -> None:
        """Replace its content. Raise StoreError."""
        text = json.dumps(record.as_json(), indent=2) + "\n"
        self._place.write(layout.SWEEP_FILE, lambda stream: stream.write(text.encode()))


def _strange(content: object) -> str | None:
    """What keeps the content from being read as that of a sweep; None where it has the shape of one."""
    if not isinstance(content, dict):
        return "holds no JSON object"
    asked, runs = content.get("asked", {}), content.get("runs", [])
    if not isinstance(asked, dict) or not isinstance(asked.get("settings", {}), dict):
        return "`asked` is no object with settings"
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        return "`runs` is no list of objects"
    return None
