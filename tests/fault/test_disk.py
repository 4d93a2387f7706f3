"""A disk that is full, and one that may only be read: real ones, in a mount namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from tests.fault.test_processes import PATIENCE, SPACE

TRIALS, EPOCHS = 4, 4
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
# Says what the sweep said, and how it ended, after each of three runs; what lies on the disk at the end is copied out.
SCRIPT = """
set -eu
disk=$1 out=$2; shift 2
mount -t tmpfs -o size=16m none "$disk"
mount -o remount,ro "$disk"
run() { "$@" > "$out/$name" 2>&1 && code=0 || code=$?; echo "$code" >> "$out/codes"; }
name=read-only run "$@"
mount -o remount,rw "$disk"
{ name=full run "$@"; } &
until [ -s "$disk/fake/trained.txt" ]; do sleep 0.1; done
dd if=/dev/zero of="$disk/filler" bs=4k 2> "$out/dd" || true
wait
cp -r "$disk/fake" "$out/when-full"
rm "$disk/filler"
name=again run "$@"
cp -r "$disk/fake" "$out/at-the-end"
"""

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(
        subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0
        if sys.platform == "linux"
        else True,
        reason="this machine does not let its users mount anything",
    ),
]


def test_a_sweep_says_that_it_cannot_write_and_goes_on_once_it_can(tmp_path: Path) -> None:
    space, disk, out = tmp_path / "space.py", tmp_path / "disk", tmp_path / "out"
    space.write_text(SPACE)
    disk.mkdir()
    out.mkdir()
    sweep = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(disk), str(TRIALS)]
    environment = os.environ | {"CPCNN_FAKE_SECONDS": "0.5", "OMP_NUM_THREADS": "1"}
    command = [*NAMESPACE, "bash", "-c", SCRIPT, "bash", str(disk), str(out), *sweep]
    subprocess.run(command, check=True, timeout=3 * PATIENCE, env=environment)

    said = {name: (out / name).read_text() for name in ("read-only", "full", "again")}
    assert (out / "codes").read_text().split() == ["2", "2", "0"], said
    assert f"error: {disk / 'fake'}: cannot hold results: Read-only file system" in said["read-only"]
    assert "No space left on device" in said["full"]
    assert "Traceback" not in "".join(said.values())

    full = Store(out / "when-full")
    assert not full.trials().problems
    assert not full.epochs().problems
    assert {row["state"] for row in full.trials().rows()} <= {"RUNNING", "COMPLETE"}
    whole = Store(out / "at-the-end")
    latest = whole.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in whole.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
