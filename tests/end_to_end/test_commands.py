"""The commands as a newcomer types them, on real images, as small as they go."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cpcnn_core.checkpoint import load_weights
from cpcnn_core.metrics import EpochMetrics
from orchestrator import best as best_command
from orchestrator import status, sweep, trial
from orchestrator.choosing import finalists as finalists_of
from orchestrator.records.store import Store
from orchestrator.search.space import read
from orchestrator.training import trainer
from tests.support import hub

SPACE = '''"""Does the whole of it work? Cost: seconds."""
from search_spaces import choice, desirability, floats, goal
space = {"model.fusion": choice("none", "stem_add"), "train.lr": floats(1e-3, 1e-2, log=True)}
settings = {
    "data.train_fraction": 0.05, "model.nr_filters": 4, "model.nr_logistic_mix": 1, "train.epochs": 2,
    "eval.train_images": 0, "eval.batch_size": 1000,
}
trials = 3
objective = desirability(val_acc=goal(0, 1), val_bpd=goal(8, 0))
'''

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray beside")]


def call(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    env = os.environ.copy() if env is None else env
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)


def call_here(app: typer.Typer, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.py"
    file.write_text(SPACE)
    return file


def test_a_sweep_from_start_to_export(tmp_path: Path, space: Path) -> None:
    results = tmp_path / "results"
    done = call("orchestrator.sweep", space, "--results", results, "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "the best 3 of 3 trials, by score" in done.stdout

    store = Store(results / "tiny")
    trials = {row["trial_id"]: row for row in store.latest_attempts().rows()}
    assert [(row["state"], row["seed"], row["epochs"]) for row in trials.values()] == [("COMPLETE", 3, 2)] * 3
    assert {row["device"] for row in trials.values()} <= {"cpu", *(r["device"] for r in trials.values() if r["device"])}
    for row in store.epochs().rows():
        assert 0 <= row["val_acc"] <= 1
        assert row["score"] == pytest.approx((row["val_acc"] * max(0, 1 - row["val_bpd"] / 8)) ** 0.5)
        predicted = store.predictions_of(row["trial_id"], row["epoch"])
        classes = predicted[[f"log_p_{label}" for label in range(10)]].to_numpy()
        assert (classes.argmax(axis=1) == predicted["label"]).mean() == pytest.approx(row["val_acc"])
        assert row["checkpoint"] is None or (store.folder / row["checkpoint"]).exists()
    chosen = finalists_of.of_sweep(store)
    assert len(chosen) == 3
    assert all({one.kind for one in store.pictures_of(each.trial_id, each.epoch)} >= {"drawn"} for each in chosen)
    asked = json.loads(store.sweep_file.read_text())
    assert asked["question"].startswith("Does the whole of it work?")
    assert asked["asked"]["seed"] == 3
    assert asked["asked"]["sampler"] == "tpe"
    assert asked["asked"]["objective"]["goals"]["val_bpd"] == {"worst": 8.0, "best": 0.0, "weight": 1.0}

    # the same command again has nothing to do, and does not start Ray to find out
    again = call("orchestrator.sweep", space, "--results", results, "--seed", "3")
    assert again.returncode == 0, again.stderr
    assert again.stdout[again.stdout.index("the best") :] == done.stdout[done.stdout.index("the best") :]
    assert len(json.loads(store.sweep_file.read_text())["runs"]) == 1

    code, said = call_here(status.app, "--results", results)
    assert code == 0
    assert "tiny: 3 of 3 trials have ended (3 COMPLETE)" in said

    # another question under the same name is refused, naming what differs
    code, said = call_here(sweep.app, space, "--results", results, "--seed", "3", "--set", "train.epochs=1")
    assert code == 2
    assert "train.epochs: was 2, is 1" in said

    # the command that it printed works as printed
    following = shlex.split(done.stdout.strip().splitlines()[-1])
    stand_in, out = hub.Hub(), tmp_path / "winner"
    with hub.serving(stand_in) as url:
        typed = [*following[following.index("-m") + 1 :], "--out", out, "--push", "hf://ada/winner"]
        best = call(*typed, env=hub.environment(url, tmp_path))
    assert best.returncode == 0, best.stderr
    assert f"Uploaded to {url}/" in best.stdout
    assert hub.TOKEN not in best.stdout + best.stderr
    lying = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert stand_in.files.keys() - lying.keys() == {"README.md"}
    assert all(stand_in.files[name] == path.read_bytes() for name, path in lying.items())
    held = json.loads((tmp_path / "winner" / "metrics.json").read_text())
    assert held["trial_id"] in trials
    assert load_weights(tmp_path / "winner" / "weights.safetensors").config.trial_id == held["trial_id"]

    # the finalists on new seeds, a sweep of their own that decides; once it is there, it is read
    arguments = ("--metric", "val_acc", "--results", results, "--confirm", "2", "--seeds", "2", "--json")
    confirmed = call("orchestrator.best", *arguments, "--no-export")
    assert confirmed.returncode == 0, confirmed.stderr
    finalists = json.loads(confirmed.stdout)["confirmed"]["finalists"]
    assert [[run["seed"] for run in one["runs"]] for one in finalists] == [[4, 5]] * 2
    assert {one["trial_id"] for one in finalists} <= set(trials)
    assert finalists[0]["mean"] >= finalists[1]["mean"]
    code, said = call_here(best_command.app, *arguments, "--out", tmp_path / "confirmed")
    assert code == 0, said
    winner = load_weights(tmp_path / "confirmed" / "weights.safetensors").config
    assert (winner.seed in {4, 5}, winner.train.epochs) == (True, 2)
    assert (
        "confirmed: 2 finalists were trained again on 2 new seeds"
        in (tmp_path / "confirmed" / "model_card.md").read_text()
    )

    held_in_dashboard = dashboard(store, "/api/studies")
    assert [study["study_name"] for study in held_in_dashboard["study_summaries"]] == ["tiny"]
    number = held_in_dashboard["study_summaries"][0]["study_id"]
    held = dashboard(store, f"/api/studies/{number}")
    assert held["objective_names"] == ["score"]
    drawn = held["trials"]
    pictures = [artifact["filename"].partition("-")[0] for trial in drawn for artifact in trial["artifacts"]]
    assert pictures.count("drawn") == 3
    assert sorted(round(trial["values"][0], 9) for trial in drawn) == sorted(
        round(max(row["score"] for row in store.epochs_of(trial_id)), 9) for trial_id in trials
    )


def dashboard(store: Store, path: str) -> dict[str, Any]:
    """What optuna-dashboard, a process of its own, answers over HTTP when it is given the sweep's study."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    pictures = ["--artifact-dir", str(store.artifacts_folder)]
    command = [program, f"sqlite:///{store.study_file}", "--port", port, *pictures]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            for _ in range(600):
                assert server.poll() is None, server.stdout.read() if server.stdout else ""
                with (
                    contextlib.suppress(ConnectionRefusedError),
                    contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)) as connection,
                ):
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    assert answer.status == 200
                    content: dict[str, Any] = json.loads(answer.read())
                    return content
                time.sleep(0.1)
        finally:
            server.kill()
    raise AssertionError("optuna-dashboard did not answer")


def test_a_trial_by_itself_writes_what_a_sweep_writes_without_ray(tmp_path: Path, space: Path) -> None:
    results = tmp_path / "results"
    measured = ("--set", "eval.fid_every=1", "--set", "eval.fid_extractor=classifier")
    arguments = (space, "--set", "model.fusion=stem_add", *measured, "--epochs", "1", "--results", results)
    code = (
        "import runpy, sys; sys.argv[0] = 'trial'\n"
        "try: runpy.run_module('orchestrator.trial', run_name='__main__', alter_sys=True)\n"
        "finally: assert not {'ray', 'optuna', 'torch._dynamo'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    head = next(line for line in done.stdout.splitlines() if line.startswith("epoch "))
    assert head.split() == ["epoch", "train_bpd", "val_bpd", "val_acc", "fid", "seconds"]
    store = Store(results / "tiny-trials")
    [row] = store.latest_attempts().rows()
    assert (row["state"], row["attempt"], row["model.fusion"]) == ("COMPLETE", 1, "stem_add")
    [epoch] = store.epochs().rows()
    assert f"{epoch['val_bpd']:.4f}" in done.stdout
    assert len(store.predictions_of(row["trial_id"], 1)) == 300
    assert epoch["fid"] > 0
    assert epoch["fid_extractor"].startswith("classifier-")
    assert epoch["fid_images"] == 250
    assert epoch["fid.7"] > 0
    assert store.samples_file(row["trial_id"], 1).read_bytes().startswith(b"\x89PNG")
    assert "epoch 1" in store.log_file(row["trial_id"]).read_text()

    again = call("orchestrator.trial", *arguments)
    assert again.returncode == 0, again.stderr
    assert "All epochs were there already" in again.stdout
    assert len(store.trials().rows()) == 1


def test_a_recorded_trial_comes_out_again_as_it_was(tmp_path: Path, space: Path) -> None:
    results = tmp_path / "results"
    assert call_here(trial.app, space, "--results", results)[0] == 0
    store = Store(results / "tiny-trials")
    [recorded] = store.latest_attempts().rows()
    trial_id = recorded["trial_id"]
    for _ in range(2):  # a second replay begins anew
        code, said = call_here(trial.app, "replay", trial_id, "--results", results)
        assert code == 0, said
        assert "All metrics of 2 epochs are as recorded." in said
    replays = Store(results / "tiny-trials-replays")
    assert [row["state"] for row in replays.trials().rows()] == ["COMPLETE"]
    assert replays.checkpoint_folder(trial_id).is_dir()

    row = store.epochs_of(trial_id)[1]
    metrics = EpochMetrics.from_record(row | {"extra": {}, "kept_epochs": [1, 2], "val_acc": 0.123})
    store.add_epoch(trial_id, 1, metrics)
    code, said = call_here(trial.app, "replay", trial_id, "--sweep", "tiny-trials", "--results", results)
    assert code == 1
    assert "epoch 2: val_acc was 0.123, is " in said

    mistyped = trial_id[:-1] + ("0" if trial_id[-1] != "0" else "1")
    code, said = call_here(trial.app, "replay", mistyped, "--sweep", "tiny-trials", "--results", results)
    assert (code, f"did you mean {trial_id}?" in said) == (2, True)


def test_the_plan_of_a_sweep_is_told_and_nothing_is_written(tmp_path: Path, space: Path) -> None:
    results = tmp_path / "results"
    asked = ["--dry-run", "--results", results, "--hours", "2", "--scheduler", "median"]
    done = call("orchestrator.sweep", space, *asked)  # it starts a Ray, which would leave its settings in this process
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "infinitely many configurations; what varies: model.fusion, train.lr" in said
    assert "3 trials into" in said
    assert "median" in said
    assert "largest" in said
    assert "scheduler median); --hours ends it after 2 h" in said
    assert "are free at" in said
    assert not results.exists()


@pytest.mark.parametrize(
    ("app", "arguments", "says"),
    [
        (sweep.app, ("search_spaces/digits.py", "--scheduler", "asah"), "did you mean asha?"),
        (status.app, ("--sweep", "digits"), "holds no sweep digits"),
        (sweep.app, ("search_spaces/digit.py",), "did you mean search_spaces/digits.py?"),
        (sweep.app, ("search_spaces/digits.py", "--set", "train.epoch=1"), "did you mean train.epochs?"),
        (trial.app, ("search_spaces/digits.py", "--set", "train.lr=-1"), "train.lr: -1 is not allowed"),
        (trial.app, ("search_spaces/cpen455.py",), "--set data.root=PATH"),
        (sweep.app, ("search_spaces/cpen455.py", "--set", "data.root=nowhere"), "nowhere"),
        (sweep.app, ("search_spaces/digits.py", "--name", "../elsewhere"), "must be the plain name of a folder"),
        (trial.app, ("search_spaces/digits.py", "--name", "a/b"), "must be the plain name of a folder"),
    ],
)
def test_a_mistake_costs_one_message_and_nothing_starts(
    tmp_path: Path, app: typer.Typer, arguments: tuple[str, ...], says: str
) -> None:
    code, said = call_here(app, *arguments, "--results", tmp_path)
    assert code == 2
    assert says in said
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_trial_whose_reader_has_gone_is_trained_to_the_end_and_exported_whole(tmp_path: Path, space: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "winner"
    command = [sys.executable, "-m", "orchestrator.trial", str(space), "--results", str(results)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while (line := process.stdout.readline()).endswith(" ...\n"):
            pass  # what it does before
        assert line.startswith("Trial ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert [row["state"] for row in Store(results / "tiny-trials").trials().rows()] == ["COMPLETE"]

    best = [sys.executable, "-m", "orchestrator.best", "--metric", "val_acc", "--results", str(results)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*best, "--out", str(out)], stdout=full, stderr=full, check=False, timeout=600)
    assert done.returncode == 0
    again = call("orchestrator.export", out)
    assert again.returncode == 0, again.stderr
    assert "is as it was exported: " in again.stdout


def test_a_trial_in_two_terminals_is_trained_in_one(
    tmp_path: Path, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_ORPHAN_SECONDS", 0)
    store = Store(tmp_path / "results" / "tiny-trials")
    store.create()
    config = trainer.identified(read(space).default().with_settings({"train.epochs": 1}))
    with trainer._alone(store, config.trial_id):  # the first terminal
        code, said = call_here(trial.app, space, "--epochs", "1", "--results", tmp_path / "results")
    assert code == 2
    assert "another process has been training trial" in said
    assert store.trials().rows() == []
