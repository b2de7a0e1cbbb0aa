"""Whatever a client sends: no status of a server's fault, a reason code in each error, and no traceback in the log."""

from __future__ import annotations

import json
import socket
import urllib.parse

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import photo

EXAMPLES = 150
COFFEE = photo("coffee")

PATHS = st.one_of(
    st.sampled_from(
        ["/", "/classify", "/models", "/stats", "/health", "/docs", "/openapi.json", "/static/", "/static-docs/"]
    ),
    st.text(max_size=20).map(lambda text: f"/static/{text}"),
    st.text(max_size=20).map(lambda text: f"/{text}"),
    st.sampled_from(
        ["/static/../cli.py", "/static/%2e%2e/cli.py", "/static/%00", "/static/" + "a" * 5000, "//", "/%ff"]
    ),
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW"])
QUERIES = st.dictionaries(
    st.sampled_from(["k", "model", "timeout_s", "other"]),
    st.one_of(st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.just("9" * 5000)),
    max_size=3,
)
BOUNDARIES = st.sampled_from(["x", "", '"x', "é", "x" * 300, "x; boundary=y"])
CONTENT_TYPES = st.one_of(
    st.none(),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    BOUNDARIES.map(lambda boundary: f"multipart/form-data; boundary={boundary}"),
    st.sampled_from(
        [
            "multipart/form-data",
            "multipart/form-data; charset=no",
            "multipart/form-data; boundary=x; charset=hex",
            "multipart/mixed; boundary=x",
            "application/json",
        ]
    ),
)
PARTS = st.lists(
    st.sampled_from(
        [
            b"--x\r\n",
            b"--x--\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b'Content-Disposition: form-data; name="a"; filename="a.jpg"\r\n',
            b"Content-Disposition: form-data; name=a; filename*=utf-8''%ff\r\n",
            b"Content-Disposition: form-data\r\n",
            b"Content-Transfer-Encoding: base64\r\n",
            b"X: " + b"y" * 20_000 + b"\r\n",
            COFFEE[:500],
            b"\x00\xff",
        ]
    ),
    max_size=8,
).map(b"".join)
BODIES = st.one_of(
    st.binary(max_size=200),
    PARTS,
    st.builds(lambda at, value: COFFEE[:at] + value + COFFEE[at + 1 :], st.integers(2, 700), st.binary(max_size=2)),
)


@pytest.fixture(scope="module")
def connection(web_url):
    with httpx2.Client(base_url=web_url, timeout=60) as client:
        yield client


@settings(max_examples=EXAMPLES)
@given(path=PATHS, method=METHODS, query=QUERIES, content_type=CONTENT_TYPES, body=BODIES)
def test_odd_requests_get_a_reason(connection, path, method, query, content_type, body):
    target = (
        urllib.parse.quote(path, safe="/%", errors="replace") + "?" + urllib.parse.urlencode(query, errors="replace")
    )
    check(connection, method, target, content_type, body)


@settings(max_examples=EXAMPLES)
@given(query=QUERIES, content_type=CONTENT_TYPES, body=BODIES)
def test_odd_images_get_a_reason(connection, query, content_type, body):
    check(connection, "POST", "/classify?" + urllib.parse.urlencode(query, errors="replace"), content_type, body)


def check(client, method, target, content_type, body):
    headers = {} if content_type is None else {b"Content-Type": content_type.encode("latin-1").strip()}
    response = client.request(method, target, content=body, headers=headers)
    # The one exception: a time limit that is over before the server responds.
    assert response.status_code < 500 or "timeout_s=" in target, response.text
    if response.status_code >= 400 and method != "HEAD":
        answer = response.json()
        failures = [answer] if "error" in answer else answer["results"]
        assert failures
        assert all(failure["error"]["reason"] for failure in failures)


@settings(max_examples=EXAMPLES)
@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b"POST /classify HTTP/1.1",
                    b"GET http://other/ HTTP/1.1",
                    b"GET / HTTP/9.9",
                    b"Host: x",
                    b"Host:",
                    b"Content-Length: 5",
                    b"Content-Length: -1",
                    b"Content-Length: 5, 6",
                    b"Transfer-Encoding: chunked",
                    b"Transfer-Encoding: gzip",
                    b"Expect: 100-continue",
                    b"Upgrade: websocket",
                    b"Connection: Upgrade",
                    b"Content-Type: multipart/form-data; boundary=x",
                    b"",
                    b"zz",
                    b"5",
                    b"abcde",
                ]
            ),
            st.binary(max_size=30),
        ),
        max_size=10,
    )
)
def test_odd_bytes_end_no_application(web_url, lines):
    parts = urllib.parse.urlsplit(web_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    if answer:
        status = answer.split(b" ", 2)[1]
        assert status.startswith((b"1", b"2", b"3", b"4")), answer


def test_after_all_that_it_classifies_and_its_log_has_no_traceback(connection, web):
    response = connection.post("/classify?k=1", content=COFFEE)
    assert json.loads(response.text)["results"][0]["predictions"][0]["label"] == "espresso"
    assert "Traceback" not in web.log.read_text(errors="replace")
