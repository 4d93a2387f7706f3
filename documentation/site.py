"""What mkdocs does besides (`hooks` in mkdocs.yml): pages from outside docs/, and no request to another host.

README.md is the site's first page. It, CONTRIBUTING.md and CHANGELOG.md stay where a reader of the repository looks for
them; their links, and those that lead to them, are written for the site when it is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""The pages that lie beside docs/, and what they are on the site."""

_LINK = re.compile(r"""(\]\(|<img src=")([^)\s#:"]+)((?:#[^)\s]*)?[)"])""")
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n", re.DOTALL | re.MULTILINE)
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//[^"']+|"""
    r"""<link\b(?![^>]*\brel=["']canonical)[^>]*\bhref=["'](?:https?:)?//[^"']+"""
)
_LOADED_BY_STYLE = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//[^"')\s]+""")


def for_the_site(text: str, *, outside: bool) -> str:
    """A page's text with its links as the site has them. `outside`: it lies beside docs/ and not in it."""

    def moved(link: re.Match[str]) -> str:
        target = link[2].removeprefix("../")
        if outside or link[2] != target:
            target = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{target}{link[3]}"

    return _LINK.sub(moved, text)


def loaded_from_elsewhere(folder: Path) -> list[str]:
    """What a page or a style sheet of the site would load from another host, each with its file."""
    found = []
    for pattern, kinds in ((_LOADED, ("*.html",)), (_LOADED_BY_STYLE, ("*.html", "*.css"))):
        for file in sorted(path for kind in kinds for path in folder.rglob(kind)):
            found += [f"{file.relative_to(folder)}: {each}" for each in pattern.findall(file.read_text("utf-8"))]
    return found


def with_drawing(text: str) -> str:
    """A page's text with the drawing of the layers in place of the diagram that a browser would have to draw."""
    return _DIAGRAM.sub("![The layers of the packages, from the top down](layers.svg)\n", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    top = Path(config.docs_dir).parent
    for name, page in OUTSIDE.items():
        text = for_the_site((top / name).read_text(encoding="utf-8"), outside=True)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_rest: object) -> str:
    """Lead links out of docs/ to where the site has the page."""
    return markdown if page.file.src_uri in OUTSIDE.values() else with_drawing(for_the_site(markdown, outside=False))


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that needs another host: it is read without a network, and tells nobody that it is."""
    from mkdocs.exceptions import PluginError

    if found := loaded_from_elsewhere(Path(config.site_dir)):
        raise PluginError("the site would load from other hosts:\n" + "\n".join(found))
