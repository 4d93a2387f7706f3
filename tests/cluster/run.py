"""`make test-cluster`: `ray up` on three hosts, a sweep sent from a fourth, one host cut off and one killed meanwhile.

Every command is typed as docs/cluster.md says, on a laptop that is no part of the cluster. Some minutes on 2 cores.
With `--if-possible`, a machine on which no such hosts can be made is told why, and passes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from orchestrator.machines.cluster import PRICE as LABEL
from orchestrator.records.states import meaning_of
from orchestrator.records.store import Store
from tests.cluster.hosts import REPOSITORY, Host, hosts

SPACE = '''"""Does a sweep survive the loss of two nodes of three? Cost: a minute."""
from search_spaces import choice, floats
space = {"model.fusion": choice("none", "stem_add"), "train.lr": floats(1e-3, 1e-2, log=True)}
settings = {
    "data.train_fraction": 0.2, "model.nr_filters": 4, "model.nr_logistic_mix": 1, "train.epochs": 12,
    "eval.train_images": 0, "eval.batch_size": 1000,
}
trials = 8
scheduler = "none"  # all of them run until the hosts are lost
'''

LARGE = SPACE.replace("trials = 8", 'trials = 1\nresources = {"memory_gib": 4096}')

URL = "http://127.0.0.1:8265"
PRICE = 3.6  # of each node, an hour: a thousandth per second


def main() -> None:
    if problem := obstacle():
        say(f"not run: {problem}")
        sys.exit(0 if sys.argv[1:] == ["--if-possible"] else 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the hosts would stay
    with hosts(["laptop", "head", "one", "two"]) as (shared, by_name):
        laptop, head, one, two = by_name.values()
        cluster_file = shared.parent / "cluster.yaml"
        cluster_file.write_text(edited(head, [one, two]))
        space = REPOSITORY / "search_spaces" / "cluster_test_space.py"
        space.write_text(SPACE)
        (shared / "large.py").write_text(LARGE)
        try:
            drive(laptop, head, one, two, cluster_file, shared)
        finally:
            space.unlink()
    say("all is well")


def drive(laptop: Host, head: Host, one: Host, two: Host, cluster_file: Path, shared: Path) -> None:
    def type_(command: str, *, check: bool = True) -> str:
        return typed(laptop, command, check=check)

    check = f"python -m orchestrator.sweep --check-cluster {cluster_file}"
    assert "there is no token yet" in type_(check, check=False)
    type_("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    assert "will do" in type_(check)

    type_(f"ray up -y {cluster_file}")
    token = (laptop.home / ".ray" / "auth_token").read_text()
    for host in (head, one, two):
        held = host.home / ".ray" / "auth_token"
        wait_for(held.exists, 600, f"the token on {host.name}")
        wait_for(partial(_is_private, held), 60, f"mode 0600 on {host.name}")
        assert held.read_text() == token
    wait_for(lambda: nodes(head) == 3, 1200, "three nodes")

    # whoever does not know the token gets in nowhere
    refused = head.ssh(
        ". ~/cpcnn-sweeps/cluster/environment.sh; "
        f"RAY_AUTH_TOKEN=guessed timeout 60 ray status --address {head.address}:6379",
        check=False,
    )
    assert re.search("(?i)unauthenticated|invalid auth|token", refused), refused
    say("a wrong token is refused")
    listening = head.ssh("python3 -c \"print(open('/proc/net/tcp').read(), open('/proc/net/tcp6').read())\"")
    assert dashboards(listening) == {"0100007F"}, dashboards(listening)
    say("the dashboard listens on loopback alone")

    refusals(head, two)

    options = f"-i {laptop.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    tunnel = subprocess.Popen(
        [*laptop.ssh_command(), f"ssh -N -L 8265:127.0.0.1:8265 {options} root@{head.address}"],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(3)
    head_commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    said = type_(
        f"python -m orchestrator.sweep search_spaces/cluster_test_space.py --submit {URL} --name lossy "
        "--results /shared/results"
    )
    job = re.search(r"job (\S+);", said)
    assert job, said

    store = Store(shared / "results" / "lossy")
    begun = time.monotonic()
    try:
        wait_for(lambda: len(hosts_of(store)) == 3, 1200, "epochs from all three hosts")
        say(f"all three hosts train after {time.monotonic() - begun:.0f} s; {states(store)}")
        said = type_("python -m orchestrator.status --results /shared/results")
        assert re.search(r"lossy: \d of 8 trials have ended", said), said
        assert f"an hour costs {3 * PRICE:.2f} now" in said, said
        one.pull_the_cable()
        two.power_off()
        lost = time.monotonic()
        say("one host is cut off, one is dead")
        wait_for(lambda: not rays(one), 300, "the end of Ray on the host that is cut off")
        say(f"the one that is cut off has ended its trials after {time.monotonic() - lost:.0f} s")
        wait_for(lambda: ended(store) == 8, 1200, "all trials")
        say(f"all trials ended {time.monotonic() - lost:.0f} s later; {states(store)}")
        wait_for(lambda: "succeeded" in type_(f"ray job status --address {URL} {job[1]}"), 300, "the driver")
    finally:
        say(
            type_(
                f"ray job status --address {URL} {job[1]}; ray job logs --address {URL} {job[1]} | tail -40",
                check=False,
            )
        )
        tunnel.terminate()
    attempts = store.trials().rows()
    for row in store.latest_attempts().rows():
        assert row["state"] in ("COMPLETE", "PRUNED"), row
        assert row["epochs"] == 12 or row["state"] == "PRUNED", row
        epochs = [held["epoch"] for held in store.epochs_of(row["trial_id"])]
        assert epochs == list(range(1, row["epochs"] + 1)), (row, epochs)
    again = [row for row in attempts if row["state"] == "INTERRUPTED"]
    assert again, "no trial was hit"
    say(f"{len(again)} attempts were lost and run again: {sorted({row['host'] or '?' for row in again})}")
    run = json.loads(store.sweep_file.read_text())["runs"][0]
    assert run["git_commit"].startswith(head_commit), run
    assert {row["git_commit"] for row in attempts} == {run["git_commit"]}

    assert 0 < run["cost"] < 3 * PRICE, run  # nodes that are gone cost nothing more
    said = type_("python -m orchestrator.status --results /shared/results")
    assert re.search(r"lossy: 8 of 8 trials have ended", said), said
    assert "cost so far: " in said, said
    type_("python -m orchestrator.report --results /shared/results --out /tmp/report.html && test -s /tmp/report.html")
    assert "the best" in type_("python -m orchestrator.best --metric val_acc --results /shared/results --out /tmp/won")
    type_(f"ray down -y {cluster_file}", check=False)
    assert not rays(head), rays(head)
    say("the head runs no Ray any more")


def typed(host: Host, command: str, *, check: bool = True) -> str:
    """What a command prints that is typed in the repository, as its README has it installed."""
    say(f"$ {command}")
    started = time.monotonic()
    environment = f"cd {REPOSITORY} && . .venv/bin/activate && export CPCNN_HOME={REPOSITORY} RAY_AUTH_MODE=token"
    said = host.ssh(f"{environment} && {command}", check=check, timeout=900)
    say(f"  {time.monotonic() - started:.1f} s")
    return said


def rays(host: Host) -> list[str]:
    """The processes of Ray's own that run on a host."""
    running = host.ssh("for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done", check=False)
    return re.findall("/(?:raylet|gcs_server) ", running)


def refusals(head: Host, other: Host) -> None:
    """What a driver on the head says of a trial for which there is no room, and of a node that has other versions."""

    def refused(space: str) -> str:
        command = f"python -m orchestrator.sweep {space} --address auto --results /shared/refused"
        say(f"$ {command}")
        said = head.ssh(f"cd ~/cpcnn-sweeps && . cluster/environment.sh && {command}; echo exit $?")
        assert said.rstrip().endswith("exit 2"), said
        return said

    said = refused("/shared/large.py")
    assert "no node has 4096.0 GiB of memory" in said, said
    assert all(f"10.77.0.{number} has " in said for number in (2, 3, 4)), said
    # A file of its own, since uv's cache and the other hosts share the old one.
    packages = f"{other.home}/cpcnn-sweeps/.venv/lib/python3*/site-packages/safetensors-*.dist-info"
    other.ssh(f"cd {packages} && cp METADATA kept && sed 's/^Version: .*/Version: 0.0.1/' kept >new && mv new METADATA")
    said = refused("search_spaces/digits.py")
    assert re.search(rf"{other.address} does not fit this driver:\n  safetensors: \S+ here, 0.0.1 there", said), said
    assert said.count("does not fit") == 1, said
    other.ssh(f"cd {packages} && mv kept METADATA")
    say("a trial that is too large and a node with other versions are refused in words")


def obstacle() -> str | None:
    """Why no hosts can be made here; None where they can."""
    if os.geteuid() != 0:
        return "making hosts takes root"
    missing = [name for name in ("ip", "nsenter", "rsync", "ssh", "sshd", "unshare") if shutil.which(name) is None]
    if missing:
        return f"there is no {', '.join(missing)}; apt-get install iproute2 openssh-server rsync util-linux"
    veth = "ip link add cpcnn-try type veth peer name cpcnn-yrt && ip link add cpcnn-yrb type bridge"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--uts", "--net", "sh", "-c", f"{veth} && mount --make-rprivate /"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"namespaces cannot be made: {tried.stderr.strip()}"


def edited(head: Host, workers: list[Host]) -> str:
    """cluster/local.yaml with what its comments say to change, and a price for each node."""
    content = yaml.safe_load((REPOSITORY / "cluster" / "local.yaml").read_text())
    content["cluster_name"] = "three-hosts"
    content["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    content["auth"] |= {"ssh_user": "root", "ssh_private_key": str(head.key)}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        content[key] = [command.replace("ray start", f"ray start --labels={LABEL}={PRICE}") for command in content[key]]
    return str(yaml.safe_dump(content))


def nodes(head: Host) -> int:
    code = (
        "import ray; ray.init(address='auto', logging_level='ERROR'); print('up', sum(n['Alive'] for n in ray.nodes()))"
    )
    said = head.ssh(f'. ~/cpcnn-sweeps/cluster/environment.sh; python -c "{code}"', check=False)
    found = re.search(r"up (\d+)", said)
    return int(found[1]) if found else 0


def dashboards(table: str) -> set[str]:
    """The addresses, in hex as the kernel writes them, on which port 8265 listens."""
    fields = [line.split() for line in table.splitlines()]
    return {row[1].split(":")[0] for row in fields if len(row) > 3 and row[3] == "0A" and row[1].endswith(":2049")}


def hosts_of(store: Store) -> set[str]:
    return {row["host"] for row in store.trials().rows() if row["host"]} if store.sweep_file.exists() else set()


def states(store: Store) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in store.latest_attempts().rows():
        found[row["state"]] = found.get(row["state"], 0) + 1
    return found


def ended(store: Store) -> int:
    """Trials that will not be run again."""
    rows = store.latest_attempts().rows()
    return sum(meaning_of(row["state"]).ended for row in rows)


def _is_private(file: Path) -> bool:
    return file.stat().st_mode & 0o777 == 0o600


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(2)


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
