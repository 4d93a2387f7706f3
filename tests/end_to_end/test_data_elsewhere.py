"""A driver that has no data asks a node of the cluster for its digest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpcnn_core.config import DataConfig
from cpcnn_core.errors import DataError
from orchestrator.training import trainer
from orchestrator.tune import driver, local_ray

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray beside")]


ASK = """
import sys
from cpcnn_core.config import DataConfig
from cpcnn_core.errors import DataError
from orchestrator.training import trainer
from orchestrator.tune import local_ray
with local_ray.started():
    print(local_ray.elsewhere(trainer.digest, DataConfig()))
    try:
        local_ray.elsewhere(trainer.digest, DataConfig(name="cpen455", root=sys.argv[1]))
    except DataError as error:
        print(error)
"""


def test_a_node_reads_the_data_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    # In a process of its own, since Ray keeps what it read from the environment when it was first imported.
    command = [sys.executable, "-c", ASK, str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    digest, error = done.stdout.splitlines()
    assert digest == trainer.digest(DataConfig())
    assert "nowhere is no folder" in error


def test_only_where_the_data_is_not_here_and_there_is_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = DataConfig(name="cpen455", root=str(tmp_path / "nowhere"))
    asked: list[DataConfig] = []

    def there(_: object, config: DataConfig) -> trainer.Content:
        asked.append(config)
        return trainer.Content("0" * 32, ("cat", "dog"))

    monkeypatch.setattr(local_ray, "elsewhere", there)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(DataError, match="no folder"):
        driver._content(nowhere, None)
    assert driver._content(nowhere, "1" * 32).digest == "1" * 32  # of a sweep that has ended, without its data
    assert driver._content(DataConfig(), "1" * 32).digest == trainer.digest(DataConfig())
    assert not asked
