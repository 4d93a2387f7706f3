"""An objective in the words of a space file, as `--objective` has it: read, and never executed."""

from __future__ import annotations

import ast

import search_spaces
from cpcnn_core.class_names import class_in
from cpcnn_core.metrics import DIRECTIONS, HELD_OUT
from cpcnn_core.suggest import nearest
from orchestrator.objectives.objective import Objective, ObjectiveError

_CALLS = ("desirability", "constrained", "pareto", "goal", "soft_goal")
_NAMES = ("COURSE_GRADING",)

_EXAMPLES = (
    "as val_acc, 'desirability(val_acc=goal(0.25, 0.75), fid=goal(60, 30))' or 'constrained(\"val_acc\", fid=30)'"
)


def read(text: str) -> Objective:
    """`val_acc`, `desirability(fid=goal(60, 30))`, `COURSE_GRADING`: the objective. Raise ObjectiveError."""
    if text in DIRECTIONS or class_in(text) is not None:  # the latter for Objective to refuse
        return Objective.of(text)
    try:
        declared = _value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise ObjectiveError(
            f"--objective: {text!r} cannot be read; give what a space file may say, {_EXAMPLES}"
        ) from None
    except (TypeError, ValueError) as error:  # the words' own
        raise ObjectiveError(f"--objective: {error}") from None
    return Objective.of(declared)


def _value(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name):
            if name in _NAMES:
                return getattr(search_spaces, name)
            if name in DIRECTIONS or name in HELD_OUT:  # the latter for Objective to refuse
                return name
            raise ValueError(f"{name!r} is no metric{nearest(name, [*DIRECTIONS, *_CALLS, *_NAMES])}")
        case ast.Call(func=ast.Name(id=name), args=given, keywords=named):
            if name not in _CALLS:
                raise ValueError(f"{name}() means nothing{nearest(name, _CALLS)}")
            keywords = {keyword.arg: _value(keyword.value) for keyword in named if keyword.arg is not None}
            return getattr(search_spaces, name)(*map(_value, given), **keywords)
    raise ValueError(f"{ast.unparse(node)!r} means nothing; give what a space file may say, {_EXAMPLES}")
