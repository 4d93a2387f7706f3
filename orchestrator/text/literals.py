"""What a Python file says, read without running it."""

from __future__ import annotations

import ast


def keys(tree: ast.Module, name: str) -> tuple[str, ...]:
    """The texts that are keys of the dictionary that a module calls `name`; none where it has no such dictionary."""
    for line in tree.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Dict(keys=entries)) if found == name:
                break
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.Dict(keys=entries)) if found == name:
                break
    else:
        return ()
    return tuple(key.value for key in entries if isinstance(key, ast.Constant) and isinstance(key.value, str))
