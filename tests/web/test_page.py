"""The page, in a real browser, in front of the real application and server."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from jpeg_client import Client
from jpeg_contract.image_errors import Reason
from jpeg_contract.tensors import ENSEMBLE
from jpeg_serve import ServerOptions, TritonServer
from jpeg_serve.ports import free_port
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page, Route, expect
from support import PHOTOS as PHOTOS_FOLDER
from support import edit, encode, photo
from web.page_support import (
    ANSWERED_WITHIN_MS,
    PHOTOS,
    axe_violations,
    card,
    choose,
    chromium,
    dragged,
    expect_states,
    jpeg,
    key_required,
    labels,
    new_tab,
    opened_page,
    paste,
    payload,
    small_photos,
    tab_to,
    truncated,
)
from web_command import SupervisedServer, web_command

NARROW = {"width": 360, "height": 740}
SECOND = "second_classifier"


# Not for the session: Playwright's event loop would forbid other tests theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, web_url: str) -> Iterator[Page]:
    with opened_page(browser, web_url) as page:
        yield page


@pytest.fixture(scope="module")
def truth(server: SupervisedServer) -> Callable[[bytes], list[str]]:
    """The labels that the server returns without the application."""

    def classify(image: bytes) -> list[str]:
        with Client(f"grpc://{server.grpc_address}") as client:
            return list(client.classify(image).labels)

    return classify


# Photos


def test_dropped_photos_get_the_labels_of_the_server(page: Page, truth: Callable[[bytes], list[str]]) -> None:
    with dragged(page, *(PHOTOS_FOLDER / f"{name}.jpg" for name in PHOTOS)):
        expect(page.locator("#drop-target")).to_be_visible()
    expect_states(page, done=len(PHOTOS))
    for name in PHOTOS:
        assert labels(card(page, f"{name}.jpg")) == truth(photo(name))
    expect(page.locator("#drop-target")).to_be_hidden()


def test_a_broken_photo_fails_alone(page: Page) -> None:
    choose(page, jpeg("coffee"), truncated(), ("text.jpg", b"no image at all"), jpeg("chelsea"))
    expect_states(page, done=2, failed=2)
    expect(card(page, "truncated.jpg").locator(".technical")).to_have_text("truncated")
    expect(card(page, "text.jpg").locator(".technical")).to_have_text("not_jpeg")
    expect(card(page, "text.jpg").locator(".remedy")).not_to_be_empty()
    expect(page.locator("#progress-text")).to_contain_text("2 failed")
    page.locator("#only-failed").click()
    expect(page.locator(".card:visible")).to_have_count(2)


def test_every_reason_of_the_contract_is_described(page: Page) -> None:
    described = page.evaluate(
        """async (reasons) => {
          const { describe } = await import(new URL("static/reasons.js", document.baseURI));
          return reasons.filter((reason) => describe({ reason, message: "" }).what);
        }""",
        get_args(Reason),
    )
    assert described == list(get_args(Reason))


def test_a_pasted_image_becomes_a_jpeg(page: Page) -> None:
    paste(page, Image.open(io.BytesIO(photo("coffee"))))
    expect_states(page, done=1)
    assert labels(page.locator(".card"))[0] == "espresso"
    expect(page.locator(".card .meta")).to_contain_text("converted to JPEG")


def test_a_folder_brings_its_photos(page: Page, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "coffee.jpg").write_bytes(photo("coffee"))
    (tmp_path / "notes.txt").write_text("no photo")
    page.locator("#folder").set_input_files(tmp_path)
    expect_states(page, done=1)
    with dragged(page, tmp_path):
        pass
    expect_states(page, done=2)
    expect(card(page, "coffee.jpg")).to_have_count(2)


def test_details_show_class_indices_and_times(page: Page) -> None:
    choose(page, jpeg("coffee"))
    expect_states(page, done=1)
    expect(page.locator(".indices")).to_be_hidden()
    page.locator("summary").click()
    expect(page.locator(".indices tbody tr").first).to_have_text("espresso967")
    expect(page.locator(".times dt")).to_have_count(4)


def test_the_thumbnail_is_upright_and_small(page: Page) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn by 90 degrees: lies on its side in the file
    choose(page, ("turned.jpg", encode(Image.new("RGB", (3000, 2000), "teal"), exif=exif.tobytes())))
    image = page.locator(".card img")
    expect(image).to_be_visible()
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 480]


# Many photos


def test_many_photos_are_sent_four_at_a_time_and_can_be_cancelled(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/classify*", hold)
    choose(page, *small_photos(100))
    expect_states(page, sending=4, waiting=96)
    page.locator("#cancel").click()
    expect_states(page, cancelled=100)
    assert len(held) == 4

    page.unroute("**/classify*")
    page.locator("#retry").click()
    expect_states(page, done=100)
    expect(page.locator("#progress-text")).to_contain_text("100 photos")
    expect(page.locator("#progress-text")).to_contain_text("images/s")
    expect(page.locator("#announcements")).to_contain_text("100 photos labelled")
    page.locator("#clear").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


def test_results_as_json_and_csv(page: Page, truth: Callable[[bytes], list[str]]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, jpeg("coffee"), truncated())
    expect_states(page, done=1, failed=1)

    def downloaded(kind: str) -> str:
        page.locator("#format").select_option(kind)
        with page.expect_download() as download:
            page.locator("#download").click()
        assert download.value.suggested_filename == f"labels.{kind}"
        return download.value.path().read_bytes().decode()

    good, bad = json.loads(downloaded("json"))
    assert [each["label"] for each in good["predictions"]] == truth(photo("coffee"))
    assert bad["error"]["reason"] == "truncated"
    *rows, last = csv.DictReader(io.StringIO(downloaded("csv")))
    assert [row["label"] for row in rows] == truth(photo("coffee"))
    assert (last["name"], last["error"]) == ("truncated.jpg", "truncated")

    page.locator("#format").select_option("json")
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == [good, bad]


# Settings


def test_fewer_labels_are_remembered_and_classified_again(page: Page, web_url: str) -> None:
    choose(page, jpeg("coffee"))
    expect_states(page, done=1)
    assert len(labels(page.locator(".card"))) == 5
    page.locator("#k").fill("2")
    page.locator("#again").click()
    expect(page.locator(".card .label")).to_have_count(2)
    expect(page.locator("#again")).to_be_hidden()
    expect(page.locator("#curl")).to_contain_text("k=2")
    expect(new_tab(page.context, web_url).locator("#k")).to_have_value("2")


def test_a_least_score_leaves_labels_out(page: Page, web_url: str) -> None:
    page.locator("#threshold").fill("0.9")
    choose(page, jpeg("coffee"), jpeg("chelsea"))
    expect_states(page, done=2)
    assert labels(card(page, "coffee.jpg")) == ["espresso"]
    expect(card(page, "coffee.jpg").locator(".none")).to_be_hidden()
    assert labels(card(page, "chelsea.jpg")) == []
    expect(card(page, "chelsea.jpg").locator(".none")).to_be_visible()
    expect(page.locator("#curl")).to_contain_text("threshold=0.9")
    with page.expect_download() as saved:
        page.locator("#format").select_option("csv")
        page.locator("#download").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [(row["name"], row["label"], row["error"]) for row in rows] == [
        ("coffee.jpg", "espresso", ""),
        ("chelsea.jpg", "", ""),
    ]
    page.locator("#threshold").fill("")
    page.locator("#again").click()
    expect(page.locator(".card .label")).to_have_count(10)
    page.locator("#threshold").fill("7")
    page.locator("#threshold").press("Tab")
    expect(new_tab(page.context, web_url).locator("#threshold")).to_have_value("1")


def test_an_impossible_number_of_labels_becomes_a_possible_one(page: Page) -> None:
    expect(page.locator("#model-details")).to_contain_text("1000 classes")
    for typed, taken in [("", "5"), ("2.6", "3"), ("99999", "1000"), ("0", "1")]:
        page.locator("#k").fill(typed)
        page.locator("#k").press("Tab")
        expect(page.locator("#k")).to_have_value(taken)


def test_scaling_down_sends_fewer_bytes_and_keeps_the_label(page: Page, truth: Callable[[bytes], list[str]]) -> None:
    large = (
        ImageOps.mirror(Image.open(io.BytesIO(photo("coffee"))))
        .resize((3600, 2400))
        .transpose(Image.Transpose.ROTATE_90)
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    name, content = "large.jpg", encode(large, exif=exif.tobytes())

    def sent_bytes() -> int:
        with page.expect_request_finished(lambda request: "/classify" in request.url) as finished:
            choose(page, (name, content))
        return int(finished.value.all_headers()["content-length"])

    page.locator("#scale").check()
    assert sent_bytes() < len(content) / 4
    expect_states(page, done=1)
    assert labels(page.locator(".card"))[0] == truth(content)[0] == "espresso"
    expect(page.locator(".card .meta")).to_contain_text("scaled down")
    expect(page.locator("#scale-details")).to_contain_text("instead of")
    page.locator("#scale").uncheck()
    assert sent_bytes() == len(content)


# Server


def test_the_strip_shows_the_load_of_the_server(page: Page) -> None:
    choose(page, jpeg("coffee"))
    expect(page.get_by_role("region", name="Load of the server")).to_be_visible(timeout=ANSWERED_WITHIN_MS)
    expect(page.locator("#throughput-curve")).to_have_attribute("aria-label", re.compile(r"now \d"))


def test_photos_wait_for_a_browser_that_is_offline(page: Page) -> None:
    page.context.set_offline(True)
    choose(page, *(jpeg(name) for name in PHOTOS))
    expect(page.locator("#connection")).to_be_visible()
    expect_states(page, waiting=len(PHOTOS))
    page.context.set_offline(False)
    expect_states(page, done=len(PHOTOS))
    expect(page.locator("#connection")).to_be_hidden()


class LateServer:
    """A tritonserver with two ensembles that starts after the application."""

    def __init__(self, repository: Path, log: Path) -> None:
        self.port = free_port("127.0.0.1")
        self._options = ServerOptions(model_repository=repository, http_port=0, grpc_port=self.port, metrics_port=0)
        self._log = log
        self._running = ExitStack()

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self._log.exists():
            return
        sink = self._running.enter_context(self._log.open("wb"))
        self._running.enter_context(TritonServer(self._options, log=sink))

    def stop(self) -> None:
        """Stop the server."""
        self._running.close()


@pytest.fixture(scope="module")
def late_server(built_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateServer]:
    folder = tmp_path_factory.mktemp("late")
    repository = folder / "model_repository"
    shutil.copytree(built_repository, repository)
    shutil.copytree(repository / ENSEMBLE, repository / SECOND)
    edit(repository / SECOND / "config.pbtxt", f'name: "{ENSEMBLE}"', f'name: "{SECOND}"')
    server = LateServer(repository, folder / "triton.log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def late_url(late_server: LateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application in front of the late server."""
    log = tmp_path_factory.mktemp("late-web") / "web.log"
    url = f"grpc://127.0.0.1:{late_server.port}"
    with web_command(log, "--url", url, "--metrics-url", "", "--model", ENSEMBLE, "--model", SECOND) as web:
        yield web.url


def test_photos_wait_for_a_server_that_starts_later(browser: Browser, late_url: str, late_server: LateServer) -> None:
    with opened_page(browser, late_url) as page:
        choose(page, *(jpeg(name) for name in PHOTOS))
        expect(page.locator("#connection-details")).to_contain_text("4 photos")
        expect(page.locator("#announcements")).to_contain_text("does not answer")
        assert axe_violations(page) == []
        late_server.start()
        expect_states(page, done=len(PHOTOS))
        expect(page.locator("#connection")).to_be_hidden()


def test_the_chosen_model_classifies_and_is_remembered(
    browser: Browser, late_url: str, late_server: LateServer
) -> None:
    late_server.start()
    with opened_page(browser, late_url) as page:
        page.locator("#model").select_option(SECOND)
        again = new_tab(page.context, late_url)
        expect(again.locator("#model-details")).to_contain_text("classes")
        expect(again.locator("#model")).to_have_value(SECOND)
        with again.expect_response("**/classify*") as answer:
            choose(again, jpeg("coffee"))
        assert answer.value.json()["model"]["name"] == SECOND


def test_a_gateway_below_a_path_requires_an_api_key_once(browser: Browser, web_url: str, tmp_path: Path) -> None:
    with key_required(web_url, "right", tmp_path) as url, opened_page(browser, url) as page:
        expect(page.locator("#key-form")).to_be_visible()
        assert axe_violations(page) == []
        choose(page, jpeg("coffee"))
        page.locator("#key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-title")).to_contain_text("does not accept")
        page.locator("#key").fill("right")
        page.keyboard.press("Enter")
        expect_states(page, done=1)
        expect(page.locator("#key-form")).to_be_hidden()
        assert page.evaluate("localStorage.getItem('jpeg-web.api-key')") is None


# Everyone


def test_the_keyboard_reaches_everything(page: Page) -> None:
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        tab_to(page, page.locator("#choose"))  # by then the browser leaves the file dialog to the test
        assert page.locator("#choose").evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
        page.keyboard.press("Enter")
    chooser.value.set_files([payload(jpeg("coffee"))])
    expect_states(page, done=1)
    tab_to(page, page.locator("#k"))
    page.keyboard.press("ArrowDown")
    tab_to(page, page.locator("#again"))
    page.keyboard.press("Enter")
    expect(page.locator(".card .label")).to_have_count(4)
    tab_to(page, page.locator("summary"))
    page.keyboard.press("Enter")
    expect(page.locator(".indices")).to_be_visible()
    tab_to(page, page.locator("#choose"))  # behind the last element the first one follows: no trap
    tab_to(page, page.locator("#clear"))
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)


def test_screen_readers_hear_of_one_photo_what_it_shows(page: Page) -> None:
    choose(page, jpeg("coffee"))
    expect(page.get_by_role("status")).to_contain_text("coffee.jpg: espresso")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_accessibility_rules(browser: Browser, web_url: str, colours: Any) -> None:
    with opened_page(browser, web_url, color_scheme=colours) as page:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(value) for value in re.findall(r"\d+", paper)) < 3 * 128) == (colours == "dark")
        expect(page.locator("#live")).to_be_visible()
        assert axe_violations(page) == []
        choose(page, jpeg("coffee"), truncated())
        expect_states(page, done=1, failed=1)
        page.locator("summary").click()
        assert axe_violations(page) == []


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, web_url: str) -> None:
    with opened_page(browser, web_url, viewport=NARROW, has_touch=True, is_mobile=True) as page:
        expect(page.locator("#camera")).to_be_visible()

        def overflow() -> int:
            return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))

        assert overflow() == 0
        choose(page, jpeg("coffee"), truncated(), (f"{'long' * 40}.jpg", photo("coffee")))
        expect_states(page, done=2, failed=1)
        page.locator("summary").first.click()
        assert overflow() == 0
