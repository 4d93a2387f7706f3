"""docs/api-core.md: the example runs, and every name that the page shows is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "api-core.md").read_text(encoding="utf-8")


def test_the_example_trains_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    less = block.replace('"train.epochs": 1', '"train.epochs": 1, "data.train_fraction": 0.03, "eval.train_images": 0')
    assert less != block
    monkeypatch.chdir(tmp_path)
    exec(compile(less, "api-core.md", "exec"), {})
    assert re.fullmatch(r"1 0\.\d+ \d\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", re.findall(r"^::: ([\w.]+)$", PAGE, re.MULTILINE))
def test_what_the_page_shows_is_there(name: str) -> None:
    module, _, last = name.rpartition(".")
    found = importlib.import_module(module)
    assert hasattr(found, last) or importlib.import_module(name)
    members = re.search(rf"^::: {re.escape(name)}\n    options: .*members: \[(.*?)\]", PAGE, re.MULTILINE)
    for member in members[1].split(", ") if members else ():
        assert hasattr(importlib.import_module(name), member)
