"""`ray up` of the `local` provider against sshd on 127.0.0.1 and 127.0.0.2, a sweep on the two, `best`, `ray down`.

In a namespace of its own, since `ray stop` ends whatever Ray the machine runs.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from orchestrator.records.store import Store
from tests.cluster.hosts import REPOSITORY, Host, hosts
from tests.cluster.run import SPACE, URL, edited, ended, nodes, obstacle, rays, say, typed, wait_for

TRIALS = 4


def main() -> None:
    if problem := obstacle():
        say(f"not run: {problem}")
        sys.exit(0 if sys.argv[1:] == ["--if-possible"] else 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with hosts(["alone"]) as (shared, by_name):
        space = REPOSITORY / "search_spaces" / "loopback_test_space.py"
        space.write_text(SPACE)
        try:
            drive(by_name["alone"], shared)
        finally:
            space.unlink()
    say("all is well")


def drive(alone: Host, shared: Path) -> None:
    cluster_file = shared.parent / "cluster.yaml"
    cluster_file.write_text(on_loopback(alone))
    typed(alone, "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    assert "will do" in typed(alone, f"python -m orchestrator.sweep --check-cluster {cluster_file}")
    typed(alone, f"ray up -y {cluster_file}")
    wait_for(lambda: nodes(alone) == 2, 1200, "two nodes")
    said = typed(
        alone,
        f"python -m orchestrator.sweep search_spaces/loopback_test_space.py --submit {URL} --name small "
        f"--results /shared/results --trials {TRIALS} --set train.epochs=2",
    )
    job = re.search(r"as job (\S+); this machine may be switched off", said)
    assert job, said
    store = Store(shared / "results" / "small")
    wait_for(lambda: store.sweep_file.exists() and ended(store) == TRIALS, 1200, "all trials")
    wait_for(lambda: "succeeded" in typed(alone, f"ray job status --address {URL} {job[1]}"), 300, "the driver")
    assert {row["state"] for row in store.trials().rows()} <= {"COMPLETE", "PRUNED"}, store.trials().rows()
    # from outside: this machine is no part of the cluster and sees only the folder
    command = ["best", "--metric", "val_acc", "--results", str(shared / "results"), "--out", str(shared / "won")]
    best = subprocess.run(
        [sys.executable, "-m", f"orchestrator.{command[0]}", *command[1:]],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert best.returncode == 0, best.stdout
    assert "the best" in best.stdout, best.stdout
    typed(alone, f"ray down -y {cluster_file}", check=False)
    wait_for(lambda: not rays(alone), 120, "the end of Ray")
    say("no Ray runs any more")


def on_loopback(alone: Host) -> str:
    """The file for two hosts, these being two addresses of one: neither may end the other's Ray."""
    content = yaml.safe_load(edited(alone, [alone]))
    content["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]}
    for key, address in (("head_start_ray_commands", "127.0.0.1"), ("worker_start_ray_commands", "127.0.0.2")):
        starts = [command for command in content[key] if not command.endswith("ray stop")]
        assert len(starts) == 1, starts
        # Nor may they share a folder: each unpacks the code of a job into it, over the other's.
        own = f"--node-ip-address={address} --temp-dir=/tmp/ray-{address}"
        content[key] = [re.sub("ray start", f"ray start {own}", starts[0])]
    return str(yaml.safe_dump(content))


if __name__ == "__main__":
    main()
