"""The notebook in `examples/` runs from its first cell to its last, with a smaller search."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from orchestrator.records.store import Store
from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]
SMALL = {
    "train.epochs": 1,
    "model.nr_resnet": 1,
    "model.nr_filters": 8,
    "data.train_fraction": 0.2,
    "eval.fid_every": 1,
}


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    asked = 'TRIALS, SETTINGS, RESULTS = 4, {}, "results"'
    assert asked in parameters.source
    parameters.source = parameters.source.replace(asked, f"TRIALS, SETTINGS, RESULTS = 2, {SMALL}, {str(tmp_path)!r}")
    assert all(not cell.get("outputs") for cell in notebook.cells)  # as it is in the repository
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [row["state"] for row in Store(tmp_path / "notebook").latest_attempts().rows()] == ["COMPLETE"] * 2
    assert (tmp_path / "handed_in" / "model_card.md").is_file()
    shown = "\n".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "epoch 1: accuracy" in shown
    assert "Chosen by --rule" in shown
    assert shown.count("application/vnd.plotly.v1+json") == 4
