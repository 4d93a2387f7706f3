"""What --check-cluster knows of clouds without asking them: each contradiction in a file that is told of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.machines import clouds, cluster_file
from orchestrator.machines.cluster_content import NodeType
from tests.support.paths import ROOT
from tests.unit.orchestrator.machines.test_cluster_files import filled_in, home, problems, put, remove

__all__ = ["home"]  # a fixture

Change = Callable[[dict[str, Any]], None]
GPU = ("available_node_types", "gpu")
NODE = (*GPU, "node_config")


def mount(command: str) -> Change:
    def change(held: dict[str, Any]) -> None:
        commands = held["setup_commands"]
        at = next(number for number, text in enumerate(commands) if "mount -t" in text)
        commands[at : at + 1] = [command] if command else []

    return change


AWS: list[tuple[Change, str]] = [
    (
        put("eu-west-1", "provider", "region"),
        "setup_commands: the file system fs-0123456789abcdef0 is in us-west-2, and provider.region is eu-west-1",
    ),
    (remove("provider", "region"), "provider.region: missing"),
    (put("us-east-1a,us-west-2b", "provider", "availability_zone"), "us-east-1a is not in us-west-2"),
    (put("us-west-21a", "provider", "availability_zone"), "us-west-21a is not in us-west-2"),
    (put("us-west-2a,us-west-2b", "provider", "availability_zone"), ""),
    (remove(*NODE, "ImageId"), "gpu.node_config.ImageId: missing; Ray would take an image of its own"),
    (put("ami-12345", *NODE, "ImageId"), "gpu.node_config.ImageId: ami-12345 is no AMI"),
    (put("ubuntu-22.04", *NODE, "ImageId"), "gpu.node_config.ImageId: ubuntu-22.04 is no AMI"),
    (mount("sudo mount -t nfs4 fs-efs1.efs.us-west-2.amazonaws.com:/ /shared"), "fs-efs1 is no EFS file system"),
    (put("ec2-user", "auth", "ssh_user"), "auth.ssh_user: ec2-user is the user of Amazon Linux, which has no apt-get"),
    (put("root", "auth", "ssh_user"), "auth.ssh_user: root may not log in"),
    (
        put({"CPU": 4, "GPU": 1, "accelerator_type:A100": 1}, *GPU, "resources"),
        "gpu.resources.accelerator_type:A100: g4dn.xlarge has 1 T4; write accelerator_type:T4",
    ),
    (put("m5.xlarge", *NODE, "InstanceType"), "gpu.resources.GPU: 1, and m5.xlarge has no GPU"),
    (put({"CPU": 4, "GPU": 4}, *GPU, "resources"), "gpu.resources.GPU: 4, and g4dn.xlarge has 1 T4"),
    (put(8, *GPU, "max_workers"), "gpu.max_workers: 8, and max_workers at the top allows 4 of all"),
    (put(3, *GPU, "min_workers"), ""),
    (mount(""), "setup_commands: none mounts a file system, so results would be lost with their node"),
    (mount("mkdir -p /shared"), "setup_commands: none mounts a file system"),
]
GOOGLE: list[tuple[Change, str]] = [
    (put("europe-west4", "provider", "region"), "provider.availability_zone: us-west1-b is not in europe-west4"),
    (
        put({"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}, *GPU, "resources"),
        "gpu.resources.accelerator_type:T4: g2-standard-4 has 1 L4; write accelerator_type:L4",
    ),
    (put("e2-standard-4", *NODE, "machineType"), "gpu.resources.GPU: 1, and e2-standard-4 has no GPU"),
    (
        put([{"initializeParams": {"sourceImage": "ubuntu-2204"}}], *NODE, "disks"),
        "gpu.node_config.disks: ubuntu-2204 is no image; expected projects/PROJECT",
    ),
    (put("root", "auth", "ssh_user"), "auth.ssh_user: root may not log in"),
    (put(9, *GPU, "max_workers"), "gpu.max_workers: 9"),
    (mount(""), "setup_commands: none mounts a file system"),
]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [*(("gpu", *each) for each in AWS), *(("gcp", *each) for each in GOOGLE)],
)
def test_a_contradiction_is_said_and_nothing_else(home: Path, name: str, change: Change, says: str) -> None:
    held = copy.deepcopy(filled_in(name))
    change(held)
    found = problems(home, held)
    assert [says in problem for problem in found] == ([True] if says else []), found


def test_results_in_a_bucket_need_no_mount(home: Path) -> None:
    held = filled_in("gpu")
    mount("")(held)
    held["metadata"]["results"] = "s3://bucket/results"
    assert problems(home, held) == []


@pytest.mark.parametrize(
    ("kind", "machine"),
    [
        ("g4dn.12xlarge", ("T4", 4)),
        ("g5.48xlarge", ("A10G", 8)),
        ("g6.2xlarge", ("L4", 1)),
        ("p3.16xlarge", ("V100", 8)),
        ("p4d.24xlarge", ("A100", 8)),
        ("p5.48xlarge", ("H100", 8)),
        ("c7i.large", (None, 0)),
        ("trn1.2xlarge", None),
        ("", None),
    ],
)
def test_machines_of_aws(kind: str, machine: tuple[str | None, int] | None) -> None:
    found = clouds.machine("aws", NodeType(node_config={"InstanceType": kind}))
    assert (found and (found.accelerator, found.gpus)) == machine


@pytest.mark.parametrize(
    ("kind", "machine"),
    [
        ("g2-standard-48", ("L4", 4)),
        ("zones/us-west1-b/machineTypes/a2-highgpu-2g", ("A100", 2)),
        ("a3-ultragpu-8g", ("H200", 8)),
        ("n2-standard-8", (None, 0)),
        ("n1-standard-8", None),
    ],
)
def test_machines_of_google(kind: str, machine: tuple[str | None, int] | None) -> None:
    found = clouds.machine("gcp", NodeType(node_config={"machineType": kind}))
    assert (found and (found.accelerator, found.gpus)) == machine
    assert clouds.machine("gcp", NodeType(node_config={"machineType": kind, "guestAccelerators": [1]})) is None


def test_every_provider_has_what_nobody_can_know() -> None:
    assert clouds.UNKNOWN.keys() == cluster_file.PROVIDERS.keys()
    for file in cluster_file.PROVIDERS.values():
        assert cluster_file.unknown(ROOT / file)
