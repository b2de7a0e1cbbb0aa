"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jpeg_build.evaluate.document import Block, Bullets, Photos, Section, Table, Text

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#&~])")


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the text of a report."""
    lines = [f"# {_escaped(title)}"]
    for section in sections:
        lines += ["", f"## {_escaped(section.title)}"]
        for block in section.blocks:
            lines += ["", *_lines(block)]
    return "\n".join(lines) + "\n"


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Text(text):
            yield _escaped(text)
        case Bullets(lines):
            yield from (f"- {_escaped(line)}" for line in lines)
        case Table(caption, head, rows):
            yield f"{_escaped(caption)}:"
            yield ""
            yield _row(head)
            yield "|" + " --- |" * len(head)
            yield from map(_row, rows)
        case Photos(photos):
            yield _row(("photo", "truth", "answers"))
            yield "| --- | --- | --- |"
            for photo in photos:
                answers = "; ".join(
                    f"{' + '.join(group.labels) or 'none'} ({', '.join(group.runs)})" for group in photo.answers
                )
                yield _row((photo.photo, " + ".join(photo.truth) or "none", answers))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    """Return a text as Markdown shows it: names of files and labels are no markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
