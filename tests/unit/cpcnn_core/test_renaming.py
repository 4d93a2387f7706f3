"""The rules of --rename: whole names, prefixes, patterns, joined names; nothing is lost without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.config import ConfigError
from cpcnn_core.errors import CheckpointError
from cpcnn_core.renaming import Rename, matching, origins, parse, parse_all


def renamed(names: list[str], *items: str) -> dict[str, tuple[str, ...]]:
    found = list(origins([parse(item) for item in items], names, names))
    assert len({origin.ours for origin in found}) == len(found)
    return {origin.ours: origin.theirs for origin in found}


def test_whole_names_and_prefixes() -> None:
    names = ["emb", "emb.weight", "embed.weight", "a.emb.weight"]
    assert renamed(names, "emb=x") == {"x": ("emb",), "x.weight": ("emb.weight",)}
    assert renamed(names, "emb.weight=x") == {"x": ("emb.weight",)}


def test_one_name_for_several_of_ours() -> None:
    assert renamed(["emb"], "emb=a", "emb=b", "emb=c.*") == {"a": ("emb",), "b": ("emb",), "c.*": ("emb",)}


def test_patterns_carry_over_what_their_stars_stand_for() -> None:
    names = ["film.0.weight", "film.10.bias", "film.1.x.weight", "other.weight"]
    assert renamed(names, "film.*.weight=f.*.w") == {"f.0.w": ("film.0.weight",), "f.1.x.w": ("film.1.x.weight",)}
    assert renamed(names, "film.*.*=f.{2}.{1}") == {
        "f.weight.0": ("film.0.weight",),
        "f.bias.10": ("film.10.bias",),
        "f.x.weight.1": ("film.1.x.weight",),
    }
    assert renamed(["l.3.w"], "l.*.w=up_{1}_*_gate") == {"up_3_*_gate": ("l.3.w",)}
    assert renamed(["net.a.b", "net.c"], "net.*=*") == {"a.b": ("net.a.b",), "c": ("net.c",)}


def test_the_closest_rule_holds() -> None:
    names = ["a.b.w", "a.b.c.w", "a.d.w"]
    assert renamed(names, "*=p.*", "a.b=x", "a.b.c=y") == {
        "x.w": ("a.b.w",),
        "y.w": ("a.b.c.w",),
        "p.a.d.w": ("a.d.w",),
    }
    assert renamed(names, "a.b=x", "a.b.c.w=y", "*=p.*")["y"] == ("a.b.c.w",)


def test_joined_names() -> None:
    names = ["g.0.w", "b.0.w", "g.0.bias", "b.0.bias", "rest"]
    assert renamed(names, "g.0+b.0=m") == {"m.w": ("g.0.w", "b.0.w"), "m.bias": ("g.0.bias", "b.0.bias")}
    assert renamed(names, "g.*.w+b.*.w=m.*") == {"m.0": ("g.0.w", "b.0.w")}
    assert renamed(names, "b.*=p.*", "g.0.w+b.0.w=m") == {"m": ("g.0.w", "b.0.w"), "p.0.bias": ("b.0.bias",)}
    with pytest.raises(
        CheckpointError, match=r"--rename g\.0\+rest=m: the file has g\.0\.w, but no rest\.w to join it"
    ):
        renamed(names, "g.0+rest=m")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("bias", "--rename bias: expected OLD=NEW"),
        ("=x", "expected OLD=NEW"),
        ("x=", "expected OLD=NEW"),
        ("a+=x", "expected OLD=NEW"),
        ("a.*+b=x", "need the same number of *"),
        ("a.*.*=x.*", "OLD has 2 * and NEW 1; give NEW as many, or say which"),
        ("a.*=x", "OLD has 1 * and NEW 0"),
        ("a.*=x.{2}", "{2} names no * of OLD, which has 1"),
        ("a=x.{1}", "{1} names no * of OLD, which has 0"),
    ],
)
def test_what_is_no_rule_is_said(item: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(item)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"--rename {item}: ")


def test_a_rule_that_is_given_twice_is_said() -> None:
    assert parse_all(["a=x", "a=y", "a+b=x"]) == (parse("a=x"), parse("a=y"), parse("a+b=x"))
    with pytest.raises(ConfigError, match="--rename a=x: is given twice"):
        parse_all(["a=x", "b=x", "a=x"])


def test_a_rule_that_does_nothing_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"--rename emd=x: the file has no 'emd'; did you mean emb\?"):
        renamed(["emb", "w"], "emd=x")
    with pytest.raises(
        CheckpointError, match=r"--rename a\.\*=y\.\*: does nothing, for another --rename names a\.b more"
    ):
        renamed(["a.b"], "a.b=x", "a.*=y.*")


PARTS = st.lists(st.sampled_from(["up", "u_stream", "0", "1", "10", "emb", "weight", "a"]), min_size=1, max_size=4)
NAMES = PARTS.map(".".join)


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.data())
def test_a_pattern_made_of_a_name_gives_the_name_back(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    parts = name.split(".")
    starred = ".".join(data.draw(st.sampled_from([part, "*"])) for part in parts)
    assert name in matching(starred, names)
    if "*" in starred:
        found = {origin.theirs: origin.ours for origin in origins([parse(f"{starred}={starred}")], names, names)}
        assert found[(name,)] == name  # each star is replaced by what it stood for
        assert set(found) == {(other,) for other in matching(starred, names)}


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_every_rule_is_applied_or_refused(names: list[str], olds: list[str]) -> None:
    rules = [Rename((old,), f"new{i}") for i, old in enumerate(olds)]
    try:
        found = list(origins(rules, names, names))
    except CheckpointError:
        return
    assert {origin.given for origin in found} == set(rules)
    assert len({(origin.theirs, origin.given) for origin in found}) == len(found)
