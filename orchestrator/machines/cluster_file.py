"""Cluster files, as `ray up` reads them: whether one will do, in words, before any machine is paid for."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cpcnn_core.suggest import nearest
from orchestrator.machines.cluster import PRICE, Cluster, ClusterError, Kind, Node, price_of

TOKEN = "~/.ray/auth_token"  # noqa: S105 - where it lies, not what it is

UNCHANGED = "CHANGE-ME"  # what a newcomer has to replace

PROVIDERS: dict[str, str] = {
    "aws": "cluster/gpu.yaml",
    "gcp": "cluster/gcp.yaml",
    "local": "cluster/local.yaml",
}
"""The file to start from, by Ray's name of whoever has the machines."""


def load(path: Path) -> dict[str, Any]:
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


def problems(path: Path, *, here: Path) -> list[str]:
    """All that is wrong with the file, were `ray up` typed in the folder `here`; none where it will do."""
    content = load(path)
    return [*_placeholders(content), *_schema(content), *_mounts(content, here), *_commands(content), *_types(content)]


def check(path: Path, *, here: Path) -> tuple[float, float]:
    """See that the file will do, and return its `prices`. Raise ClusterError with all that is wrong."""
    if found := problems(path, here=here):
        raise ClusterError("\n".join([f"{path} will not do as it is:", *(f"  {problem}" for problem in found)]))
    return prices(load(path))


def kinds(content: Mapping[str, Any]) -> tuple[Kind, ...]:
    """The node types that the autoscaler may start. Raise ClusterError where a price is no number."""
    if content.get("provider", {}).get("type") == "local":
        return ()  # all the machines there are join at once, with what Ray finds on them
    most = content.get("max_workers", 0)
    return tuple(
        Kind(
            name, spec.get("resources", {}), min(spec.get("max_workers", most), most), price_of(spec.get("labels", {}))
        )
        for name, spec in content.get("available_node_types", {}).items()
        if name != content.get("head_node_type")
    )


def cluster(path: Path) -> Cluster:
    """The cluster that `ray up` would make of the file, the head alone being up. Raise ClusterError."""
    content = load(path)
    if not content.get("available_node_types"):
        raise ClusterError(f"{path}: tells neither what its machines have nor what they cost, as cluster/gpu.yaml does")
    head = content["available_node_types"].get(content.get("head_node_type"), {})
    node = Node("head", "the head", head.get("resources", {}), head.get("labels", {}))
    return Cluster([node], kinds(content))


def prices(content: Mapping[str, Any]) -> tuple[float, float]:
    """What an hour costs: of the head alone, and with all the workers that may come."""
    types = content.get("available_node_types", {})
    head = price_of(types.get(content.get("head_node_type"), {}).get("labels", {}))
    dearest = sorted((kind.price for kind in kinds(content) for _ in range(kind.most)), reverse=True)
    return head, head + sum(dearest[: content.get("max_workers", 0)])


def _placeholders(content: Mapping[str, Any]) -> Iterator[str]:
    seen = set()  # what stands under `metadata` is referred to from elsewhere
    for where, text in _texts("", content):
        if UNCHANGED in text and text not in seen:
            seen.add(text)
            yield f"{where}: still holds {UNCHANGED}; the comment beside it says what to put there"


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _texts(f"{where}.{key}" if where else str(key), held)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            yield from _texts(f"{where}[{index}]", held)
    elif isinstance(value, str):
        yield where, value


def _schema(content: dict[str, Any]) -> Iterator[str]:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    if not isinstance(content.get("provider"), Mapping) or not isinstance(content["provider"].get("type"), str):
        yield f"provider.type: missing; it must be one of {', '.join(PROVIDERS)}"
        return
    said = io.StringIO()
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells which defaults it fills in
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(content))
    except jsonschema.ValidationError as error:
        yield _in_words(error)
    except (KeyError, TypeError, AttributeError) as error:
        # Ray fills a file in before it checks types.
        yield f"a value has the wrong type, Ray cannot even fill the file in ({type(error).__name__}: {error})"
    except (ValueError, RuntimeError, NotImplementedError) as error:
        yield str(error)
    except SystemExit:
        yield " ".join(said.getvalue().split()) or "Ray refuses it without a reason"
    except Exception as error:  # noqa: BLE001 - Ray's command line has exceptions of its own
        yield " ".join(f"{error} {said.getvalue()}".split())


def _in_words(error: Any) -> str:
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


def _mounts(content: Mapping[str, Any], here: Path) -> Iterator[str]:
    mounts = content.get("file_mounts") or {}
    if not isinstance(mounts, Mapping):
        return
    for remote, local in mounts.items():
        path = here / Path(str(local)).expanduser()
        if path.exists():
            if remote == TOKEN and path.stat().st_mode & 0o077:
                yield f"{local}: others on this machine can read the token; chmod 600 {_in_a_shell(str(local))}"
        elif remote == TOKEN:
            yield f"{local}: there is no token yet; uv run ray get-auth-token --generate && chmod 600 {TOKEN}"
        else:
            yield f"file_mounts {remote}: {path} does not exist; type `ray up` in the repository's folder"
    if TOKEN not in mounts:
        yield f"file_mounts: has no {TOKEN}, so the nodes would not know the token, and not start"


def _in_a_shell(path: str) -> str:
    """The path for a shell, which knows the home folder by ~ without quotes alone."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def _commands(content: Mapping[str, Any]) -> Iterator[str]:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = content.get(key)
        if not isinstance(commands, list):
            yield f"{key}: missing; Ray's own would start without the token and outside our environment"
            continue
        for command in commands:
            if "ray start" in command and "environment.sh" not in command and "RAY_AUTH_MODE=token" not in command:
                yield f"{key}: {command!r} starts Ray without token authentication; source cluster/environment.sh first"
            if re.search(r"--dashboard-host[= ](?!127\.|localhost)", command):
                yield f"{key}: opens the dashboard, which takes jobs, to the network; tunnel to it instead"
    setup = [str(command) for key in ("setup_commands", "head_setup_commands") for command in content.get(key) or []]
    if not any("install.sh" in command or "uv sync" in command for command in setup):
        yield "setup_commands: nothing installs the project; `bash ~/cpcnn-sweeps/cluster/install.sh` does"


def _types(content: Mapping[str, Any]) -> Iterator[str]:
    types = content.get("available_node_types") or {}
    if not isinstance(types, Mapping):
        return
    head = content.get("head_node_type")
    for name, spec in types.items():
        if not isinstance(spec, Mapping):
            continue
        try:
            price_of(spec.get("labels") or {})
        except ClusterError as error:
            yield f"available_node_types.{name}: {error}"
        if PRICE not in (spec.get("labels") or {}):
            yield f'available_node_types.{name}: no label {PRICE}, so no cost can be told; "0" says that none matters'
        if name == head and (spec.get("resources") or {}).get("GPU"):
            yield f"available_node_types.{name}: the head has a GPU, and is paid for as long as the cluster is up"
