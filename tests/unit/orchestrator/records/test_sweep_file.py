"""sweep.json through its models: read as it is, written as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.store import Store, StoreError
from orchestrator.records.sweep_file import VERSION, Run, SweepRecord
from tests.support.paths import ROOT

OLD = ROOT / "tests" / "data" / "results-0.1" / "two_fusions" / "sweep.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    return made


def content(store: Store) -> Any:
    return json.loads(store.sweep_file.read_text())


def test_a_file_of_the_first_release_is_read_and_written_again_as_it_is(store: Store) -> None:
    store.sweep_file.write_bytes(OLD.read_bytes())
    record = store.read_sweep()
    assert record is not None
    assert record.asked is not None
    assert (record.kind, record.asked.protocol, record.schema_version) == (None, 1, VERSION)
    assert record.settings["model.dropout"] == 0.0
    assert (record.runs[0].trials, record.runs[0].cost) == (2, None)
    store.write_sweep(record)
    assert store.sweep_file.read_bytes() == OLD.read_bytes()


def test_keys_that_nobody_knows_and_numbers_as_they_are_survive_a_change(store: Store) -> None:
    held = {
        "of": {"another": ["release"]},
        "asked": {"settings": {"a": 1, "b": 1.0, "c": True, "d": "1"}, "more": None},
        "runs": [{"hours": 2, "more": [1]}, {"gpu_hours": 2.0}],
    }
    store.sweep_file.write_bytes(json.dumps(held).encode())
    record = store.read_sweep()
    assert record is not None
    store.write_sweep(record.model_copy(update={"runs": [*record.runs, Run(trials=3)], "kind": "sweep"}))
    changed = held | {"runs": [*held["runs"], {"trials": 3}], "kind": "sweep"}
    assert json.dumps(content(store), sort_keys=True) == json.dumps(changed, sort_keys=True)


def test_what_nobody_gave_is_not_written(store: Store) -> None:
    store.write_sweep(SweepRecord(name="one", source=None))
    assert content(store) == {"name": "one", "source": None}
    store.write_sweep(SweepRecord())
    assert content(store) == {}
    assert not store.read_sweep()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"not readable as JSON \(.*\); move it away"),
        ("[]", "holds no JSON object; move it away"),
        ('{"asked": null}', "`asked` is no object with settings; move it away"),
        ('{"runs": [1]}', "`runs` is no list of objects; move it away"),
        ('{"runs": [{"trials": "9"}]}', r"`runs\.0\.trials`: .* valid integer; move it away"),
        ('{"fields": {"a": {"kind": "chance"}}}', r"`fields\.a`: .* 'choice', 'ints', 'floats'; move it away"),
        (
            '{"fields": {"a": {"kind": "ints", "low": 1, "high": true, "step": 1}}}',
            r"`fields\.a\.ints\.high`: .*integer",
        ),
        ('{"fields": {"a": {"kind": "choice", "options": [[1]]}}}', r"`fields\.a\.choice\.options\.0\.1`: .*required"),
        ('{"schema_version": 2}', r"a newer version of this program wrote it \(schema 2\)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong(store: Store, text: str, says: str) -> None:
    store.sweep_file.write_bytes(text.encode())
    with pytest.raises(StoreError, match=rf"one/sweep\.json: {says}"):
        store.read_sweep()
