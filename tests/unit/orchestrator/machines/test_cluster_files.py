"""The files under cluster/: Ray takes them, every command in them exists, and an edited one is told what is wrong."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from cpcnn_core import gpus
from orchestrator import sweep
from orchestrator.machines import cluster_file
from orchestrator.machines.cluster import PRICE, ClusterError, price_of
from tests.support.paths import ROOT

CLUSTER = ROOT / "cluster"
FOR_RAY_UP = tuple(Path(file).stem for file in cluster_file.PROVIDERS.values())
HOME_ON_NODES = "~/cpcnn-sweeps/"


def content(name: str) -> dict[str, Any]:
    return cluster_file.load(CLUSTER / f"{name}.yaml")


def filled_in(name: str) -> dict[str, Any]:
    """The file as a newcomer leaves it who has changed everything that is marked."""
    text = (CLUSTER / f"{name}.yaml").read_text()
    for prefix in ("ami-", "fs-"):
        text = text.replace(f"{prefix}CHANGE-ME", f"{prefix}0123456789abcdef0")
    content: dict[str, Any] = yaml.safe_load(text.replace("CHANGE-ME", "changed"))
    return content


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a token as it should be."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def problems(tmp_path: Path, changed: dict[str, Any]) -> list[str]:
    file = tmp_path / "edited.yaml"
    file.write_text(yaml.safe_dump(changed))
    return cluster_file.problems(file, here=ROOT)


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_ray_takes_the_file_and_fills_it_in(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(content(name))
    validate_config(prepared)
    if name == "local":
        return
    head, gpu = prepared["available_node_types"]["head"], prepared["available_node_types"]["gpu"]
    assert "GPU" not in head["resources"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, prepared["max_workers"])
    assert gpu["resources"]["GPU"] == 1
    assert prepared["worker_setup_commands"][-1] == prepared["head_setup_commands"][-1]


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_nothing_is_wrong_with_a_file_once_what_is_marked_was_changed(home: Path, name: str) -> None:
    assert problems(home, filled_in(name)) == []
    marked = cluster_file.problems(CLUSTER / f"{name}.yaml", here=ROOT)
    assert marked
    assert all("still holds CHANGE-ME" in problem for problem in marked)


@pytest.mark.parametrize("name", [*FOR_RAY_UP, "kuberay"])
def test_what_must_be_changed_stands_at_the_top(name: str) -> None:
    lines = (CLUSTER / f"{name}.yaml").read_text().splitlines()
    if name != "kuberay":
        end = next(number for number, line in enumerate(lines) if line.startswith("# ---- ... to here"))
        assert end < 45
        assert not any("CHANGE-ME" in line for line in lines[end:])
    for number, line in enumerate(lines):
        if "CHANGE-ME" in line:
            assert any("CHANGE:" in near or "CHANGE to" in near for near in lines[max(0, number - 5) : number + 1]), (
                line
            )


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_every_file_and_command_that_a_cluster_file_names_exists(name: str) -> None:
    held = content(name)
    mounts = held["file_mounts"]
    for remote, local in mounts.items():
        assert remote == cluster_file.TOKEN or (ROOT / local).exists(), local
    commands = [command for key, commands in held.items() if key.endswith("_commands") for command in commands]
    for path in re.findall(rf"{HOME_ON_NODES}([\w./-]+)", "\n".join(commands)):
        assert (ROOT / path).is_file(), path
        assert any(path.startswith(f"{remote.removeprefix(HOME_ON_NODES)}") for remote in mounts), path
    for comment in re.findall(r"python -m (orchestrator\.\w+) (--[\w-]+)", (CLUSTER / f"{name}.yaml").read_text()):
        module, option = comment
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert option in CliRunner().invoke(sweep.app, ["--help"], env={"COLUMNS": "200"}).output
    for extra in re.findall(r"install\.sh (\w+)", "\n".join(commands)):
        assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", ["slurm.sh", "install.sh", "environment.sh", "Dockerfile", "kuberay.yaml"])
def test_every_file_option_and_extra_that_a_script_or_manifest_names_exists(name: str) -> None:
    text = (CLUSTER / name).read_text()
    for path in re.findall(r"(?<![\w/])((?:cluster|docs|search_spaces)/[\w./-]*\w)", text):
        assert (ROOT / path).is_file(), path
    for sources in re.findall(r"^COPY --chown=ray (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split()), sources
    for extra in re.findall(r"--extra (\w+)", text):
        assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    options = CliRunner().invoke(sweep.app, ["--help"], env={"COLUMNS": "200"}).output
    typed = re.findall(r"(?:slurm\.sh search_spaces|orchestrator\.sweep)(.*)", text)
    assert bool(typed) == (name == "slurm.sh")
    assert all(option in options for line in typed for option in re.findall(r"(?<!\S)--[a-z-]+", line)), typed


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_what_is_sent_is_all_that_the_package_is_built_from(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    mounts = content(name)["file_mounts"]
    assert {remote.removeprefix(HOME_ON_NODES) for remote in mounts} - {cluster_file.TOKEN} == needed
    copied = (CLUSTER / "Dockerfile").read_text()
    assert all(re.search(rf"^COPY .*\b{re.escape(part)}\b", copied, re.MULTILINE) for part in needed)


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_ray_starts_nowhere_without_the_token(name: str) -> None:
    held = content(name)
    starts = [c for key in ("head_start_ray_commands", "worker_start_ray_commands") for c in held[key] if "start" in c]
    assert len(starts) == 2
    for command in starts:
        assert command.startswith(". ~/cpcnn-sweeps/cluster/environment.sh; ")
    assert "--dashboard-host=127.0.0.1" in starts[0]
    shell = f". {CLUSTER}/environment.sh && env"
    environment = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, env={"HOME": "/h"})
    assert {"RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=/h/.ray/auth_token"} <= set(environment.stdout.splitlines())


def remove(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        for key in path[:-1]:
            held = held[key]
        del held[path[-1]]

    return change


def put(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put(3, "max_worker"), "max_worker: Ray knows no such key; did you mean max_workers?"),
        (
            put("c4", "available_node_types", "gpu", "instance"),
            "available_node_types.gpu.instance: Ray knows no such key; there are node_config",
        ),
        (put("four", "max_workers"), "max_workers: 'four' is not of type 'integer'"),
        (put(["local"], "provider"), "provider.type: missing"),
        (put([], "available_node_types", "gpu", "resources"), "available_node_types.gpu.resources: [] is not of type"),
        (remove("available_node_types", "gpu", "node_config"), "available_node_types.gpu: 'node_config' is missing"),
        (remove("provider"), "provider.type: missing"),
        (put("azur", "provider", "type"), "azur"),
        (put("boss", "head_node_type"), "`head_node_type` must be one of `available_node_types`"),
        (
            put(9, "available_node_types", "gpu", "min_workers"),
            "`max_workers` is smaller than the sum of `min_workers`",
        ),
        (remove("file_mounts", "~/.ray/auth_token"), "file_mounts: has no ~/.ray/auth_token"),
        (put("nowhere", "file_mounts", "~/cpcnn-sweeps/cluster"), "nowhere does not exist; type `ray up` in the repos"),
        (
            remove("head_start_ray_commands"),
            "head_start_ray_commands: missing; Ray's own would start without the token",
        ),
        (put(["ray start --head"], "head_start_ray_commands"), "starts Ray without token authentication"),
        (
            put([". cluster/environment.sh; ray start --dashboard-host=0.0.0.0"], "head_start_ray_commands"),
            "opens the dashboard",
        ),
        (put([], "setup_commands"), "nothing installs the project"),
        (put({}, "available_node_types", "gpu", "labels"), f"gpu: no label {PRICE}"),
        (put({PRICE: "cheap"}, "available_node_types", "gpu", "labels"), "'cheap' is no price"),
        (put({"CPU": 8, "GPU": 1}, "available_node_types", "head", "resources"), "the head has a GPU"),
    ],
)
def test_an_edited_file_is_told_what_is_wrong(home: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    held = copy.deepcopy(filled_in("gpu"))
    change(held)
    found = problems(home, held)
    assert any(says in problem for problem in found), found
    assert not any("Traceback" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [("- a\n- b\n", "holds no mapping"), ("a: [", "no YAML"), ("apiVersion: ray.io/v1\n", "kubectl apply --dry-run")],
)
def test_what_is_no_cluster_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(ClusterError, match=re.escape(says)):
        cluster_file.problems(file, here=ROOT)
    with pytest.raises(ClusterError, match="no such file"):
        cluster_file.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put([1], "available_node_types"), "available_node_types: [1] is not allowed: input should be a valid"),
        (put("four", "max_workers"), "max_workers: 'four' is not allowed: input should be a valid integer"),
        (
            put("many", "available_node_types", "gpu", "resources", "CPU"),
            "available_node_types.gpu.resources.CPU: 'many' is not allowed: input should be a valid number",
        ),
        (
            put(0.3, "available_node_types", "gpu", "labels", PRICE),
            f"available_node_types.gpu.labels['{PRICE}']: 0.3 is not allowed: input should be a valid string",
        ),
    ],
)
def test_a_file_to_plan_by_is_told_what_is_wrong_with_it(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    changed = filled_in("gpu")
    change(changed)
    file = tmp_path / "edited.yaml"
    file.write_text(yaml.safe_dump(changed))
    options = ["search_spaces/digits.py", "--dry-run", "--cluster", str(file)]
    refused = CliRunner().invoke(sweep.app, options)
    assert refused.exit_code == 2, refused.exception
    assert f"error: {file}: {says}" in refused.output


def test_the_token_must_be_there_and_ones_own(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.chmod(0o644)
    assert problems(home, filled_in("gpu")) == [
        "~/.ray/auth_token: others on this machine can read the token; chmod 600 ~/.ray/auth_token"
    ]
    token.unlink()
    [problem] = problems(home, filled_in("gpu"))
    assert "uv run ray get-auth-token --generate && chmod 600 ~/.ray/auth_token" in problem


def test_the_command_says_in_words_what_is_wrong(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wrong = CliRunner().invoke(sweep.app, ["--check-cluster", "cluster/gpu.yaml"])
    assert wrong.exit_code == 2
    assert "metadata.image: still holds CHANGE-ME" in wrong.output
    right = home / "right.yaml"
    right.write_text(yaml.safe_dump(filled_in("gpu")))
    fine = CliRunner().invoke(sweep.app, ["--check-cluster", str(right)])
    assert fine.exit_code == 0, fine.output
    assert "An hour costs 0.19 while nothing runs and 1.39 with all the workers that may come." in fine.output
    assert "Nobody can know from here:" in fine.output
    assert "  - whether the AMI exists in the region, and has NVIDIA's driver 580 or newer" in fine.output


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/security.md", "docs/scale.md"])
def test_every_command_and_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    options = CliRunner().invoke(sweep.app, ["--help"], env={"COLUMNS": "200"}).output
    for command in re.findall(r"(?:orchestrator\.|cpcnn )sweep ([^\n`]*)", text):
        assert all(option in options for option in re.findall(r"(?<!\w)--[a-z-]+", command)), command
    for path in re.findall(r"\b((?:cluster|docs|orchestrator|search_spaces)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target
    from ray.scripts.scripts import cli

    for verb in re.findall(r"(?:uv run|`)\s*ray ([a-z-]+)", text):
        assert verb in {*cli.commands, "job"}, verb


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """A schema of an object that has these fields and no others."""
    return {
        "type": "object", "properties": properties, "required": required.split(), "additionalProperties": False,
    }  # fmt: skip


TEXT, NUMBER, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {
    "type": "object",
    "propertyNames": {"enum": ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"]},
    "additionalProperties": {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"},
}
# Kubernetes takes a label's value only where it is short and begins and ends with a letter or a digit.
LABELS = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?$"},
}
CONTAINER = closed(
    "name image",
    name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}, image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    securityContext=closed(allowPrivilegeEscalation=FLAG),
    resources=closed(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts={"type": "array", "items": closed("name mountPath", name=TEXT, mountPath={"pattern": "^/"})},
)  # fmt: skip
VOLUME = {
    **closed(
        "name", name=TEXT, persistentVolumeClaim=closed("claimName", claimName=TEXT), emptyDir=closed(medium=TEXT)
    ),
    "minProperties": 2, "maxProperties": 2,
}  # fmt: skip
POD = closed(
    "spec",
    spec=closed(
        "containers",
        containers={"type": "array", "items": CONTAINER, "minItems": 1}, volumes={"type": "array", "items": VOLUME},
        automountServiceAccountToken=FLAG, terminationGracePeriodSeconds=NUMBER,
    ),
)  # fmt: skip
# The fields of KubeRay 1.5's RayCluster that the manifest uses, with their types.
RAY_CLUSTER = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"}, kind={"const": "RayCluster"}, metadata=closed("name", name=TEXT),
    spec=closed(
        "headGroupSpec workerGroupSpecs",
        rayVersion=TEXT, authOptions=closed(mode={"enum": ["token"]}), enableInTreeAutoscaling=FLAG,
        autoscalerOptions=closed(idleTimeoutSeconds=NUMBER),
        headGroupSpec=closed("rayStartParams template", rayStartParams=TEXTS, labels=LABELS, template=POD),
        workerGroupSpecs={"type": "array", "items": closed(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER, maxReplicas=NUMBER, rayStartParams=TEXTS,
            labels=LABELS, template=POD,
        )},
    ),
)  # fmt: skip


def test_the_kubernetes_manifest_has_only_fields_that_kuberay_knows() -> None:
    manifest = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    jsonschema.validate(manifest, RAY_CLUSTER)
    [group] = manifest["spec"]["workerGroupSpecs"]
    for pod in (manifest["spec"]["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            resources = container["resources"]
            assert all(resources["limits"][name] == amount for name, amount in resources["requests"].items())
    from ray.scripts.scripts import cli

    options = {name.removeprefix("--") for parameter in cli.commands["start"].params for name in parameter.opts}
    assert set(manifest["spec"]["headGroupSpec"]["rayStartParams"]) <= options


@pytest.mark.parametrize(
    "change",
    [
        put(0, "spec", "headGroupSpec", "rayStartParams", "num-cpus"),  # KubeRay takes texts alone
        put("Gpu!", "spec", "headGroupSpec", "labels", PRICE),
        put(True, "spec", "headGroupSpec", "template", "spec", "containers", 0, "imagePullPolcy"),
        put("all", "spec", "workerGroupSpecs", 0, "maxReplicas"),
        remove("spec", "workerGroupSpecs", 0, "groupName"),
    ],
)
def test_a_manifest_that_kuberay_would_refuse_is_found_out(change: Callable[[dict[str, Any]], None]) -> None:
    manifest = copy.deepcopy(yaml.safe_load((CLUSTER / "kuberay.yaml").read_text()))
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, RAY_CLUSTER)


def test_the_kubernetes_manifest_has_authentication_on_and_the_pinned_ray() -> None:
    manifest = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    spec = manifest["spec"]
    assert spec["authOptions"]["mode"] == "token"
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    assert f"ray=={spec['rayVersion']}" in pinned
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    [group] = spec["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["volumeMounts"] == head["volumeMounts"]
    assert group["template"]["spec"]["volumes"] == spec["headGroupSpec"]["template"]["spec"]["volumes"]
    assert group["maxReplicas"] > group["minReplicas"]
    for labels in (spec["headGroupSpec"]["labels"], group["labels"]):
        assert price_of(labels) > 0


def test_the_installer_closes_the_token_and_installs_as_the_readme_does(tmp_path: Path) -> None:
    project, home = tmp_path / "cpcnn-sweeps", tmp_path / "home"
    (project / "cluster").mkdir(parents=True)
    for name in ("install.sh", "environment.sh"):
        (project / "cluster" / name).write_text((CLUSTER / name).read_text())
    calls = stub(home / ".local" / "bin" / "uv")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = ["bash", str(project / "cluster" / "install.sh"), "aws"]
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 1
    assert "no token in" in refused.stderr
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    for _ in range(2):
        calls.unlink(missing_ok=True)
        subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (home / ".bashrc").read_text() == f". {project}/cluster/environment.sh\n"
    assert token.stat().st_mode & 0o777 == 0o600
    assert calls.read_text() == f"{project}: sync --quiet --no-dev --extra cluster --extra aws\n"


@dataclass
class Slurm:
    """The script in a project whose programs only write down how they were called."""

    binaries: Path
    home: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["bash", str(CLUSTER / "slurm.sh"), *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )

    def calls(self, program: str) -> str:
        held = self.binaries / f"{program}.calls"
        return held.read_text() if held.exists() else ""


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    project, home = tmp_path / "cpcnn-sweeps", tmp_path / "home"
    (project / "cluster").mkdir(parents=True)
    home.mkdir()
    (project / "cluster" / "environment.sh").write_text((CLUSTER / "environment.sh").read_text())
    binaries = project / ".venv" / "bin"
    stub(binaries / "ray", also="env | grep -q ^RAY_AUTH_MODE=token && stat -c '%a' $RAY_AUTH_TOKEN_PATH >>$0.modes")
    # A sweep that ends by itself, unless it is named `long`: that one ends when it is told to, as sweeps do.
    sweep = f'[ "$1" = -c ] && exec {sys.executable} "$@"; trap "exit 130" TERM; [ "$3" = long ] || exit 0'
    stub(binaries / "python", also=f"{sweep}; for _ in $(seq 600); do sleep 0.1; done")
    stub(binaries / "scontrol", also='[ "$1" = show ] && echo first && echo second || true')
    stub(binaries / "srun", also='while case "$1" in -*) true;; *) false;; esac; do shift; done; exec "$@"')
    stub(
        binaries / "hostname",
        also='[ "$1" = --ip-address ] && echo 127.0.1.1 || echo 127.0.0.1 10.0.0.1 10.9.9.9 fe80::1',
    )
    environment = {
        "HOME": str(home), "PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(project), "SLURM_JOB_ID": "123",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
    }  # fmt: skip
    return Slurm(binaries, home, environment)


def test_a_slurm_job_starts_ray_on_its_nodes_under_a_token_of_its_own(slurm: Slurm) -> None:
    _, errors = (job := slurm.start("search_spaces/digits.py", "--trials", "7")).communicate(timeout=60)
    assert job.returncode == 0, errors
    started = slurm.calls("ray")
    assert "start --head --node-ip-address=10.0.0.1 --port=20123 --include-dashboard=false --num-cpus=8" in started
    assert "start --address=10.0.0.1:20123 --num-cpus=8 --num-gpus=1 --block" in started
    assert set((slurm.binaries / "ray.modes").read_text().split()) == {"600"}
    assert "-m orchestrator.sweep search_spaces/digits.py --trials 7 --address 10.0.0.1:20123" in slurm.calls("python")
    assert "requeue" not in slurm.calls("scontrol")
    assert not list((slurm.home / ".ray").iterdir())  # the token went with the job


def test_a_slurm_job_whose_ray_does_not_start_says_so_and_ends(slurm: Slurm) -> None:
    stub(slurm.binaries / "ray", also="exit 1")
    _, errors = (job := slurm.start("search_spaces/digits.py")).communicate(timeout=60)
    assert job.returncode == 1
    assert "error: Ray did not start on first" in errors
    assert "orchestrator.sweep" not in slurm.calls("python")


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_slurm_job_out_of_time_stops_its_sweep_and_queues_itself_again_a_cancelled_one_does_not(
    slurm: Slurm, number: signal.Signals, again: bool
) -> None:
    with slurm.start("long") as job:
        deadline = time.monotonic() + 60
        while "orchestrator.sweep long" not in slurm.calls("python"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # the script's next lines say what a signal does
        job.send_signal(number)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 130, errors
    assert ("requeue 123" in slurm.calls("scontrol")) is again
    assert not list((slurm.home / ".ray").iterdir())


def test_slurm_tells_the_script_and_not_its_steps_before_the_time_is_over() -> None:
    options = re.findall(r"^#SBATCH (\S+)$", (CLUSTER / "slurm.sh").read_text(), re.MULTILINE)
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append"} <= set(options)


@pytest.mark.parametrize("script", [*sorted(CLUSTER.glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_a_script_has_none_of_the_known_pitfalls(script: Path) -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-x", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", FOR_RAY_UP)
def test_a_cluster_files_commands_have_none_of_the_known_pitfalls(name: str) -> None:
    held = filled_in(name)
    commands = [command for key, commands in held.items() if key.endswith("_commands") for command in commands]
    # One after the other in one shell; what is sourced is looked at by itself.
    found = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "--exclude=SC1090,SC1091", "-"],
        input="\n".join(commands).replace("$RAY_HEAD_IP", "10.0.0.1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


def stub(path: Path, *, also: str = "") -> Path:
    """A program that writes down where it was called, and how."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\necho "$PWD: $*" >>"$0.calls"\n{also}\n')
    path.chmod(0o755)
    return path.with_name(f"{path.name}.calls")


def test_images_and_notes_name_the_driver_that_torch_needs() -> None:
    newest = max(map(int, gpus.OLDEST_DRIVER.values()))
    named = {
        file.name: re.findall(r"nvidia-(\d{3})\b|driver (\d{3})\b|(\d{3}) or newer", file.read_text())
        for file in (ROOT / "cluster").iterdir()
        if file.suffix in {".yaml", ".sh"}
    }
    numbers = {name: {int(number) for found in each for number in found if number} for name, each in named.items()}
    assert {name for name, each in numbers.items() if each} == {"gcp.yaml", "gpu.yaml", "kuberay.yaml", "slurm.sh"}
    assert set.union(*numbers.values()) == {newest}
