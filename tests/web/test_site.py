"""The documentation as a site: complete, without broken links, equal to what a forge shows, and read in Chromium."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect
from site_support import Shown, build
from support import ROOT
from web.page_support import chromium

SOURCES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md")),
]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def page_of(site: Path, source: str) -> Path:
    if source == "README.md":
        return site / "index.html"
    within = source.removeprefix("docs/") if source.startswith("docs/") else f"repository/{source}"
    return site / within.removesuffix(".md") / "index.html"


@pytest.mark.parametrize("source", SOURCES)
def test_each_page_shows_what_a_forge_shows(site, source):
    """Words, headings, lists, tables, code and links of CommonMark with tables."""
    forge = MarkdownIt("commonmark", {"html": True}).enable("table")
    expected = Shown(forge.render((ROOT / source).read_text(encoding="utf-8")))
    shown = Shown(page_of(site, source).read_text(encoding="utf-8"), within="article")
    assert shown.words == expected.words
    assert shown.elements == expected.elements


def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=\"?(?:https?:)?//"
        r"|<link\b[^>]*\brel=\"?(?:stylesheet|preload|preconnect|icon)\"?[^>]*\bhref=\"?(?:https?:)?//"
        r"|url\(\"?(?:https?:)?//|@import"
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 40
    assert [page for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []


def test_code_is_shown_and_is_not_in_the_search(site):
    code = (site / "repository/contract/jpeg_contract/tensors.py/index.html").read_text(encoding="utf-8")
    assert "ENSEMBLE" in code
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    assert '"reference/reason-codes/#port_taken"' in index
    assert "tensors.py/" not in index


PAGE = """# Page

[Guide](../README.md#guide), [code](../code.py), [folder](../folder), [other](other.md#part), ![picture](../picture.png)
"""
OTHER = "# Other\n\n## Part\n\n[Notes](../folder/notes.md)\n"
NAVIGATION = "nav: [index.md, page.md, other.md]\n\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with the configuration and the hooks of this one."""
    whole = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    configuration = re.sub(r"^nav:\n.*?^(?=#)", NAVIGATION, whole, count=1, flags=re.MULTILINE | re.DOTALL)
    assert NAVIGATION in configuration
    files = {
        "mkdocs.yml": configuration,
        "README.md": "# Home\n\n## Guide\n\n[Page](docs/page.md)\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "SECURITY.md": "# Security\n",
        "CHANGELOG.md": "# Changelog\n",
        "code.py": "answer = 42\n",
        "folder/notes.md": "# Notes\n\n[Code](../code.py)\n",
        "folder/data.txt": "data\n",
        "docs/page.md": PAGE,
        "docs/other.md": OTHER,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "docs/page.png", tmp_path / "picture.png")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/site_hooks.py", tmp_path / "scripts")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_links_to_files_outside_of_docs_lead_to_pages(project):
    built = build(project, project / "site")
    assert built.returncode == 0, built.stderr
    page = (project / "site/page/index.html").read_text(encoding="utf-8")
    for address in ("../#guide", "../repository/code.py/", "../repository/folder/", "../other/#part"):
        assert f'href="{address}"' in page
    assert 'src="../repository/picture.png"' in page
    assert "42" in (project / "site/repository/code.py/index.html").read_text(encoding="utf-8")
    assert "data.txt" in (project / "site/repository/folder/index.html").read_text(encoding="utf-8")
    notes = (project / "site/repository/folder/notes/index.html").read_text(encoding="utf-8")
    assert 'href="../../code.py/"' in notes


def test_links_to_code_lead_to_the_forge_if_there_is_one(project):
    configuration = project / "mkdocs.yml"
    text = configuration.read_text(encoding="utf-8")
    configuration.write_text(f"repo_url: https://forge.example/owner/name\n{text}", encoding="utf-8")
    built = build(project, project / "site")
    assert built.returncode == 0, built.stderr
    page = (project / "site/page/index.html").read_text(encoding="utf-8")
    assert 'href="https://forge.example/owner/name/blob/HEAD/code.py"' in page
    assert 'href="../#guide"' in page


BROKEN = [
    ("docs/page.md", "other.md#part", "gone-page.md"),
    ("docs/page.md", "../code.py", "../gone-code.py"),
    ("docs/page.md", "../folder", "../gone-folder"),
    ("docs/page.md", "../README.md#guide", "../README.md#gone-part"),
    ("docs/page.md", "../picture.png", "../gone-picture.png"),
    ("docs/other.md", "[Notes](../folder/notes.md)", "[Notes](../folder/notes.md) [here](#gone-here)"),
    ("folder/notes.md", "../code.py", "../gone-from-outside.py"),
    ("README.md", "docs/page.md", "docs/gone-from-home.md"),
    ("mkdocs.yml", "page.md, other.md]", "page.md, gone-place.md]"),
]


def replace(project: Path, file: str, before: str, after: str) -> None:
    text = (project / file).read_text(encoding="utf-8")
    assert before in text
    (project / file).write_text(text.replace(before, after, 1), encoding="utf-8")


def test_a_broken_link_fails_the_build(project):
    """One is enough; and each of many is named, with those of pages outside of docs/."""
    replace(project, *BROKEN[1])
    built = build(project, project / "site")
    assert built.returncode != 0
    assert len(re.findall(r"^WARNING", built.stderr, re.MULTILINE)) == 1
    for fault in [BROKEN[0], *BROKEN[2:]]:
        replace(project, *fault)
    built = build(project, project / "site")
    assert built.returncode != 0
    named = set(re.findall(r"gone-[a-z-]+", built.stderr))
    assert named == {re.findall(r"gone-[a-z-]+", after)[0] for _, _, after in BROKEN}
    # The page that has lost its place in the navigation.
    assert re.search(r"WARNING .*not included in the \"nav\".*\n\s+- other\.md", built.stderr)


def test_make_site_makes_warnings_errors():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^site:.*\n\t@(.+)$", makefile, re.MULTILINE)
    assert command.endswith("mkdocs build --strict")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a server of this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(10)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        pass


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A tab; afterwards, it must have had no error and no request to another host."""
    page = browser.new_page()
    errors: list[str] = []
    requested: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    def on_request(request: Request) -> None:
        requested.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", on_request)
    page.goto(f"{address}/")
    yield page
    page.close()
    assert errors == []
    assert requested
    assert [url for url in requested if not url.startswith((f"{address}/", "data:", "blob:"))] == []


@pytest.mark.parametrize(
    ("words", "page", "heading"),
    [
        ("port_taken", "reference/reason-codes/", "port_taken"),
        ("broken base64", "reference/reason-codes/", "invalid_base64"),
        ("Exceeds maximum queue size", "errors/", "exceeds-maximum-queue-size"),
        ("Serialized Engine Version", "errors/", "serialized-engine-version-"),
        ("letterbox", "preprocessing/", "decoding-on-a-gpu"),
        ("jpeg_images_rejected_total", "reference/metrics/", "of-the-models"),
    ],
)
def test_the_search_finds_a_place_by_its_words(opened, words, page, heading):
    opened.get_by_role("textbox", name="Search").press_sequentially(words)
    # The theme adds the words to the address, to mark them in the page.
    found = opened.locator(f'.md-search-result__link[href*="{page}?h="][href$="{heading}"]').first
    expect(found).to_be_attached(timeout=30_000)


@pytest.mark.parametrize(
    "path", ["", "serving/", "reference/reason-codes/", "repository/CONTRIBUTING/", "explanation/"]
)
def test_pages_open_without_an_error(opened, address, path):
    opened.goto(f"{address}/{path}", wait_until="networkidle")
    expect(opened.get_by_role("heading", level=1)).to_be_visible()
    broken = "images => images.filter(image => !image.complete || image.naturalWidth === 0).map(image => image.src)"
    assert opened.locator("article img").evaluate_all(broken) == []


def test_a_code_of_a_message_opens_its_entry(opened, address):
    opened.goto(f"{address}/reference/reason-codes/#wrong_label")
    expect(opened.locator("#wrong_label")).to_be_in_viewport()
