"""Names that mean something to a shell, a URL, a template, a markup or a pattern, and are only names."""

from __future__ import annotations

import string

CHARACTERS = tuple(
    character
    for character in (*string.printable, *"äßπ你🎲")
    if character.isprintable() and character != "/"  # which no file name holds
)

ALL = "".join(CHARACTERS)

WORDS = (
    "[bold]x[red]",
    ":smile:",
    "a::b",
    "%41",
    "%(x)s %s",
    "{x}",
    "{0.__class__}",
    "${HOME}",
    "$(exit)",
    "`exit`",
    "a && b",
    "*",
    "[a-b]",
    "a,b",
    "<b>x<i>",
    "<script>",
    "&amp;",
    "&lt;b&gt;",
    "**x**",
    "a|b",
    "=1+1",
    "'",
    '"',
    "\\",
    "x ",
    " x",
    "s3:",
    "~x",
    ".x",
    "#x",
    "a?b=c#d",
    "token",
    "not there",
    "true",
    "1",
)

SHORT = (ALL, "[bold]x[red]", " x", "x ", ".x", "~x", "*", "'", '"', "\\", "{x} %s", "s3:", "<b>")  # for slow tests

NAMES = tuple(dict.fromkeys((ALL, *WORDS, *(f"a{character}b" for character in CHARACTERS))))

TEXTS = (*NAMES, "[bold]x[/bold]", "[link=http://x]y[/]", "<b>x</b>", "</script><script>alert(1)</script>", "http://x")
