"""The notebook in `examples/` runs with a smaller search, and the lines of docs/api.md on its results."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import orchestrator
from orchestrator.exporting import folder
from orchestrator.records.store import Store
from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray beside")]
SMALL = {
    "train.epochs": 1,
    "model.nr_resnet": 1,
    "model.nr_filters": 8,
    "data.train_fraction": 0.2,
    "eval.fid_every": 1,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the notebook ran in."""
    folder = tmp_path_factory.mktemp("results")
    notebook = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    asked = 'TRIALS, SETTINGS, RESULTS = 4, {}, "results"'
    assert asked in parameters.source
    parameters.source = parameters.source.replace(asked, f"TRIALS, SETTINGS, RESULTS = 2, {SMALL}, {str(folder)!r}")
    assert all(not cell.get("outputs") for cell in notebook.cells)  # as it is in the repository
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    (folder / "shown.txt").write_text("\n".join(str(cell.get("outputs")) for cell in notebook.cells))
    return folder


def test_the_notebook_runs(results: Path) -> None:
    assert [row["state"] for row in Store(results / "notebook").latest_attempts().rows()] == ["COMPLETE"] * 2
    assert (results / "handed_in" / "model_card.md").is_file()
    shown = (results / "shown.txt").read_text()
    assert "epoch 1: accuracy" in shown
    assert "Chosen by --rule" in shown
    assert shown.count("application/vnd.plotly.v1+json") == 4


def test_the_lines_of_the_page_run(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    taken = inspect.signature(orchestrator.run_sweep)

    def already_run(*given: object, **options: object) -> orchestrator.Results:
        taken.bind(*given, **options)
        return orchestrator.load_results(results, "notebook")

    monkeypatch.setattr(orchestrator, "run_sweep", already_run)
    monkeypatch.setattr(folder, "verify_in_fresh_process", lambda *_: None)  # the notebook's export has been through it
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "api.md", "exec"), names)
    assert (tmp_path / "handed_in" / "model_card.md").is_file()
    assert re.findall(r"model.sample\(.*\)  # (\(.*\)) uint8", block) == [str(getattr(names["images"], "shape", None))]
    listed = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", page, re.MULTILINE)
    assert {re.match(r"\w+", name.strip("`"))[0] for cell in listed for name in cell.split(", `")} == set(
        orchestrator.__all__
    )
