"""docs/commands.md: every command with its arguments, options, defaults and examples, from what typer knows."""

from __future__ import annotations

import importlib
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import typer
from typer.core import TyperGroup

from documentation.generated import table
from orchestrator import cpcnn
from orchestrator.text import calling

COMMANDS = "commands"
_WORDS = {int: "whole number", float: "number", str: "text", bool: "", Any: "text"}
_ONE_LINE = str.maketrans({"|": "\\|", "\n": " "})


def commands(_old: str) -> str:
    """A section for each command, those of groups too, in the order of `cpcnn --help`."""
    return "\n\n".join(_section(names, command) for names, command in every())


def every() -> Iterator[tuple[str, Any]]:  # Any: classes that typer does not publish
    """Each command by what is typed for it: `trial look` too."""
    for name in cpcnn.listed():
        command = typer.main.get_command(importlib.import_module(f"orchestrator.{name.replace('-', '_')}").app)
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


def _section(typed: str, command: Any) -> str:
    arguments = [each for each in command.params if not _is_option(each)]
    options = [each for each in command.params if _is_option(each) and not each.hidden]
    usage = " ".join([calling.ENTRY, typed, *(_shown(each) for each in arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {typed}", " ".join(command.help.split()), f"```\n{usage}\n```"]
    if arguments:
        parts.append(table(("argument", "meaning"), ([f"`{_name(each)}`", _text(each.help)] for each in arguments)))
    if options:
        head = ("option", "takes", "default", "meaning")
        parts.append(table(head, (_row(each) for each in options)))
    lines = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith(calling.ENTRY)]
    if lines:
        parts.append("```\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _row(option: Any) -> list[str]:
    written = ", ".join(f"`{each}`" for each in [*option.opts, *option.secondary_opts])
    return [written, _takes(option), _default(option), _text(option.help)]


def _takes(option: Any) -> str:
    if option.metavar:
        # GitHub and the site differ in how a bar within backticks is written, and agree in this.
        bar = "&#124;"
        return f"<code>{option.metavar.replace('|', bar)}</code>" if "|" in option.metavar else f"`{option.metavar}`"
    annotation = option.type_descriptor.annotation
    if typing.get_origin(annotation) is list:
        [annotation] = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in typing.get_args(annotation))
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    words = _WORDS.get(annotation, "path")
    least = getattr(option, "min", None)
    return words if least is None else f"{words} from {least:g}"


def _default(option: Any) -> str:
    if option.required:
        return "must be given"
    if isinstance(option.show_default, str):
        return _text(option.show_default)
    if option.default is None:
        return ""
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return f"`{option.default}`"


def _shown(argument: Any) -> str:
    name = f"{_name(argument)}{'...' if argument.nargs == -1 else ''}"
    return name if argument.required else f"[{name}]"


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).translate(_ONE_LINE)
