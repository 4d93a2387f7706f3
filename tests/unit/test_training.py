"""What is found out about a space's data before any trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcnn_core.config import ConfigError
from orchestrator import space, training

SPACE = """
\"\"\"Which batch?\"\"\"
from search_spaces import choice
space = {{"model.fusion": choice({{"none": {{}}, "stem_add": {{"train.batch_size": choice({sizes})}}}})}}
settings = {{"data.train_fraction": 0.1}}
trials = 1
objective = "val_acc"
"""


@pytest.mark.parametrize(("sizes", "fits"), [("16, 32", True), ("16, 5000", False)])
def test_a_batch_larger_than_the_split_is_refused_in_every_branch(tmp_path: Path, sizes: str, fits: bool) -> None:
    file = tmp_path / "batches.py"
    file.write_text(SPACE.format(sizes=sizes))
    asked = space.read(file, [], seed=0)
    training.check(asked.default())
    if fits:
        training.check_each(asked.extremes())
        return
    with pytest.raises(ConfigError, match=r"train\.batch_size: 5000 is larger than the training split of \d+ images"):
        training.check_each(asked.extremes())
