"""Which tensor of a file becomes which of ours: the rules that `--rename OLD=NEW` gives.

OLD is a tensor's name, or what its name begins with up to a dot, or a pattern in which `*` stands for any characters.
`A+B=NEW` joins two tensors into one of ours. The same OLD may be given again for another NEW.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cpcnn_core.config import ConfigError
from cpcnn_core.errors import CheckpointError
from cpcnn_core.suggest import nearest

_EXPECTED = "expected OLD=NEW, the file's name of a parameter and ours"
_NUMBERED = re.compile(r"\{(\d+)\}")


@dataclass(frozen=True)
class Rename:
    """One rule. With several of the file's names in `old`, their tensors are joined."""

    old: tuple[str, ...]
    new: str

    def __str__(self) -> str:
        return f"--rename {'+'.join(self.old)}={self.new}"


@dataclass(frozen=True)
class Origin:
    """Where one of our tensors comes from.

    `ours` may hold `*`: every one of ours that it fits and that comes from nowhere else. `given` is the rule that says
    so, None where the name alone does.
    """

    ours: str
    theirs: tuple[str, ...]
    given: Rename | None = None


@dataclass(frozen=True)
class _Match:
    """How closely OLD names a tensor, what its `*` stand for, and what follows the prefix."""

    closeness: tuple[int, int]
    stars: tuple[str, ...]
    rest: str


def parse(item: str) -> Rename:
    """Read `OLD=NEW`. Raise ConfigError for what is none."""
    old, equals, new = item.partition("=")
    names = tuple(old.split("+"))
    if not (equals and new and all(names)):
        raise ConfigError(f"--rename {item}: {_EXPECTED}")
    stars = {name.count("*") for name in names}
    if len(stars) > 1:
        raise ConfigError(f"--rename {item}: names joined by + need the same number of *")
    count = stars.pop()
    numbers = [int(number) for number in _NUMBERED.findall(new)]
    if wrong := [number for number in numbers if not 1 <= number <= count]:
        raise ConfigError(f"--rename {item}: {{{wrong[0]}}} names no * of OLD, which has {count}")
    if count and not numbers and new.count("*") != count:
        raise ConfigError(
            f"--rename {item}: OLD has {count} * and NEW {new.count('*')}; give NEW as many, or say which: {{1}}, ..."
        )
    return Rename(names, new)


def parse_all(items: Iterable[str]) -> tuple[Rename, ...]:
    """Read several rules. Raise ConfigError for what is none, and for one that is given twice."""
    rules: list[Rename] = []
    for item in items:
        rule = parse(item)
        if rule in rules:
            raise ConfigError(f"--rename {item}: is given twice; give it once, or another NEW")
        rules.append(rule)
    return tuple(rules)


def origins(renames: Sequence[Rename], names: Collection[str], likely: Collection[str]) -> Iterator[Origin]:
    """What the rules make of the file's names; of several that fit a name, all that name it as closely as any.

    A whole name is closer than a prefix, a longer prefix closer than a shorter one, a pattern the least close. Raise
    CheckpointError where a rule does nothing, or lacks the other tensor that it joins; it tells of the `likely` names.
    """
    closest: dict[str, tuple[int, int]] = {}
    for old in (old for rename in renames for old in rename.old):
        for name, match in _matches(old, names):
            closest[name] = max(closest.get(name, match.closeness), match.closeness)
    for rename in renames:
        found = list(_matches(rename.old[0], names))
        if not found:
            raise CheckpointError(f"{rename}: the file has no {rename.old[0]!r}{nearest(rename.old[0], likely)}")
        applied = [(name, match) for name, match in found if match.closeness == closest[name]]
        if not applied:
            raise CheckpointError(f"{rename}: does nothing, for another --rename names {found[0][0]} more closely")
        for name, match in applied:
            others = tuple(_filled(old, match.stars) + match.rest for old in rename.old[1:])
            if missing := [other for other in others if other not in names]:
                raise CheckpointError(f"{rename}: the file has {name}, but no {missing[0]} to join it with")
            yield Origin(_renamed(rename.new, match.stars) + match.rest, (name, *others), rename)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that are the pattern, begin with it up to a dot, or fit it where it holds `*`."""
    return [name for name, _ in _matches(pattern, names)]


def _matches(old: str, names: Iterable[str]) -> Iterator[tuple[str, _Match]]:
    expression = re.compile("(.*?)".join(map(re.escape, old.split("*"))), re.DOTALL)
    for name in names:
        if "*" in old:
            if match := expression.fullmatch(name):
                yield name, _Match((0, 0), match.groups(), "")
        elif name == old:
            yield name, _Match((2, 0), (), "")
        elif name.startswith(f"{old}."):
            yield name, _Match((1, len(old)), (), name[len(old) :])


def _filled(pattern: str, stars: Sequence[str]) -> str:
    """The pattern with its `*` replaced in turn."""
    parts = pattern.split("*")
    return "".join(part + star for part, star in zip(parts, (*stars, ""), strict=True))


def _renamed(new: str, stars: Sequence[str]) -> str:
    if _NUMBERED.search(new):
        return _NUMBERED.sub(lambda number: stars[int(number[1]) - 1], new)
    return _filled(new, stars) if stars else new
