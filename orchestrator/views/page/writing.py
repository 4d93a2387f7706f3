"""Writes the page as one file that needs neither network nor program."""

from __future__ import annotations

from pathlib import Path

from cpcnn_core.files import write_atomically
from orchestrator.choosing.decision import Decision
from orchestrator.choosing.selection import Selection
from orchestrator.records.store import StoreError
from orchestrator.views.page import document
from orchestrator.views.page.subject import read


def write(file: Path, selected: Selection, decision: Decision) -> None:
    """Write the page. A section without anything to show says so. Raise StoreError where it cannot be written."""
    subject = read(selected, decision.epochs.objective, decision)
    page = document.html(document.title(subject), document.sections(subject)).encode()
    try:
        write_atomically(file, lambda stream: stream.write(page))
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror}; --out FILE puts it elsewhere") from None
