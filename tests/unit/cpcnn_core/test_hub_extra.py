"""`data.name=hf` on a machine that does not have its package."""

from __future__ import annotations

import sys

import pytest

from cpcnn_core import data
from cpcnn_core.config import DataConfig
from cpcnn_core.errors import DataError


def test_without_the_package_one_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"data\.name=hf: needs the package datasets .*uv sync --extra hf"):
        data.load(DataConfig(name="hf", dataset="ada/pets"))
