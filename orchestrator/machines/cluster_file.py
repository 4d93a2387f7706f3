"""Cluster files, as `ray up` reads them: whether one will do, in words, before any machine is paid for."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from cpcnn_core.suggest import nearest
from cpcnn_core.validation import mistakes
from orchestrator.machines import clouds
from orchestrator.machines.cluster import PRICE, Cluster, ClusterError, Node, price_of
from orchestrator.machines.cluster_content import ClusterFile

if TYPE_CHECKING:
    import jsonschema

TOKEN = "~/.ray/auth_token"  # noqa: S105 - where it lies, not what it is

UNCHANGED = "CHANGE-ME"  # what a newcomer has to replace

PROVIDERS: dict[str, str] = {
    "aws": "cluster/gpu.yaml",
    "gcp": "cluster/gcp.yaml",
    "local": "cluster/local.yaml",
}
"""The file to start from, by Ray's name of whoever has the machines."""


def load(path: Path) -> dict[str, object]:
    """The content of the file. Raise ClusterError where it is no YAML mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterError(f"{path}: no such file; those to start from are {', '.join(PROVIDERS.values())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ClusterError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ClusterError(f"{path}: holds no mapping; expected keys such as cluster_name and provider")
    if "apiVersion" in content:
        raise ClusterError(
            f"{path}: a Kubernetes manifest; `kubectl apply --dry-run=server -f {shlex.quote(str(path))}` checks it"
        )
    return content


def read(path: Path) -> ClusterFile:
    """The file. Raise ClusterError where it is none."""
    try:
        return ClusterFile.model_validate(load(path))
    except ValidationError as error:
        wrong = mistakes(error, ClusterFile.model_fields)
        raise ClusterError("\n".join(f"{path}: {mistake}" for mistake in wrong)) from None


def problems(path: Path, *, here: Path) -> list[str]:
    """All that is wrong with the file, were `ray up` typed in the folder `here`; none where it will do."""
    content = load(path)
    wrong = [*_placeholders(content), *_schema(content)]
    try:
        file = ClusterFile.model_validate(content)
    except ValidationError as error:
        return wrong or mistakes(error, ClusterFile.model_fields)  # Ray has mostly said the same already
    told = [*_mounts(file, here), *_commands(file), *_types(file)]
    told += [problem for problem in clouds.contradictions(file) if UNCHANGED not in problem]  # said already
    return [*wrong, *told]


def unknown(path: Path) -> Sequence[str]:
    """What no look at the file tells: it shows at the first attempt."""
    return clouds.UNKNOWN.get(read(path).provider.type or "", ())


def check(path: Path, *, here: Path) -> tuple[float, float]:
    """See that the file will do, and return its `prices`. Raise ClusterError with all that is wrong."""
    if wrong := problems(path, here=here):
        raise ClusterError("\n".join([f"{path} will not do as it is:", *(f"  {problem}" for problem in wrong)]))
    return read(path).prices


def cluster(path: Path) -> Cluster:
    """The cluster that `ray up` would make of the file, the head alone being up. Raise ClusterError."""
    file = read(path)
    if not file.available_node_types:
        raise ClusterError(f"{path}: tells neither what its machines have nor what they cost, as cluster/gpu.yaml does")
    return Cluster([Node("head", "the head", file.head.resources, file.head.labels)], file.kinds)


def _placeholders(content: Mapping[str, object]) -> Iterator[str]:
    seen = set()  # what stands under `metadata` is referred to from elsewhere
    for where, text in _texts("", content):
        if UNCHANGED in text and text not in seen:
            seen.add(text)
            yield f"{where}: still holds {UNCHANGED}; the comment beside it says what to put there"


def _texts(where: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(f"{where}.{key}" if where else str(key), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(f"{where}[{index}]", inner)
    elif isinstance(value, str):
        yield where, value


def _schema(content: dict[str, object]) -> Iterator[str]:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    provider = content.get("provider")
    if not isinstance(provider, Mapping) or not isinstance(provider.get("type"), str):
        yield f"provider.type: missing; it must be one of {', '.join(PROVIDERS)}"
        return
    printed = io.StringIO()
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells which defaults it fills in
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            validate_config(prepare_config(content))
    except jsonschema.ValidationError as error:
        yield _in_words(error)
    except (KeyError, TypeError, AttributeError) as error:
        # Ray fills a file in before it checks types.
        yield f"a value has the wrong type, Ray cannot even fill the file in ({type(error).__name__}: {error})"
    except (ValueError, RuntimeError, NotImplementedError) as error:
        yield str(error)
    except SystemExit:
        yield " ".join(printed.getvalue().split()) or "Ray refuses it without a reason"
    except Exception as error:  # noqa: BLE001 - Ray's command line has exceptions of its own
        yield " ".join(f"{error} {printed.getvalue()}".split())


def _in_words(error: jsonschema.ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        unknown = [key for key in error.instance if key not in error.schema.get("properties", {})]
        known = error.schema.get("properties", {})
        return "; ".join(
            f"{where + '.' if where else ''}{key}: Ray knows no such key{nearest(str(key), known)}" for key in unknown
        )
    if error.validator == "required":
        return f"{where or 'the file'}: {error.message.replace(' is a required property', ' is missing')}"
    return f"{where}: {error.message}"


def _mounts(file: ClusterFile, here: Path) -> Iterator[str]:
    for remote, local in file.file_mounts.items():
        path = here / Path(local).expanduser()
        if path.exists():
            if remote == TOKEN and path.stat().st_mode & 0o077:
                yield f"{local}: others on this machine can read the token; chmod 600 {_in_a_shell(local)}"
        elif remote == TOKEN:
            yield f"{local}: there is no token yet; uv run ray get-auth-token --generate && chmod 600 {TOKEN}"
        else:
            yield f"file_mounts {remote}: {path} does not exist; type `ray up` in the repository's folder"
    if TOKEN not in file.file_mounts:
        yield f"file_mounts: has no {TOKEN}, so the nodes would not know the token, and not start"


def _in_a_shell(path: str) -> str:
    """The path for a shell, which knows the home folder by ~ without quotes alone."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def _commands(file: ClusterFile) -> Iterator[str]:
    starts = {
        "head_start_ray_commands": file.head_start_ray_commands,
        "worker_start_ray_commands": file.worker_start_ray_commands,
    }
    for key, commands in starts.items():
        if commands is None:
            yield f"{key}: missing; Ray's own would start without the token and outside our environment"
        for command in commands or ():
            if "ray start" in command and "environment.sh" not in command and "RAY_AUTH_MODE=token" not in command:
                yield f"{key}: {command!r} starts Ray without token authentication; source cluster/environment.sh first"
            if re.search(r"--dashboard-host[= ](?!127\.|localhost)", command):
                yield f"{key}: opens the dashboard, which takes jobs, to the network; tunnel to it instead"
    if not any("install.sh" in command or "uv sync" in command for command in file.commands()):
        yield "setup_commands: nothing installs the project; `bash ~/cpcnn-sweeps/cluster/install.sh` does"


def _types(file: ClusterFile) -> Iterator[str]:
    for name, type_ in file.available_node_types.items():
        try:
            price_of(type_.labels)
        except ClusterError as error:
            yield f"available_node_types.{name}: {error}"
        if PRICE not in type_.labels:
            yield f'available_node_types.{name}: no label {PRICE}, so no cost can be told; "0" says that none matters'
        if name == file.head_node_type and type_.resources.get("GPU"):
            yield f"available_node_types.{name}: the head has a GPU, and is paid for as long as the cluster is up"
