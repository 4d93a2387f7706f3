"""What optuna-dashboard shows of a sweep: its name, its metrics' names, and what its trials drew."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from PIL import Image

from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Store
from orchestrator.search import artifacts, study_file
from orchestrator.search.study_file import StudyError, StudyFile
from tests.support.paths import local
from tests.unit.orchestrator.search.test_study import SPACE, run_all, studying

EARLIER = "sweep"  # what releases before this one called every study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "digits")
    made.create()
    return made


def asked(store: Store) -> Callable[[str], bytes]:
    """Asks optuna-dashboard's own application, as a browser would."""
    storage = RDBStorage(study_file.url(store.study_file))
    application = wsgi(storage, artifact_store=FileSystemArtifactStore(store.artifacts_folder))

    def ask(path: str) -> bytes:
        status: list[str] = []
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80",
            "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.url_scheme": "http",
        }  # fmt: skip
        answered = application(environment, lambda said, *_: status.append(said))
        answer = b"".join(answered)
        if hasattr(answered, "close"):
            answered.close()  # the file, as a server does
        assert status == ["200 OK"], answer
        return answer

    return ask


def png(color: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), color).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_dashboard_shows_the_sweep_its_metric_and_what_its_trials_drew(store: Store) -> None:
    with studying(store) as study:
        first, second, *_ = [one.config.trial_id for one in run_all(study, store)]
    for epoch in (1, 3):
        local(store.samples_file(first, epoch)).write_bytes(png(epoch))
    drawn = [Picture(kind="drawn", label=label, png=png(10 + label)) for label in (0, 0, 1)]
    store.write_pictures(first, 2, [*drawn, Picture(kind="validation", label=0, png=png(9))])
    store.write_pictures(second, 1, [Picture(kind="drawn", label=0, png=png(9, "RGB"))])
    assert artifacts.attach(store) == 3
    ask = asked(store)
    [summary] = json.loads(ask("/api/studies"))["study_summaries"]
    assert summary["study_name"] == "digits"
    held: dict[str, Any] = json.loads(ask(f"/api/studies/{summary['study_id']}"))
    assert held["objective_names"] == ["val_acc"]
    shown = {
        (attribute["value"].strip('"'), artifact["filename"]): (trial["trial_id"], artifact["artifact_id"])
        for trial in held["trials"]
        for attribute in trial["user_attrs"]
        if attribute["key"] == "trial_id"
        for artifact in trial["artifacts"]
    }
    last, grid = (first, "samples-epoch-0003.png"), (first, "drawn-epoch-0002.png")
    assert set(shown) == {last, grid, (second, "drawn-epoch-0001.png")}

    def content(of: tuple[str, str]) -> bytes:
        trial, artifact = shown[of]
        return ask(f"/artifacts/{summary['study_id']}/{trial}/{artifact}")

    assert content(last) == png(3)
    with Image.open(io.BytesIO(content(grid))) as picture:
        assert (picture.width, picture.height) == (2 * 66 - 2, 2 * 66 - 2)
        assert [picture.getpixel(at) for at in ((0, 0), (70, 0), (0, 70), (70, 70))] == [
            (shade,) * 3 for shade in (10, 10, 11, 255)
        ]


def test_pictures_are_attached_once_and_those_that_are_lost_again(store: Store) -> None:
    with studying(store) as study:
        first, *_ = [one.config.trial_id for one in run_all(study, store)]
    assert artifacts.attach(store) == 0
    assert not store.artifacts_folder.exists()
    local(store.samples_file(first, 1)).write_bytes(png(1))
    assert [artifacts.attach(store) for _ in range(2)] == [1, 0]
    [file] = store.artifacts_folder.iterdir()
    file.unlink()
    assert artifacts.attach(store) == 0
    assert file.read_bytes() == png(1)
    store.set_study_aside()
    with studying(store):  # rebuilt from the tables
        pass
    assert [artifacts.attach(store) for _ in range(2)] == [1, 0]
    assert [*store.artifacts_folder.iterdir()] == [file]
    with studying(store, trials=7) as study:  # and the study is still what it was
        assert study.finished == 6


def test_a_study_that_cannot_be_written_is_said(store: Store) -> None:
    with studying(store) as study:
        first, *_ = [one.config.trial_id for one in run_all(study, store)]
    local(store.samples_file(first, 1)).write_bytes(png(1))
    store.study_file.write_bytes(b"no database")
    with pytest.raises(StudyError, match=r"study\.db: cannot be written"):
        artifacts.attach(store)


def test_a_study_of_an_earlier_release_goes_on_under_its_name(store: Store) -> None:
    file = StudyFile(store.study_file)
    optuna.create_study(storage=file, study_name=EARLIER, direction="maximize")
    file.close()
    for _ in range(2):
        with studying(store):
            pass
        names = [study.study_name for study in RDBStorage(study_file.url(store.study_file)).get_all_studies()]
        assert names == [EARLIER]


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (Objective("val_bpd", "min"), ["val_bpd"]),
        (ParetoObjective("val_acc", "max", ("val_acc", "fid")), ["val_acc", "fid"]),
    ],
)
def test_values_are_called_by_their_metrics(store: Store, objective: Objective, names: list[str]) -> None:
    with studying(store, replace(SPACE, objective=objective)):
        pass
    [study] = RDBStorage(study_file.url(store.study_file)).get_all_studies()
    assert study.system_attrs["study:metric_names"] == names
