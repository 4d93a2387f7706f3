"""The facts below each heading of docs/every-fusion.md: drawing, formula, sites, options, what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cpcnn_core.fusion import FUSIONS
from documentation.drawing import Acting, svg
from documentation.generated import PageError, cells, table

FOLDER = "fusions"  # of the drawings, in docs/


def drawings(docs: Path) -> dict[Path, str]:
    """The drawing of each fusion by its file."""
    return {docs / FOLDER / f"{name}.svg": svg(name) for name in FUSIONS}


def parts(docs: Path) -> dict[str, Callable[[str], str]]:
    """What writes the facts of each fusion."""
    formulas = _rows(docs / "fusions.md")
    measured = _rows(docs / "reached.md")
    return {f"fusion: {name}": _facts(name, formulas, measured) for name in FUSIONS}


def _facts(name: str, formulas: dict[str, list[str]], measured: dict[str, list[str]]) -> Callable[[str], str]:
    if name not in formulas:
        raise PageError(f"docs/fusions.md: the table of fusions has no row of `{name}`")
    formula, _, first_seen = formulas[name]
    where = Acting.of(name).where() or "nowhere"
    options = ", ".join(f"`{option}`" for option in FUSIONS[name].Options.model_fields) or "none"
    on_digits = "not measured"
    if name in measured:
        accuracy, bpd, parameters, _ = measured[name]
        on_digits = f"val_acc {accuracy}, val_bpd {bpd}, {parameters} parameters"
    facts = {
        "formula": formula,
        "where, with one block per stage": where,
        "options": options,
        "first seen in": first_seen,
        "[measured here, on digits](reached.md#every-fusion-on-digits)": on_digits,
    }
    picture = f"![{name}: {where}]({FOLDER}/{name}.svg)"
    return lambda _: f"{picture}\n\n{table(('fact', f'`{name}`'), facts.items())}"


def _rows(page: Path) -> dict[str, list[str]]:
    """The rows that are about one fusion, by its name: of the page's first table that has them."""
    found: dict[str, list[str]] = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        first, *rest = cells(line) if line.startswith("| `") else [""]
        if first.strip("`") in FUSIONS:
            found.setdefault(first.strip("`"), rest)
    return found
