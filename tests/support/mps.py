"""A stand-in for NVIDIA's MPS daemon: an executable that writes down what it is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

_SCRIPT = """#!/bin/sh
here=$(dirname "$0")
pipes="$CUDA_MPS_PIPE_DIRECTORY"
if [ "$1" = -d ]; then
  echo "start ${CUDA_VISIBLE_DEVICES-all}" >>"$here/told"
  if [ -e "$here/refuses" ]; then echo "no permission"; exit 1; fi
  touch "$pipes/running"
  exit 0
fi
read -r command
if [ ! -e "$pipes/running" ]; then echo "Cannot find MPS control daemon process"; exit 1; fi
case "$command" in
  get_server_list) if [ ! -e "$here/unused" ]; then echo 4711; fi ;;
  quit) echo quit >>"$here/told"; rm "$pipes/running" ;;
esac
"""


class StandIn:
    """The executable, alone on a PATH of its own before the other one; its folder is this user's temporary one."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.temporary = folder / "bin", folder / "tmp"
        self.bin.mkdir()
        self.temporary.mkdir()
        executable = self.bin / "nvidia-cuda-mps-control"
        executable.write_text(_SCRIPT)
        executable.chmod(0o755)

    @property
    def told(self) -> list[str]:
        """Starts (with the GPUs that it may see) and ends, in their order."""
        file = self.bin / "told"
        return file.read_text().splitlines() if file.exists() else []

    def let(self, how: str) -> None:
        """Have it behave so: it `refuses` to start, or stays `unused` by those who should use it."""
        (self.bin / how).touch()

    def awaited(self, told: list[str], *, seconds: float = 30.0) -> list[str]:
        """What it was told, once it is `told` or after some seconds."""
        ends = time.monotonic() + seconds
        while self.told != told and time.monotonic() < ends:
            time.sleep(0.05)
        return self.told

    def ended(self, *, seconds: float) -> list[str]:
        """What it was told, once it was ended as often as it was started, or after some seconds."""
        ends = time.monotonic() + seconds
        while len(self.told) % 2 and time.monotonic() < ends:
            time.sleep(0.05)
        return self.told

    def environment(self, path: str) -> dict[str, str]:
        """The variables by which a process finds it."""
        return {"PATH": f"{self.bin}:{path}", "TMPDIR": str(self.temporary)}


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """One that this process and those that it starts find; a test imports it."""
    import os
    import tempfile

    made = StandIn(tmp_path_factory.mktemp("m"))
    for name, value in made.environment(os.environ["PATH"]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    return made
