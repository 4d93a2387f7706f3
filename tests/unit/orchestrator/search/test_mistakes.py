"""Mistakes in a space file, as the user of `sweep` meets them: one sentence, exit code 2, nothing begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import sweep
from orchestrator.search.settings import parse_settings
from orchestrator.search.space import read
from tests.unit.orchestrator.search.test_space import HEAD

SOUND = 'space = {"model.nr_filters": ints(8, 9)}\n'
COUNT = "it must be a whole number of at least 1"
GPUS = "it must be a fraction of one GPU, as 0.5, or a whole number of them, or 'auto'"
SETTING = "it must be one finite number, text, True, False or None"
VARIED = "it must be choice(...), ints(...) or floats(...). A fixed value belongs into settings"
STALL = "it must be a number of minutes, or 0 for never"

RUNNING = [
    ("trials = 0", f"trials is 0; {COUNT}"),
    ("trials = 2.5", f"trials is 2.5; {COUNT}"),
    ("trials = True", f"trials is True; {COUNT}"),
    ('trials = "8"', f"trials is '8'; {COUNT}"),
    ("trials = [8]", f"trials is [8]; {COUNT}"),
    ("trial = 8", "trial means nothing in a space file; did you mean trials?"),
    ("stall_minutes = -1", f"stall_minutes is -1; {STALL}"),
    ("stall_minutes = float('nan')", f"stall_minutes is nan; {STALL}"),
    ("stall_minutes = float('inf')", f"stall_minutes is inf; {STALL}"),
    ("stall_minutes = True", f"stall_minutes is True; {STALL}"),
    ('stall_minutes = "5"', f"stall_minutes is '5'; {STALL}"),
    ('sampler = "tp"', "sampler: 'tp' is no sampler; did you mean tpe?"),
    ("sampler = None", "sampler: None is no sampler; there are tpe, random, grid, nsga2, gp"),
    ('sampler = {"name": "cmaes"}', "is no sampler; there are tpe, random, grid, nsga2, gp"),
    ('scheduler = "ash"', "scheduler: 'ash' is no scheduler; did you mean asha?"),
    ("scheduler = 3", "scheduler: 3 is no scheduler; there are asha, promote, median, none"),
    ('scheduler = {"grace_epoch": 2}', "scheduler.grace_epoch: no such field; did you mean grace_epochs?"),
    ('scheduler = {1: "asha"}', "scheduler.1: no such field; there are name, grace_epochs, reduction_factor"),
    ('scheduler = {"grace_epochs": True}', f"scheduler.grace_epochs is True; {COUNT}"),
    ('scheduler = {"grace_epochs": -1}', f"scheduler.grace_epochs is -1; {COUNT}"),
    ('scheduler = {"reduction_factor": "3"}', "scheduler.reduction_factor is '3'; it must be a whole number of at"),
    ('scheduler = {"reduction_factor": float("nan")}', "scheduler.reduction_factor is nan; it must be"),
    ("resources = 2", 'resources is 2; it must be a mapping, as {"gpus": 0.5, "cpus": 2}'),
    ("resources = None", 'resources is None; it must be a mapping, as {"gpus": 0.5, "cpus": 2}'),
    ('resources = {"gpu": 1}', "resources.gpu: no such field; did you mean gpus?"),
    ('resources = {"memory": 1}', "resources.memory: no such field; did you mean memory_gib?"),
    ('resources = {"gpus": "x"}', f"resources.gpus is 'x'; {GPUS}"),
    ('resources = {"gpus": True}', f"resources.gpus is True; {GPUS}"),
    ('resources = {"gpus": 1.5}', f"resources.gpus is 1.5; {GPUS}"),
    ('resources = {"gpus": float("nan")}', f"resources.gpus is nan; {GPUS}"),
    ('resources = {"memory_gib": -1}', "resources.memory_gib is -1; it must be a number above 0"),
    ('resources = {"memory_gib": "16"}', "resources.memory_gib is '16'; it must be a number above 0"),
    ('resources = {"memory_gib": float("inf")}', "resources.memory_gib is inf; it must be a number above 0"),
    ('resources = {"cpus": True}', f"resources.cpus is True; {COUNT}"),
    ('resources = {"cpus": [2]}', f"resources.cpus is [2]; {COUNT}"),
    ('resources = {"accelerator": 100}', "resources.accelerator is 100; it must be Ray's name of a GPU, as 'A100'"),
    ('resources = {"processes": 2, "cpus": 1}', "resources.cpus is 1; 2 processes need at least one each"),
    ("objective = 3", "objective: 3 is neither the name of a metric nor"),
    ("objective = None", "objective: None is neither the name of a metric nor"),
    ('objective = ["val_acc"]', "objective: ['val_acc'] is neither the name of a metric nor"),
]
SETTINGS = [
    ("settings = []", "settings is []; it must be a mapping from fields to values"),
    ("settings = {1: 2}", "settings: the key 1 must be a text, the name of a field"),
    ('settings = {"train": {"epochs": 3}}', f"settings.train is {{'epochs': 3}}; {SETTING}"),
    ('settings = {"train.epochs": [3]}', f"settings['train.epochs'] is [3]; {SETTING}"),
    ('settings = {"train.lr": float("nan")}', f"settings['train.lr'] is nan; {SETTING}"),
    ('settings = {"train.epoch": 3}', "settings: train.epoch: no such field; did you mean train.epochs?"),
    ('settings = {"train.epochs": "three"}', "train.epochs: 'three' is not allowed: input should be a valid integer"),
    ('settings = {"train.epochs": -1}', "train.epochs: -1 is not allowed"),
    ('settings = {"train.epochs": "3"}', "train.epochs: '3' would be taken as 3; write 3"),
    ('settings = {"train.epochs": True}', "train.epochs: True would be taken as 1; write 1"),
    ('settings = {"train.flip": 1}', "train.flip: 1 would be taken as True; write True"),
    ('settings = {"data.root": 3}', "data.root: 3 is not allowed: input should be a valid string"),
]
SPACE = [
    ("space = None", "space is None; it must be a mapping from fields to choice(...), ints(...) or floats(...)"),
    ("space = [1]", "space is [1]; it must be a mapping from fields to choice(...), ints(...) or floats(...)"),
    ("SPACE = {}", "SPACE means nothing in a space file; did you mean space?"),
    ("space = {1: ints(1, 2)}", "space: the key 1 must be a text, the name of a field"),
    ('space = {"model.nr_filters": [8, 9]}', f"space['model.nr_filters'] is [8, 9]; {VARIED}"),
    ('space = {"model.nr_filters": {"low": 8}}', f"space['model.nr_filters'] is {{'low': 8}}; {VARIED}"),
    ('space = {"model.nr_filters": choice([])}', "2: ValueError: choice() has no option to choose from"),
    ('space = {"model.nr_filters": choice(8, True)}', "model.nr_filters: True would be taken as 1; write 1"),
    ('space = {"model.nr_filters": choice("8", "9")}', "model.nr_filters: '8' would be taken as 8; write 8"),
    ('space = {"train.lr": choice(1e-3, float("nan"))}', "train.lr: nan is not allowed: input should be a finite"),
    ('space = {"model.nr_filters": ints("8", 9)}', "ints('8', 9): the bounds and the step must be integers"),
    ('space = {"model.nr_filters": ints(True, 9)}', "ints(True, 9): the bounds and the step must be integers"),
    ('space = {"model.nr_filters": ints(8, 9, log="no")}', "ints(8, 9, log='no'): log must be True or False"),
    ('space = {"train.lr": floats(float("nan"), 1)}', "floats(nan, 1): the bounds and the step must be finite numbers"),
    ('space = {"model.nr_filters": ints(-8, 9)}', "ints(-8, 9): model.nr_filters: -8 is not allowed"),
    (
        'from search_spaces import Ints\nspace = {"model.nr_filters": Ints("8", 9)}',
        "3: TypeError: ints('8', 9): the bounds and the step must be integers",
    ),
    (
        'from search_spaces import Choice\nspace = {"model.fusion": Choice(("none",), {"stem_ad": {}})}',
        "choice(): there is a branch of 'stem_ad', which is no option; there are 'none'",
    ),
    ('space = {"model.fusion": choice({"none": {}, "stem_ad": {}})}', "'stem_ad' is no fusion; did you mean stem_add?"),
    ('space = {"model.fusion": choice({"none": [1]})}', "the branch of 'none' is [1]; it must be a mapping"),
    ('space = {"model.fusion": choice({"none": {3: 1}})}', "the branch of 'none' has a key 3; it must be the name of"),
    (
        'space = {"model.fusion": choice({"none": {"train.lr": [1]}})}',
        "the branch of 'none' has 'train.lr': [1]; it must be choice(...), ints(...), floats(...) or one fixed value",
    ),
    (
        'space = {"model.fusion": choice({"none": {"train.epochs": True}})}',
        "train.epochs: True would be taken as 1; write 1",
    ),
]


def said_by_sweep(tmp_path: Path, text: str) -> list[str]:
    """The lines of the error that `sweep` prints of a space file, which it refuses before it begins."""
    file, results = tmp_path / "question.py", tmp_path / "results"
    file.write_text(HEAD + text)
    result = CliRunner().invoke(sweep.app, [str(file), "--results", str(results)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert not results.exists()
    assert result.stdout == "Reading question ...\n"
    return result.stderr.splitlines()


@pytest.mark.parametrize(("text", "says"), [*((SOUND + text, says) for text, says in RUNNING + SETTINGS), *SPACE])
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    [line] = said_by_sweep(tmp_path, text)
    assert line.startswith(f"error: {tmp_path / 'question.py'}:")
    assert says in line


def test_each_of_several_mistakes_is_named_with_the_file(tmp_path: Path) -> None:
    text = 'trials = 0\nscheduler = {"grace_epochs": 0, "reduction_factor": 1}\nresources = {"cpus": 0}\n'
    lines = said_by_sweep(tmp_path, SOUND + text)
    fields = ("trials", "scheduler.grace_epochs", "scheduler.reduction_factor", "resources.cpus")
    for line, field in zip(lines, fields, strict=True):
        assert line.removeprefix("error: ").startswith(f"{tmp_path / 'question.py'}: {field} is ")


def test_what_is_written_is_what_is_meant(tmp_path: Path) -> None:
    """Whole numbers for fields of floats, and Python's spelling of what the shell has no words for."""
    file = tmp_path / "question.py"
    file.write_text(HEAD + SOUND + 'settings = {"model.dropout": 0, "data.quantize": None}\nresources = {"gpus": 1}\n')
    asked = read(file, ["train.flip=True", "train.grad_clip=None", "train.ema_decay=null"])
    assert (asked.default().train.flip, asked.default().train.grad_clip) == (True, None)
    assert asked.settings["model.dropout"] == 0
    assert parse_settings(["a=True", "b=False", "c=None"]) == {"a": True, "b": False, "c": None}
