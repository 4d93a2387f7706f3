"""The variables by which launchers speak to Accelerate and torch, read off the sources that are installed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import accelerate
from torch.distributed.elastic.agent.server import local_elastic_agent

_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")

_NOT_IMPORTED = {"commands", "test_utils"}

# What Accelerate reads besides: the machine's threads and devices, other products' own variables.
_NOT_LAUNCHERS = re.compile(
    "(AWS|CCL|CLEARML|MLFLOW|NCCL|TORCH_NCCL|WANDB)_.*|OMP_NUM_THREADS|PJRT_DEVICE|PT_HPU_LAZY_MODE|PYTORCH_ENABLE_MPS_FALLBACK"
    "|TPU_NAME|USE_TORCH_XLA"
)


def known() -> list[str]:
    """Every name that Accelerate reads from the environment, and every one that torchrun gives its processes."""
    package = Path(accelerate.__file__).parent
    files = [file for file in package.rglob("*.py") if file.relative_to(package).parts[0] not in _NOT_IMPORTED]
    found = {name for file in files for name in _read(ast.parse(file.read_text()))}
    found |= set(_given(ast.parse(Path(local_elastic_agent.__file__).read_text())))
    return sorted(name for name in found if not _NOT_LAUNCHERS.fullmatch(name))


def _read(tree: ast.AST) -> Iterator[str]:
    """The names in `os.environ.get(NAME)`, `parse_flag_from_env(prefix + NAME)`, `get_int_from_env([NAME, ...])`."""
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.Module):
            continue
        prefixes = dict(_constants(scope)) if isinstance(scope, ast.FunctionDef) else {}
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and node.args and _reads(ast.unparse(node.func)):
                yield from _names(node.args[0], prefixes)
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                yield from _names(node.slice, prefixes)


def _reads(function: str) -> bool:
    return function in {"os.environ.get", "os.getenv"} or function.endswith("_from_env")


def _constants(scope: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield ast.unparse(node.targets[0]), node.value.value


def _names(argument: ast.expr, prefixes: dict[str, str]) -> Iterator[str]:
    if isinstance(argument, ast.BinOp):
        prefix = prefixes.get(ast.unparse(argument.left))
        yield from (prefix + name for name in _names(argument.right, {}) if prefix is not None)
    elif isinstance(argument, ast.List):
        for element in argument.elts:
            yield from _names(element, prefixes)
    elif isinstance(argument, ast.Constant) and isinstance(argument.value, str) and _NAME.fullmatch(argument.value):
        yield argument.value


def _given(tree: ast.AST) -> Iterator[str]:
    """The keys of `worker_env = {...}`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "worker_env":
            assert isinstance(node.value, ast.Dict)
            yield from (str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
