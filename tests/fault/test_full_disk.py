"""A disk that is full at each of a sweep's writes in turn: a real one, of every size up to what a sweep takes.

`CPCNN_LEVELS=4 pytest tests/fault/test_full_disk.py` fills it up in steps of 4 kB; the suite takes larger ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from orchestrator.records.store import StoreError
from orchestrator.search import study_file
from orchestrator.search.study import StudyError
from orchestrator.training.trainer import is_storage_failure
from tests.fault.test_disk import NAMESPACE
from tests.fault.test_disk import pytestmark as pytestmark
from tests.fault.test_killed_anywhere import check_whole, drive, new_store

STEP_KIB = int(os.environ.get("CPCNN_LEVELS", "20"))


def main(disk: Path, step: int) -> None:
    """For each size of the disk: drive a sweep until it cannot write, make room, go on. Print what was refused."""
    size, held = step, 0
    refused: dict[str, int] = {}
    while True:
        _mount("-o", f"size={size}k", "-t", "tmpfs", "none", str(disk))
        store, error = None, None
        try:
            store = new_store(disk / "one")
            with study_file.writing(store.study_file):  # as the driver does
                drive(store)
        except (StoreError, StudyError, OSError) as caught:  # anything else would be a traceback
            error = caught
            if isinstance(caught, OSError) and not is_storage_failure(caught):
                raise
            kind = f"{type(caught).__name__}: {str(caught).replace(str(disk), '')[-80:]}"
            refused[kind] = refused.get(kind, 0) + 1
        _mount("-o", "remount,size=64m", str(disk))
        store = new_store(disk / "one")
        drive(store)
        check_whole(store)
        assert drive(store) == 0
        held += 1
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        if error is None:
            break
        size += step
    print(json.dumps({"sizes": held, "largest": size, "refused": refused}))  # noqa: T201


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_a_disk_that_is_full_at_any_write_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*NAMESPACE, sys.executable, "-m", "tests.fault.test_full_disk", str(disk), str(STEP_KIB)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sizes"] > 3
    assert found["refused"]
    print(found)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
