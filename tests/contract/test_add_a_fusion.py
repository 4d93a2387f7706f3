"""docs/add-a-fusion.md, followed to the letter in a copy of the package, gives a variant that passes the contract."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "add-a-fusion.md").read_text()


@pytest.mark.unmeasured
def test_the_walk_through_works_as_written(tmp_path: Path) -> None:
    for package in ("cpcnn_core", "tests", "docs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    fusion = tmp_path / "cpcnn_core" / "fusion"

    name, source = _block(r"file: (\w+\.py)")
    (fusion / name).write_text(source)
    _, line = _block(r"line: (\w+)")
    table = (fusion / "__init__.py").read_text()
    table = table.replace(
        "from cpcnn_core.fusion.skip_add",
        "from cpcnn_core.fusion.output_scale import OutputScale\nfrom cpcnn_core.fusion.skip_add",
    )
    table = table.replace("FUSIONS: dict[str, type[Fusion]] = {\n", "FUSIONS: dict[str, type[Fusion]] = {\n" + line)
    (fusion / "__init__.py").write_text(table)

    (command,) = re.findall(r"^uv run --group dev (pytest .*)$", PAGE, re.MULTILINE)
    run = subprocess.run(
        [sys.executable, "-m", *command.split(), "-p", "no:cacheprovider", "-n0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\b1[0-9] passed", run.stdout), run.stdout[-500:]


def test_the_page_says_of_every_kind_of_site_what_may_be_done_there() -> None:
    from cpcnn_core.config import ModelConfig
    from cpcnn_core.fusion.base import CHANNELS_ONLY, WITH_CHANNELS
    from cpcnn_core.model import ConditionalPixelCNN

    kinds = {site.kind for site in ConditionalPixelCNN(ModelConfig(), (3, 8, 8), 2).sites}
    rows = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \| (yes|no) \|$", PAGE, re.MULTILINE)
    assert {kind for kind, _, _ in rows} == kinds
    for kind, affine, channels in rows:
        assert (affine == "yes") == (kind not in CHANNELS_ONLY), kind
        assert (channels == "yes") == (kind in WITH_CHANNELS), kind


def _block(marker: str) -> tuple[str, str]:
    """The name in a marker comment and the code block that follows it."""
    found = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1], found[2]
