"""The page in Debian's Chromium, as a user meets it."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from debian_tools import REQUIRED, tool
from jpeg_serve.ports import free_port
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    expect,
    sync_playwright,
)
from support import encode, photo
from web_command import wait_until

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]

PHOTOS = ("chelsea", "china", "coffee", "grace_hopper")
ANSWERED_WITHIN_MS = 30_000

Photo = tuple[str, bytes]
"""File name and content."""

# Chromium reports every failed request, also those that the page handles.
_HANDLED = re.compile(r"^Failed to load resource: (net::|the server responded with a status of (400|401|503))")

_COPY_IMAGE = """async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium."""
    path = tool("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open the page in a fresh profile; assert at the end that it reported no error and kept its security policy.

    Args:
        browser: Chromium.
        url: Address of the application.
        options: Of Playwright's `new_context`.
    """
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    problems = watched_problems(page)
    page.goto(url)
    try:
        yield page
        assert problems == []
    finally:
        context.close()


def watched_problems(page: Page) -> list[str]:
    """Collect errors and warnings of the console, which include violations of the policy, and uncaught exceptions."""
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _HANDLED.match(message.text):
            problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    return problems


def new_tab(context: BrowserContext, url: str) -> Page:
    """Open the page again, with what the browser remembers."""
    page = context.new_page()
    page.goto(url)
    return page


def payload(photo: Photo) -> FilePayload:
    """Return a file as Playwright's file dialog takes it."""
    name, content = photo
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


def choose(page: Page, *photos: Photo) -> None:
    """Pick files in the file dialog of the page."""
    page.locator("#files").set_input_files([payload(each) for each in photos])


@contextmanager
def dragged(page: Page, *paths: Path) -> Iterator[None]:
    """Drag files and folders from the desktop over the page; drop them at the end."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}

    def drag(kind: str) -> None:
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})

    drag("dragEnter")
    drag("dragOver")
    yield
    drag("drop")
    session.detach()


def paste(page: Page, image: Image.Image) -> None:
    """Copy an image as other programs do, and press Ctrl-V on the page."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(_COPY_IMAGE, base64.b64encode(stream.getvalue()).decode())
    page.keyboard.press("Control+V")


def jpeg(name: str) -> Photo:
    """Return a photo in photos/."""
    return f"{name}.jpg", photo(name)


def truncated() -> Photo:
    """Return a photo of which the end is missing."""
    return "truncated.jpg", photo("china")[:40_000]


def small_photos(count: int) -> list[Photo]:
    """Return small images, with the names 0.jpg and so on."""
    content = encode(Image.open(io.BytesIO(photo("coffee"))).resize((64, 64)))
    return [(f"{number}.jpg", content) for number in range(count)]


def card(page: Page, name: str) -> Locator:
    """Return the card of a file."""
    return page.locator(".card", has=page.get_by_role("heading", name=name, exact=True))


def expect_states(page: Page, **counts: int) -> None:
    """Wait until as many cards are in each state: `expect_states(page, done=3, failed=1)`."""
    for state, count in counts.items():
        expect(page.locator(f".card[data-state={state}]")).to_have_count(count, timeout=ANSWERED_WITHIN_MS)


def labels(shown: Locator) -> list[str]:
    """Return the labels on a card, best first."""
    return shown.locator(".labels .label").all_inner_texts()


def tab_to(page: Page, target: Locator, *, most: int = 60) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(most):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{most} times Tab do not reach {target}")


def axe_violations(page: Page) -> Sequence[str]:
    """Return the accessibility rules that the page violates, with the elements."""
    if not AXE.exists():
        reason = "needs axe-core: npm ci --prefix tests/web"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{reason}, and {REQUIRED} is 1")
        pytest.skip(reason)
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE.read_text())
    found = page.evaluate("tags => axe.run(document, { runOnly: tags })", AXE_TAGS)
    return [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]


@contextmanager
def key_required(url: str, key: str, folder: Path) -> Iterator[str]:
    """Serve the application below /jpeg/ of nginx, which requires an API key for all but the page and its files.

    Args:
        url: Address of the application.
        key: The API key.
        folder: For what nginx writes.
    """
    port = free_port("127.0.0.1")
    (folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log stderr; events {{ }}
http {{
  access_log off; client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /jpeg/ {{ proxy_pass {url}/; }}
    location ~ ^/jpeg/(classify|models|stats)$ {{
      if ($http_authorization != "Bearer {key}") {{ return 401; }}
      proxy_pass {url}/$1$is_args$args;
    }}
  }}
}}
""")
    command = [tool("nginx", "nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip() == str(process.pid))
            yield f"http://127.0.0.1:{port}/jpeg/"
        finally:
            process.send_signal(signal.SIGTERM)
