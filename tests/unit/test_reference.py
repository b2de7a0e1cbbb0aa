"""docs/reference is what the code says, every reason code has an entry, and docs/errors.md quotes what can be read."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from jpeg_contract.reason_codes import GROUPS, all_codes
from reference import raised as scan
from reference.pages import FOLDER, PAGES
from reference.raised import ELLIPSIS, PutTogetherError, raised
from support import ROOT

ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

# Messages of others, which stand neither in this project nor in the embedded Triton.
FOREIGN = {
    "Address already in use",
    "Serialized Engine Version: …",
    "The engine plan file is generated on an incompatible device",
    'could not select device driver "" with capabilities: [[gpu]]',
    "No space left on device",
    "Read-only file system",
    "Connection refused",
    "failed to connect to all addresses",
    "certificate verify failed",
    "StatusCode.UNIMPLEMENTED",
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_the_one_that_the_code_makes(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run make reference"


def test_no_page_is_left_over():
    assert {file.name for file in FOLDER.iterdir()} == set(PAGES)


def test_every_code_has_a_meaning_and_a_remedy_and_no_other_has():
    assert set(all_codes()) == {each.code for each in raised()}
    assert all(entry.meaning and entry.remedy for entry in all_codes().values())


def test_no_code_has_two_entries():
    assert sum(map(len, GROUPS.values())) == len(all_codes())


@pytest.mark.parametrize(
    ("code", "room", "place"),
    [
        pytest.param("port_taken", "jpeg_serve", "serve/jpeg_serve/errors.py", id="attribute of a class"),
        pytest.param("wrong_checksum", "jpeg_client", "client/jpeg_client/responses.py", id="argument by name"),
        pytest.param("empty", "jpeg_preprocess", "preprocess/jpeg_preprocess/decode.py", id="argument by place"),
        pytest.param("results_busy", "jpeg_build", "build/jpeg_build/evaluate/evaluation.py", id="argument of a kind"),
        pytest.param("neighbours", "jpeg_build", "build/jpeg_build/checks/parity.py", id="variable"),
        pytest.param("trial_load_failed", "jpeg_serve", "serve/jpeg_serve/trial.py", id="constant"),
        pytest.param("queue_full", "jpeg_runtime", "runtime/jpeg_runtime/worker.py", id="end of a message"),
        pytest.param("stalled", "jpeg_runtime", "runtime/jpeg_runtime/stall_guard.py", id="end of an f-string"),
        pytest.param("tls_required", "gateway", "deploy/gateway/nginx.conf.template", id="gateway"),
        pytest.param("path_too_long", "gateway", "deploy/gateway/nginx.conf.template", id="gateway of the page"),
        pytest.param("invalid_concurrency", "jpeg_client", "client/jpeg_client/streams.py", id="put together"),
    ],
)
def test_codes_are_found_wherever_they_stand(code, room, place):
    assert (code, room, place) in {(each.code, each.room, each.place) for each in raised()}


def test_a_search_in_the_text_finds_no_code_without_an_entry():
    """Independent of the scan of the syntax tree."""
    files = [file for _, file in scan.sources()]
    found = {
        code for file in files for code in re.findall(r'\breason(?:: str)? ?= ?"([a-z_]+)"', file.read_text("utf-8"))
    }
    assert len(found) > 200
    assert found <= set(all_codes())


def test_a_code_that_is_put_together_is_refused(monkeypatch):
    monkeypatch.setattr(scan, "PUT_TOGETHER", {})
    with pytest.raises(PutTogetherError, match="write it as a literal"):
        raised.__wrapped__()


def quoted() -> list[str]:
    return re.findall(r"^### `(.+)`$", ERRORS, re.MULTILINE)


def of_triton() -> bytes:
    """The programs of the embedded Triton."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    files = [
        *package.glob("tritonserver/bin/tritonserver"),
        *package.glob("tritonserver/backends/python/*.so"),
        *package.glob(f"tritonserver/python_backend_stubs/3.{sys.version_info.minor}/*"),
        *package.parent.glob("nvidia_pytriton.libs/libtritonserver*"),
    ]
    assert len(files) == 4
    return b"".join(file.read_bytes() for file in files)


def test_quoted_messages_can_be_read_somewhere():
    ours = "\n".join(each.message for each in raised())
    ours += "".join((ROOT / name).read_text(encoding="utf-8") for name in scan.GATEWAY)
    ours += "".join(file.read_text(encoding="utf-8") for _, file in scan.sources())
    triton = of_triton()
    assert len(quoted()) > 25
    parts = {part for message in set(quoted()) - FOREIGN for part in message.split(ELLIPSIS)}
    assert [part for part in parts if part not in ours and part.encode() not in triton] == []


def test_messages_of_others_are_quoted():
    assert set(quoted()) >= FOREIGN


def test_codes_in_the_page_of_errors_exist():
    codes = re.findall(r"`\[([a-z_]+)\]`", ERRORS)
    assert len(codes) > 20
    assert set(codes) <= set(all_codes())
