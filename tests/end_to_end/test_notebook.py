"""The notebooks in `examples/` run with smaller searches, and the lines of docs/api.md on the results of one."""

from __future__ import annotations

import inspect
import re
import zipfile
from importlib.metadata import version
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


def ran(name: str, folder: Path, asked: str, instead: str) -> str:
    """Run a notebook in a folder, with other parameters; what its cells showed."""
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)  # type: ignore[no-untyped-call]
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert asked in parameters.source
    parameters.source = parameters.source.replace(asked, instead)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # as it is in the repository
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "\n".join(str(cell.get("outputs")) for cell in notebook.cells)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the notebook of the digits ran in."""
    folder = tmp_path_factory.mktemp("results")
    asked = 'TRIALS, SETTINGS, RESULTS = 4, {}, "results"'
    shown = ran("digits.ipynb", folder, asked, f"TRIALS, SETTINGS, RESULTS = 2, {SMALL}, {str(folder)!r}")
    (folder / "shown.txt").write_text(shown)
    return folder


def test_the_notebook_runs(results: Path) -> None:
    assert [row["state"] for row in Store(results / "notebook").latest_attempts().rows()] == ["COMPLETE"] * 2
    assert (results / "handed_in" / "model_card.md").is_file()
    shown = (results / "shown.txt").read_text()
    assert "epoch 1: accuracy" in shown
    assert "Chosen by --rule" in shown
    assert shown.count("application/vnd.plotly.v1+json") == 4


def test_the_notebook_of_ones_own_images_runs(tmp_path: Path) -> None:
    """Where the project is installed it installs nothing."""
    asked = 'SIZE, TRIALS, EPOCHS, RESULTS = 16, 4, 6, "results"'
    shown = ran("own_images.ipynb", tmp_path, asked, 'SIZE, TRIALS, EPOCHS, RESULTS = 8, 1, 1, "results"')
    assert "96 images for training, 12 for validation, 12 for testing" in shown
    assert "3 classes: bar, cross, disc" in shown
    assert "epoch 1: accuracy" in shown
    assert shown.count("application/vnd.plotly.v1+json") == 2
    assert not (tmp_path / "kept.txt").exists()
    assert {"best", "best.zip", "own", "report.html", "shapes"} <= {
        made.name for made in (tmp_path / "results").iterdir()
    }
    with zipfile.ZipFile(tmp_path / "results" / "best.zip") as archive:
        assert "model_card.md" in archive.namelist()


def test_installing_leaves_the_torch_of_a_rented_machine_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(ROOT / "examples" / "own_images.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    [cell] = [cell for cell in notebook.cells if "install" in cell.metadata.get("tags", [])]
    commands: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    exec(cell.source, {"PROJECT": "the project"})
    [command] = commands
    assert command[-4:] == ["--quiet", "--constraint", "kept.txt", "the project"]
    kept = dict(line.split("==") for line in (tmp_path / "kept.txt").read_text().splitlines())
    assert {"torch", "numpy", "pillow"} <= kept.keys()
    assert all(found == version(name) for name, found in kept.items())


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
