"""MkDocs' hooks for what lies outside of docs/: pages link to it as a forge wants it, and the site has it, too.

README.md becomes the home page. Of another file that a page links to, Markdown becomes a page, an image or JSON is
copied, and any other text becomes a page that shows it. A folder becomes the page of its README.md, or a list of its
files. If `repo_url` is set, links to texts and folders lead to the forge instead. MkDocs warns of a link to nothing,
and `--strict` makes that an error.
"""

from __future__ import annotations

import functools
import posixpath
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element  # nosec B405  # the type of what Markdown makes; nothing is parsed

import markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME = "README.md"
# In the navigation, whether a page links to them or not.
ALWAYS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
COPIED = (".png", ".svg", ".jpg", ".json", ".ipynb")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".pbtxt": "protobuf"}


class OutsideLinks(Extension):
    """Rewrites links to files outside of docs/ to the files of the site.

    Attributes:
        source: Path in the repository of the page that is rendered.
        site_uri: The page's path in the site's sources.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source = self.site_uri = ""
        self.repo_url: str | None = None

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802  # the base class names it
        # After the inline patterns, which make the links, and before MkDocs, which checks them.
        md.treeprocessors.register(_Rewriter(md, self), "outside_links", 5)


class _Rewriter(Treeprocessor):
    def __init__(self, md: markdown.Markdown, extension: OutsideLinks) -> None:
        super().__init__(md)
        self._extension = extension

    def run(self, root: Element) -> None:
        page = self._extension
        for element, attribute, link in links_of(root):
            target = target_of(page.source, link)
            # MkDocs warns of a link to nothing. Links of a page to itself are its headings.
            if target is None or target not in tracked():
                continue
            if page.repo_url and is_shown(target):
                address = f"{page.repo_url.rstrip('/')}/blob/HEAD/{target}"
            else:
                address = posixpath.relpath(site_uri_of(target), posixpath.dirname(page.site_uri))
            fragment = urllib.parse.urlsplit(link).fragment
            element.set(attribute, f"{address}#{fragment}" if fragment else address)
        # In a table, a forge takes `a\\|b` for a|b, in code, too.
        for cell in (cell for kind in ("td", "th") for cell in root.iter(kind)):
            for element in cell.iter("code"):
                element.text = AtomicString((element.text or "").replace("\\|", "|"))


def links_of(root: Element) -> Iterator[tuple[Element, str, str]]:
    """Yield the links and images of a page: the element, its attribute, and the address."""
    for element in root.iter():
        attribute = {"a": "href", "img": "src"}.get(element.tag)
        if attribute is not None and (link := element.get(attribute)):
            yield element, attribute, link


def target_of(source: str, link: str) -> str | None:
    """Return the path in the repository that a link of a file leads to; None for another host or the page itself."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), urllib.parse.unquote(parts.path)))


@functools.cache
def tracked() -> frozenset[str]:
    """Return the files and folders of the repository, without what git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    return frozenset(files | {str(folder) for name in files for folder in Path(name).parents})


def site_uri_of(path: str) -> str:
    """Return the path in the site's sources of a file or folder of the repository."""
    if path in (HOME, ".", "docs"):
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        readme = f"{path}/README.md"
        return f"repository/{readme if readme in tracked() else f'{path}/index.md'}"
    return f"repository/{path}" if path.endswith((".md", *COPIED)) else f"repository/{path}.md"


def is_shown(path: str) -> bool:
    """Whether the site has a text or a list of files in its place, which a forge shows better."""
    return not path.endswith((".md", *COPIED)) and not path.startswith("docs/") and path not in (".", "docs")


_links = OutsideLinks()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let Markdown rewrite the links."""
    _links.repo_url = config.repo_url
    tracked.cache_clear()
    config.markdown_extensions.append(_links)  # type: ignore[arg-type]  # Markdown takes objects, too
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what those pages link to."""
    sources = {f"docs/{file.src_uri}": file for file in files.documentation_pages()}
    waiting = [*sources, HOME, *ALWAYS]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if path not in sources:
            files.append(_added(path, config))
        if not path.endswith(".md"):
            continue
        for target in sorted(_targets(path, config)):
            readme = f"{target}/README.md"
            if readme in tracked():
                target = readme  # noqa: PLW2901
            if target not in seen and target in tracked() and site_uri_of(target).startswith("repository/"):
                seen.add(target)
                waiting.append(target)
    return files


def on_page_markdown(text: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Remember which page is rendered next."""
    _links.site_uri = page.file.src_uri
    _links.source = _source_of(page.file)
    return text


def _source_of(file: File) -> str:
    """Return the path in the repository of a page's source."""
    if file.src_uri == "index.md":
        return HOME
    within = file.src_uri.removeprefix("repository/")
    return within if within != file.src_uri else f"docs/{within}"


def _targets(path: str, config: MkDocsConfig) -> set[str]:
    """Return the paths in the repository that a Markdown file links to."""
    found: set[str] = set()

    class Collector(Treeprocessor):
        def run(self, root: Element) -> None:
            found.update(target for _, _, link in links_of(root) if (target := target_of(path, link)) is not None)

    reader = markdown.Markdown(extensions=["tables", "pymdownx.superfences"], extension_configs=config.mdx_configs)
    reader.treeprocessors.register(Collector(reader), "collector", 0)
    reader.convert((ROOT / path).read_text(encoding="utf-8"))
    return found


def _added(path: str, config: MkDocsConfig) -> File:
    """Return a file of the repository as one of the site."""
    uri, source = site_uri_of(path), ROOT / path
    if path.endswith((".md", *COPIED)):
        return File.generated(config, uri, abs_src_path=str(source))
    if source.is_dir():
        inside = sorted({name.removeprefix(f"{path}/").partition("/")[0] for name in tracked() if _lies_in(name, path)})
        rows = (f"- `{name}/`" if (source / name).is_dir() else f"- `{name}`" for name in inside)
        body = "This folder of the repository holds:\n\n" + "\n".join(rows)
    else:
        text = source.read_text(encoding="utf-8")
        body = f"~~~~~~ {LANGUAGES.get(source.suffix, 'text')}\n{text}\n~~~~~~"
    # The search is for the documentation.
    return File.generated(
        config, uri, content=f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{body}\n"
    )


def _lies_in(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/")
