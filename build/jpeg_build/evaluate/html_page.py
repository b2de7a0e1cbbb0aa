"""A report as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from jpeg_build.evaluate.document import Block, Bullets, Photos, Section, Table, Text
from jpeg_build.evaluate.results import Disagreement

# Up to this many characters, a cell is one line.
_SHORT = 30

# Nothing is loaded and nothing runs, whatever a name of a file or a label holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """\
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --line: #c8ccd2; --soft: #f2f4f6; --good: #14632b;
  --bad: #a01818; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --paper: #15181b; --line: #454b52; --soft: #20252a;
  --good: #7ed697; --bad: #ff9a92; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 76rem; padding: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.3rem 0; }
th, td { border: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
tbody th { font-weight: 600; }
th[scope="row"], .short { white-space: nowrap; }
summary { font-size: 1.2rem; font-weight: 600; cursor: pointer; margin: 0.5rem 0; }
.photos { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
  gap: 1rem; }
.photos li { border: 1px solid var(--line); border-radius: 0.4rem; padding: 0.6rem; overflow-wrap: anywhere; }
.photos img { max-width: 100%; height: auto; display: block; margin-bottom: 0.4rem; }
.photos figure, .photos dl, .photos dd { margin: 0; }
.photos dt { font-weight: 600; margin-top: 0.4rem; }
.right { color: var(--good); }
.wrong { color: var(--bad); }
"""


def to_html(title: str, sections: Sequence[Section], thumbnails: Mapping[str, str]) -> str:
    """Return the page of a report.

    Args:
        title: Of the report.
        sections: Of the report.
        thumbnails: data: URL of each photo that has one, by its name.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{escape(title)}</h1>",
    ]
    for section in sections:
        lines += _section(section, thumbnails)
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _section(section: Section, thumbnails: Mapping[str, str]) -> Iterator[str]:
    heading = escape(section.title)
    yield "<section>"
    if section.folded:
        yield f"<details><summary>{heading}</summary>"
    else:
        yield f"<h2>{heading}</h2>"
    for block in section.blocks:
        yield from _block(block, thumbnails)
    if section.folded:
        yield "</details>"
    yield "</section>"


def _block(block: Block, thumbnails: Mapping[str, str]) -> Iterator[str]:
    match block:
        case Text(text):
            yield f"<p>{escape(text)}</p>"
        case Bullets(lines):
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            yield f"<ul>{items}</ul>"
        case Table(caption, head, rows):
            # A region that scrolls needs a name and the keyboard's focus.
            yield f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
            yield f"<caption>{escape(caption)}</caption>"
            columns = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
            yield f"<thead><tr>{columns}</tr></thead>"
            yield "<tbody>"
            for row in rows:
                cells = "".join(_cell(each) for each in row[1:])
                yield f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'
            yield "</tbody></table></div>"
        case Photos(photos):
            yield '<ul class="photos">'
            for photo in photos:
                yield f"<li>{_photo(photo, thumbnails.get(photo.photo))}</li>"
            yield "</ul>"


def _cell(text: str) -> str:
    kind = ' class="short"' if len(text) <= _SHORT else ""
    return f"<td{kind}>{escape(text)}</td>"


def _photo(photo: Disagreement, thumbnail: str | None) -> str:
    truth = escape(", ".join(photo.truth) or "no label")
    image = f'<img src="{escape(thumbnail)}" alt="{truth}: {escape(photo.photo)}">' if thumbnail is not None else ""
    terms = [f"<dt>{escape(photo.photo)}</dt><dd>truth: {truth}</dd>"]
    for group in photo.answers:
        verdict = "right" if group.right else "wrong"
        answer = escape(", ".join(group.labels) or "none")
        runs = escape(", ".join(group.runs))
        terms.append(f'<dt class="{verdict}">{answer} ({verdict}, {group.score:.2f})</dt><dd>{runs}</dd>')
    return f"<figure>{image}<figcaption><dl>{''.join(terms)}</dl></figcaption></figure>"
