"""docs/spaces.md: every block is a space file that a sweep would take, and the page has all that one may say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.search import shipped, space_file
from orchestrator.search.space import SearchSpace, SpaceError, read
from orchestrator.search.space_file import SpaceFile
from search_spaces import Choice, Ints, floats, ints
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "spaces.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def space_of(folder: Path, block: str) -> SearchSpace:
    path = folder / "page.py"
    path.write_text(block)
    return read(path)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_space_file(tmp_path: Path, block: str) -> None:
    space = space_of(tmp_path, block)
    assert space.question
    assert space.searched


def test_the_complete_file_has_every_name_at_the_default_that_the_page_gives(tmp_path: Path) -> None:
    complete = BLOCKS[0]
    assert set(re.findall(r"^(\w+) = ", complete, re.MULTILINE)) == set(SpaceFile.model_fields) - {"question"}
    (tmp_path / "least.py").write_text('from search_spaces import choice\nspace = {"seed": choice(0, 1)}\n')
    space, least = space_of(tmp_path, complete), read(tmp_path / "least.py")
    for name in ("objective", "sampler", "schedule", "stall_minutes"):
        assert getattr(space, name) == getattr(least, name), name
    assert f"the default is {least.trials}\n" in complete
    assert space.resources != least.resources


def test_the_presets_of_the_page_are_sound(tmp_path: Path) -> None:
    [block] = [block for block in BLOCKS if '"unpruned"' in block]
    plain = space_of(tmp_path, block)
    small, unpruned = (read(tmp_path / "page.py", preset=name) for name in ("small", "unpruned"))
    assert (small.trials, small.epochs, small.settings["model.nr_resnet"]) == (6, 4, 1)
    assert (unpruned.schedule.name, unpruned.fields) == ("none", plain.fields)


def test_the_page_has_every_space_that_ships() -> None:
    files = {f"{name}.py" for name in shipped.names()}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", PAGE, re.MULTILINE)) == files
    named = {name for file in files for name in space_file.read(ROOT / "search_spaces" / file).presets}
    assert all(f"`{name}`" in PAGE for name in named)


def test_the_page_has_every_argument_of_a_distribution() -> None:
    for function in (ints, floats):
        shown = f"`{function.__name__}{_signature(function)}`"
        assert f"| {shown} |" in PAGE
    assert "`choice({a: {...}, b: {...}})`" in PAGE


def _signature(function: Callable[..., object]) -> str:
    parameters = inspect.signature(function).parameters.values()
    given = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"({', '.join([*given[:2], *sorted(given[2:], reverse=True)])})"


def test_what_the_complete_file_says_of_ranges_is_so() -> None:
    width = ints(8, 32, step=8)
    assert list(range(width.low, width.high + 1, width.step)) == [8, 16, 24, 32]
    assert floats(0.0, 0.5, step=0.1).steps() == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    for low, high, step, log in ((8, 30, 8, False), (0, 8, 1, True), (1, 9, 2, True)):
        with pytest.raises(ValueError, match="ints"):
            ints(low, high, step=step, log=log)


def test_the_branches_of_the_page_give_a_field_only_under_its_option(tmp_path: Path) -> None:
    [block] = [block for block in BLOCKS if "train.optimizer" in block]
    space = space_of(tmp_path, block)
    fusion, optimizer = space.fields["model.fusion"], space.fields["train.optimizer"]
    assert isinstance(fusion, Choice)
    assert isinstance(optimizer, Choice)
    assert set(optimizer.branches) == {"adamw"}
    assert fusion.branches["none"] == {"train.label_dropout": 0.0}
    assert isinstance(fusion.branches["block_film"]["model.fusion_options.block_film.hidden"], Ints)
    outside = block.replace("space = {\n", 'space = {\n    "train.weight_decay": floats(0.0, 0.1),\n', 1)
    with pytest.raises(SpaceError, match=r"train\.weight_decay"):
        space_of(tmp_path, outside)


REFUSED = {
    "no field": 'space = {"model.nr_filter": choice(1, 2)}',
    "another type": 'space = {"model.nr_filters": choice("3", "4")}',
    "a number for a truth value": 'space = {"train.flip": choice(0, 1)}',
    "a plain value": 'space = {"model.nr_filters": 3}',
    "twice": 'space = {"model.nr_filters": choice(1, 2)}\nsettings = {"model.nr_filters": 3}',
    "nearly ours": 'space = {"seed": choice(1, 2)}\nsetting = {}',
    "together": 'space = {"train.weight_decay": floats(0.1, 0.2)}',
    "a plain protocol": 'space = {"seed": choice(1, 2)}\nsettings = {"protocol": 1}',
    **{
        field: f'space = {{"{field}": choice({values})}}'
        for field, values in {
            "data.name": '"digits", "cpen455"',
            "data.root": '"a", "b"',
            "data.digest": 'None, "0"',
            "source": 'None, "0"',
            "protocol": "1, 2",
            "eval.fid_every": "0, 1",
            "eval.fid_extractor": '"auto", "classifier"',
        }.items()
    },
    "quantize": 'space = {"data.quantize": choice(True, False)}\nobjective = "val_bpd"',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_the_page_says_is_refused_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpaceError):
        space_of(tmp_path, f"from search_spaces import choice, floats\n{text}\n")


def test_quantize_can_be_searched_under_another_objective(tmp_path: Path) -> None:
    text = 'space = {"data.quantize": choice(True, False)}\nobjective = "val_acc"'
    assert space_of(tmp_path, f"from search_spaces import choice\n{text}\n").searched == ("data.quantize",)
