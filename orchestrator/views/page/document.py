"""The whole page: its sections from the results, and its HTML from the sections."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources

import jinja2
from plotly.offline import get_plotlyjs

from orchestrator.records.provenance import moment
from orchestrator.views.page import answer, classification, curves, images, palette, search, trials
from orchestrator.views.page.blocks import Block, Section
from orchestrator.views.page.shown import Shown
from orchestrator.views.page.subject import Subject

_SECTIONS: tuple[tuple[str, str, Callable[[Subject], list[Block]]], ...] = (
    ("answer", "", answer.first_screen),
    ("running", "Running now", trials.running),
    ("fusion", "By fusion", search.by_fusion),
    ("settings", "By setting", search.by_setting),
    ("progress", "Progress of the search", search.progress),
    ("curves", "Learning curves", curves.learning),
    ("fid", "Accuracy and FID", search.trade_off),
    ("images", "Images", images.drawn),
    ("classification", "Confusion and calibration", classification.classification),
    ("evidence", "Where the evidence lies", classification.evidence),
    ("health", "Health of the networks", curves.health),
    ("failures", "Failures", trials.failures),
    ("trials", "All trials", trials.everything),
)

RUNNING = "running"
"""The section that only a page has that is live, or whose trials run."""


def sections(subject: Subject, *, live: bool = False) -> list[Section]:
    """Everything that is shown."""
    shown = live or any(entry.meaning.runs for entry in subject.entries)
    return [Section(id, title, make(subject)) for id, title, make in _SECTIONS if shown or id != RUNNING]  # noqa: A001


def title(subject: Subject) -> str:
    """The names of the sweeps."""
    return ", ".join(store.folder.name for store in subject.selected.stores)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.views.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["for_script"] = _for_script
    return environment


def _for_script(text: str) -> str:
    """JSON that may stand in a script element: nothing in it ends the element."""
    return text.replace("<", "\\u003c")


def section_html(section: Section, *, live: bool) -> str:
    """The inside of one section."""
    return _environment().get_template("section.html.jinja").render(section=section, live=live)


def html(heading: str, made: Sequence[Section]) -> str:
    """The page as a file: plotly's code is in it."""
    inner = {section.id: section_html(section, live=False) for section in made}
    return _rendered(heading, made, inner, compressed=_compressed_plotly())


def live_html(shown: Shown, *, token: str, nonce: str) -> str:
    """The page as a server gives it; only it knows the token by which something is changed."""
    return _rendered(
        shown.title,
        shown.sections,
        shown.inner,
        digests=shown.digests,
        state=shown.sentence,
        live=token,
        nonce=nonce,
        plotly="/plotly.js",
    )


def _rendered(heading: str, made: Sequence[Section], inner: Mapping[str, str], **more: object) -> str:
    given = {"digests": {}, "state": "", "live": "", "nonce": "", "plotly": "", "compressed": ""} | more
    return _environment().get_template("page.html.jinja").render(
        title=heading,
        sections=made,
        inner=inner,
        written=f"{moment():%d %B %Y, %H:%M} UTC",
        themes=palette.THEMES,
        colors=(palette.AGAINST, palette.FOR),
        style=_part("style.css"),
        script=_part("page.js"),
        **given,
    )  # fmt: skip


@cache
def _part(name: str) -> str:
    return (resources.files("orchestrator.views.page") / "templates" / name).read_text(encoding="utf-8")


@cache
def plotly_code() -> bytes:
    """Plotly's code, compressed by gzip."""
    return gzip.compress(get_plotlyjs().encode(), mtime=0)


def _compressed_plotly() -> str:
    """Plotly's code, five megabytes of text, as one and a half that every browser since 2023 can unpack."""
    return base64.b64encode(plotly_code()).decode()
