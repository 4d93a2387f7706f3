"""What is known of AWS and Google Cloud without asking them, and what in a cluster file contradicts it.

Machines are added as clouds bring them out; of a kind that is not listed nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.machines.cluster_content import ClusterFile, NodeType

_SIZES_OF_G = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8, "metal": 8}  # the other sizes have one GPU


@dataclass(frozen=True)
class Machine:
    """The GPUs of a kind of machine, by Ray's name, and how many."""

    accelerator: str | None  # None: it has none
    gpus: int


_AWS: Mapping[str, tuple[str, Mapping[str, int], int]] = {
    "g4dn": ("T4", {"12xlarge": 4, "metal": 8}, 1),
    "g5": ("A10G", _SIZES_OF_G, 1),
    "g6": ("L4", _SIZES_OF_G, 1),
    "g6e": ("L40S", _SIZES_OF_G, 1),
    "p3": ("V100", {"8xlarge": 4, "16xlarge": 8}, 1),
    "p4d": ("A100", {}, 8),
    "p4de": ("A100", {}, 8),
    "p5": ("H100", {"48xlarge": 8}, 1),
    "p5en": ("H200", {}, 8),
}
"""By family: the GPU, how many some sizes have, and how many the others have (AWS, Amazon EC2 instance types)."""

_AWS_WITHOUT = re.compile(r"^(t[234]|m[4-8]|c[4-8]|r[4-8])[a-z-]*\.")

_GOOGLE: Mapping[str, tuple[str, Mapping[str, int], int]] = {
    "g2-standard": ("L4", {"24": 2, "48": 4, "96": 8}, 1),
    "a2-highgpu": ("A100", {"2g": 2, "4g": 4, "8g": 8}, 1),
    "a2-ultragpu": ("A100", {"2g": 2, "4g": 4, "8g": 8}, 1),
    "a3-highgpu": ("H100", {"2g": 2, "4g": 4, "8g": 8}, 1),
    "a3-ultragpu": ("H200", {}, 8),
}
"""The same of Google's machine types (Compute Engine, GPU machine types)."""

_GOOGLE_WITHOUT = re.compile(r"^(e2|n2d?|n4|c[234]d?|t2[da])-")

_APT = re.compile(r"\bapt(-get)? ")
_WITHOUT_APT = {"ec2-user": "Amazon Linux", "fedora": "Fedora", "centos": "CentOS", "rocky": "Rocky Linux"}
_AMI = re.compile(r"^(ami-([0-9a-f]{8}|[0-9a-f]{17})|resolve:ssm:/.+)$")
_EFS = re.compile(r"\b(fs-[\w-]+)\.efs\.([a-z0-9-]+)\.amazonaws\.com")
_GOOGLE_IMAGE = re.compile(r"^(https://www\.googleapis\.com/compute/v1/)?projects/[^/]+/global/images/.+$")
_MOUNT = re.compile(r"\b(mount|mount\.nfs4?|gcsfuse|s3fs|sshfs|lfs) .*(/\S+)\s*$")

UNKNOWN: Mapping[str, Sequence[str]] = {
    "aws": (
        "whether the AMI exists in the region, and has NVIDIA's driver 580 or newer",
        "whether the file system is in the same VPC, and lets in NFS (2049)",
        "whether your account may start so many vCPUs of the instance types, spot ones too (Service Quotas)",
        "whether your key may do what Ray does (EC2, and iam:PassRole for ray-autoscaler-v1)",
        "whether spot machines are to be had now, and at which price",
    ),
    "gcp": (
        "whether the image's family still exists, and has NVIDIA's driver 580 or newer",
        "whether the Filestore share is in the same network",
        "whether the project may have so many GPUs in the region (quotas GPUS_ALL_REGIONS and of the GPU)",
        "whether the project has Compute Engine, IAM and Resource Manager switched on, and you are an editor of it",
        "whether spot machines are to be had now, and at which price",
    ),
    "local": (
        "whether the machines answer, let you in without a question, and see each other",
        "whether all of them mount the same /shared",
        "whether they have NVIDIA's driver 580 or newer",
    ),
}
"""What nobody knows before the first attempt, by provider."""


def machine(provider: str, type_: NodeType) -> Machine | None:
    """The GPUs of a node type's machine; None where it is none of those that are known."""
    if provider == "aws":
        name = str(type_.node_config.get("InstanceType", ""))
        family, _, size = name.partition(".")
        known, without = _AWS.get(family), _AWS_WITHOUT
    elif provider == "gcp":
        name = str(type_.node_config.get("machineType", "")).rpartition("/")[2]
        family, _, size = name.rpartition("-")
        known, without = _GOOGLE.get(family), _GOOGLE_WITHOUT
        if type_.node_config.get("guestAccelerators"):
            return None  # attached, of any kind
    else:
        return None
    if known is not None:
        accelerator, counts, usual = known
        return Machine(accelerator, counts.get(size, usual))
    return Machine(None, 0) if without.match(name) else None


def contradictions(file: ClusterFile) -> Iterator[str]:
    """What in the file cannot work, in sentences that name the key and the way out."""
    provider = file.provider.type or ""
    for name, type_ in file.available_node_types.items():
        at = f"available_node_types.{name}"
        yield from _accelerators(at, type_, machine(provider, type_))
        yield from _workers(at, type_, file)
        if provider in {"aws", "gcp"}:
            yield from _image(at, provider, type_)
    if provider in {"aws", "gcp"}:
        yield from _places(file)
        yield from _user(file)
        yield from _mount(file)


def _accelerators(at: str, type_: NodeType, known: Machine | None) -> Iterator[str]:
    if known is None:
        return
    machine_type = type_.node_config.get("InstanceType") or type_.node_config.get("machineType")
    has = f"{known.gpus} {known.accelerator}" if known.accelerator else "no GPU"
    wanted = type_.resources.get("GPU", 0)
    if wanted > known.gpus:
        yield f"{at}.resources.GPU: {wanted:g}, and {machine_type} has {has}; trials would be sent where none is"
        if not known.gpus:
            return
    for resource in type_.resources:
        prefix, _, accelerator = resource.partition("accelerator_type:")
        if not prefix and accelerator and accelerator != known.accelerator:
            right = f"; write accelerator_type:{known.accelerator}" if known.accelerator else ""
            yield f"{at}.resources.{resource}: {machine_type} has {has}{right}"


def _workers(at: str, type_: NodeType, file: ClusterFile) -> Iterator[str]:
    if type_.max_workers is not None and type_.max_workers > file.max_workers:
        yield (
            f"{at}.max_workers: {type_.max_workers}, and max_workers at the top allows {file.max_workers} of all; "
            "raise that one, or lower this one"
        )
    most = file.max_workers if type_.max_workers is None else type_.max_workers
    if type_.min_workers > most:
        yield f"{at}.min_workers: {type_.min_workers}, and at most {most} may come"


def _image(at: str, provider: str, type_: NodeType) -> Iterator[str]:
    if provider == "aws":
        image = type_.node_config.get("ImageId")
        if image is None:
            yield (
                f"{at}.node_config.ImageId: missing; Ray would take an image of its own, which some regions lack and "
                "whose driver is too old. The comment on `image` says how to find one"
            )
        elif not _AMI.match(str(image)):
            yield f"{at}.node_config.ImageId: {image} is no AMI; one is ami- and 17 (or 8) digits from 0 to f"
        return
    disks = type_.node_config.get("disks")
    for disk in disks if isinstance(disks, list) else []:
        image = (disk.get("initializeParams") or {}).get("sourceImage")
        if image is not None and not _GOOGLE_IMAGE.match(str(image)):
            yield f"{at}.node_config.disks: {image} is no image; expected projects/PROJECT/global/images/family/FAMILY"


def _places(file: ClusterFile) -> Iterator[str]:
    region, zones = file.provider.region, file.provider.availability_zone
    if region is None:
        yield "provider.region: missing; it says where the machines are, as us-west-2"
        return
    for zone in (zones or "").replace(" ", "").split(","):
        if zone and not re.fullmatch(rf"{re.escape(region)}-?[a-z]", zone):
            yield f"provider.availability_zone: {zone} is not in {region}"
    for found in _EFS.finditer("\n".join(file.commands())):
        name, there = found.groups()
        if there != region:
            yield f"setup_commands: the file system {name} is in {there}, and provider.region is {region}"
        if not re.fullmatch(r"fs-[0-9a-f]{8,17}", name):
            yield f"setup_commands: {name} is no EFS file system; one is fs- and 8 to 17 digits from 0 to f"


def _user(file: ClusterFile) -> Iterator[str]:
    user = str(file.auth.get("ssh_user", ""))
    if user == "root":
        yield "auth.ssh_user: root may not log in on the clouds' images; Ubuntu's user is ubuntu, Debian's admin"
    if user in _WITHOUT_APT and any(_APT.search(command) for command in file.commands()):
        yield (
            f"auth.ssh_user: {user} is the user of {_WITHOUT_APT[user]}, which has no apt-get, and setup_commands use "
            "that; on an Ubuntu image it is ubuntu"
        )
    if not user:
        yield "auth.ssh_user: missing; on an Ubuntu image it is ubuntu"
    if (
        "ubuntu" in " ".join(_images(file)).lower()
        and file.provider.type == "aws"
        and user not in {"", "ubuntu", "root"}
    ):
        yield f"auth.ssh_user: {user}, and the image is Ubuntu's, whose user is ubuntu"


def _images(file: ClusterFile) -> Iterator[str]:
    for type_ in file.available_node_types.values():
        yield str(type_.node_config.get("ImageId", ""))


def _mount(file: ClusterFile) -> Iterator[str]:
    results = str(file.metadata.get("results", ""))
    if re.match(r"^[a-z0-9]+://", results):
        return
    mounted = [found.group(2) for command in file.commands() if (found := _MOUNT.search(" ".join(command.split())))]
    if not mounted:
        yield (
            "setup_commands: none mounts a file system, so results would be lost with their node; mount one as "
            "cluster/gpu.yaml does, or say `metadata: {results: s3://BUCKET/FOLDER}` and give that as --results"
        )
