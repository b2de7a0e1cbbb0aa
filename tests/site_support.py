"""The documentation as a site: builds of it, and what a page shows."""

from __future__ import annotations

import collections
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

_EMPTY = frozenset({"br", "hr", "img", "input", "link", "meta", "source", "use"})
# What the theme adds to an article.
_ADDED = frozenset({"headerlink", "md-source-file"})
_STRUCTURE = frozenset({"h1", "h2", "h3", "h4", "table", "tr", "pre", "ul", "ol", "li", "a", "img", "strong", "em"})


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as `make site` does. project: the folder of mkdocs.yml."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)


class Shown(HTMLParser):
    """The words of a page and how often it has each element that a reader notices.

    Args:
        html: The page, or a part of one.
        within: Element whose content counts; None takes all.
    """

    def __init__(self, html: str, within: str | None = None) -> None:
        super().__init__()
        self.elements: collections.Counter[str] = collections.Counter()
        self._texts: list[str] = []
        self._within, self._open = within, [within is None]
        self._tags: list[str] = []
        self.feed(html)

    @property
    def words(self) -> list[str]:
        """All words, whatever the white space between them."""
        return "".join(self._texts).split()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = set((dict(attrs).get("class") or "").split())
        shows = self._open[-1] or tag == self._within
        if classes & _ADDED or tag in {"button", "nav", "script", "style", "svg"}:
            shows = False
        if shows and tag in _STRUCTURE:
            self.elements[tag] += 1
        if tag in _EMPTY:
            self._texts.append(" ")
            return
        if tag in {"p", "li", "td", "th", "pre", "h1", "h2", "h3", "h4"}:
            self._texts.append(" ")
        self._tags.append(tag)
        self._open.append(shows)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._tags:
            self._open.pop()
            if self._tags.pop() == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._open[-1]:
            self._texts.append(data)
