"""Hosts on one machine: each a namespace of its own for processes, network, mounts and its name, with an sshd.

Needs root, iproute2, util-linux, rsync and openssh-server. Nothing outside the namespaces is touched but a bridge that
goes with them. A host's processes die with it, `ray stop` on one cannot see another's, and its cable can be pulled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NETWORK = "10.77.0"
BRIDGE = f"cpcnn{os.getpid()}"

# What the init process of a host does: wait for its end of the cable, then be a machine with an sshd.
_INIT = """
set -eu
hostname {name}
mount --make-rprivate /
mount -t proc proc /proc
mount --bind {base}/{name}/tmp /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind {base}/{name}/etc /etc
mkdir -p /shared /run/sshd
mount --bind {base}/shared /shared
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {network}.254
exec /usr/sbin/sshd -D -e -f {base}/{name}/sshd_config
"""

_SSHD = """
Port 22
HostKey {base}/host_key
AuthorizedKeysFile {base}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
AcceptEnv TERM
SetEnv UV_CACHE_DIR={cache} UV_OFFLINE=1 OMP_NUM_THREADS=1
"""


@dataclass
class Host:
    """One of them."""

    name: str
    address: str
    home: Path
    key: Path
    process: subprocess.Popen[bytes]

    def ssh(self, command: str, *, timeout: float = 600, check: bool = True) -> str:
        """Run a command in a login shell and return what it prints, errors included."""
        done = subprocess.run(
            [*self.ssh_command(), f"bash -lc {_quote(command)}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def ssh_command(self, *options: str) -> Sequence[str]:
        """How to reach it from this machine: from within its own network, since this machine is on none of theirs."""
        return (
            *("nsenter", "--net", "--target", str(self.init)),
            *("ssh", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", *options, f"root@{self.address}"),
        )

    @property
    def init(self) -> int:
        """The process, as this machine counts them, that the host's others go with."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    @property
    def cable(self) -> str:
        """The name of its end that this machine sees; the kernel takes fifteen characters."""
        return f"c{os.getpid()}-{self.name}"[:15]

    def pull_the_cable(self) -> None:
        """Cut it off, its processes running on."""
        _run("ip", "link", "set", self.cable, "down")

    def power_off(self) -> None:
        """End all its processes at once."""
        with contextlib.suppress(FileNotFoundError, IndexError, ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self.process.wait(timeout=30)


@contextmanager
def hosts(names: Sequence[str]) -> Generator[tuple[Path, dict[str, Host]]]:
    """Bring hosts up and yield the folder that all see as /shared, and them; afterwards nothing is left."""
    base = Path(tempfile.mkdtemp(prefix="cpcnn-hosts-", dir="/var/tmp"))
    (base / "shared").mkdir()
    key = base / "key"
    for path in (key, base / "host_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    made: dict[str, Host] = {}
    try:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=1):
            made[name] = _start(base, name, f"{NETWORK}.{number}", key)
        for host in made.values():
            _plug_in(host)
            _wait_for_ssh(host)
        yield base / "shared", made
    finally:
        for host in made.values():
            host.power_off()
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
        if os.environ.get("KEEP"):
            print(f"kept {base}", file=sys.stderr)  # noqa: T201
        else:
            shutil.rmtree(base, ignore_errors=True)


def _start(base: Path, name: str, address: str, key: Path) -> Host:
    folder = base / name
    for part in ("home", "tmp"):
        (folder / part).mkdir(parents=True)
    # uv, where `pip install --user uv` puts it, and this machine's cache of packages, since a host is on no other
    # network. Compiling everything three times on one machine would take longer than all the rest.
    local = folder / "home" / ".local" / "bin"
    local.mkdir(parents=True)
    binary = os.environ["UV"]  # `uv run` says where it is
    (local / "uv").write_text(f'#!/bin/sh\ncommand="$1"; shift; exec {binary} "$command" --no-compile-bytecode "$@"\n')
    (local / "uv").chmod(0o755)
    cache = subprocess.run([binary, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    config = _SSHD.format(base=base, name=name, cache=cache)
    (folder / "sshd_config").write_text(config)
    # ssh looks for `~` in passwd and not in $HOME; a copy of all of /etc, since this machine may replace a file in it.
    shutil.copytree("/etc", folder / "etc", symlinks=True)
    users = folder / "etc" / "passwd"
    users.write_text(re.sub(r"^(root:(?:[^:]*:){4})[^:]*", rf"\g<1>{folder / 'home'}", users.read_text()))
    (folder / "init.sh").write_text(_INIT.format(base=base, name=name, address=address, network=NETWORK))
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--net", "bash"]
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen([*unshare, str(folder / "init.sh")], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Host(name, address, folder / "home", key, process)


def _plug_in(host: Host) -> None:
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    _until(lambda: bool(children.read_text()), 10, f"{host.name} begins")
    _run("ip", "link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
    _run("ip", "link", "set", host.cable, "master", BRIDGE, "up")


def _wait_for_ssh(host: Host) -> None:
    def answers() -> bool:
        return subprocess.run([*host.ssh_command(), "true"], capture_output=True, check=False).returncode == 0

    _until(answers, 30, f"{host.name} answers")


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s until {what}")
        time.sleep(0.2)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
