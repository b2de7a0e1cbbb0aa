"""HTTP/1.1 with Triton's binary tensor extension.

tritonclient builds the requests and parses the responses, libcurl sends them. tritonclient's own HTTP client runs on
gevent, which ties it to one thread, and its older versions silently repeat a request whose connection is lost.
"""

from __future__ import annotations

import io
import json
import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import certifi
import pycurl
import tritonclient.http

from jpeg_client.address import Address
from jpeg_client.connections import ConnectionPool
from jpeg_client.credentials import Credentials
from jpeg_client.errors import JpegClientError, ProtocolMismatch, ServerUnavailable
from jpeg_client.responses import InferResult, unreadable
from jpeg_client.triton_transport import SyncTritonTransport

_HEADER_LENGTH = "inference-header-content-length"
_RETRY_AFTER = "retry-after"

_NOT_CONNECTED = frozenset({pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT})
_LOST = frozenset(
    {
        pycurl.E_GOT_NOTHING,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_RECV_ERROR,
        pycurl.E_SEND_ERROR,
        pycurl.E_SEND_FAIL_REWIND,  # see _Request
    }
)
# HTTP/0.9, or no status line.
_OTHER_PROTOCOL = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_FTP_WEIRD_SERVER_REPLY})


class HttpTransport(SyncTritonTransport[pycurl.Curl]):
    """HTTP/1.1, with one connection per concurrent request.

    Args:
        address: Address of the server.
        credentials: For it.
    """

    def __init__(self, address: Address, credentials: Credentials) -> None:
        pool = ConnectionPool(lambda: _open_handle(credentials), lambda handle: handle.close(), multiplexed=False)
        super().__init__(tritonclient.http, pool, address, credentials)

    def _send_inference(
        self, connection: pycurl.Curl, model: str, options: dict[str, Any], timeout_s: float
    ) -> InferResult:
        body, header_length = tritonclient.http.InferenceServerClient.generate_request_body(**options)
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(header_length)}
        response = self._send(connection, f"v2/models/{quote(model, safe='')}/infer", timeout_s, body, headers)
        length = response.headers.get(_HEADER_LENGTH)
        try:
            result: InferResult = tritonclient.http.InferenceServerClient.parse_response_body(
                response.body, header_length=None if length is None else int(length)
            )
        except Exception as error:  # whatever tritonclient's parser raises for damaged bytes
            raise unreadable(str(self._address), error) from error
        return result

    def _read_config(self, connection: pycurl.Curl, model: str, timeout_s: float) -> dict[str, Any]:
        return self._read_json(connection, f"v2/models/{quote(model, safe='')}/config", timeout_s)

    def _read_metadata(self, connection: pycurl.Curl, model: str | None, timeout_s: float) -> dict[str, Any]:
        return self._read_json(connection, "v2" if model is None else f"v2/models/{quote(model, safe='')}", timeout_s)

    def _read_json(self, connection: pycurl.Curl, path: str, timeout_s: float) -> dict[str, Any]:
        response = self._send(connection, path, timeout_s)
        try:
            return dict(json.loads(response.body))
        except (ValueError, TypeError) as error:
            raise unreadable(str(self._address), error) from error

    def _send(
        self,
        handle: pycurl.Curl,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> _Response:
        """Send a request, and return the response with status 200.

        Args:
            handle: The connection.
            path: Path without its first slash.
            timeout_s: Time limit in seconds for the whole exchange, from the name resolution to the last byte.
            body: None sends a GET request.
            headers: Headers beside the API key.
        """
        scheme = "https" if self._address.tls else "http"
        exchange = _Exchange(body)
        handle.setopt(pycurl.URL, f"{scheme}://{self._address.host_and_port}/{path}")
        handle.setopt(pycurl.TIMEOUT_MS, max(1, round(timeout_s * 1e3)))
        # "Expect:" without a value: the body is sent at once, without waiting for "100 Continue".
        sent_headers = {**self._headers, **(headers or {})}
        handle.setopt(pycurl.HTTPHEADER, ["Expect:", *(f"{name}: {value}" for name, value in sent_headers.items())])
        handle.setopt(pycurl.HEADERFUNCTION, exchange.receive_header)
        handle.setopt(pycurl.WRITEFUNCTION, exchange.received.write)
        if body is None:
            handle.setopt(pycurl.HTTPGET, 1)
        else:
            handle.setopt(pycurl.POST, 1)
            handle.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
            handle.setopt(pycurl.READFUNCTION, exchange.read)
        try:
            handle.perform()
        except pycurl.error as error:
            if error.args[0] in _LOST and not exchange.was_sent:
                raise self._unreachable() from error
            raise
        status = handle.getinfo(pycurl.RESPONSE_CODE)
        response = _Response(exchange.headers, exchange.received.getvalue())
        if status != 200:
            raise self._status_error(str(status), response)
        return response

    def _status_error(self, status: str, response: _Response) -> JpegClientError:
        try:
            error = json.loads(response.body)["error"]
        except (ValueError, KeyError, TypeError):
            error = None
        if isinstance(error, dict):
            return ProtocolMismatch(
                f"the server at {self._address} is jpeg-web, which has an API of its own: use the port of Triton"
            )
        message = None if error is None else str(error)
        if status == "400" and not self._address.tls and re.search(b"sent to HTTPS port|TLS|HTTPS", response.body):
            return ProtocolMismatch(f"the server at {self._address} speaks TLS: use https://", reason="tls_mismatch")
        return self._response_error(status, message, response.headers.get(_RETRY_AFTER))

    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        if not isinstance(error, pycurl.error):
            return self._unexpected(error)
        code, message = error.args
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return self._timed_out(timeout_s)
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            return self._certificate_error(re.sub(r"^.*(?:problem|verify result): | \(\d+\)$", "", message))
        if code == pycurl.E_SSL_CONNECT_ERROR:
            return self._handshake_error(message)
        if code in _NOT_CONNECTED:
            return self._unreachable()
        if code in _LOST:
            return self._lost(message)
        return self._other_protocol() if code in _OTHER_PROTOCOL else self._unexpected(error)

    def _handshake_error(self, message: str) -> ServerUnavailable:
        if "wrong version number" in message:
            return self._without_tls()
        if "unexpected eof" in message:
            return ServerUnavailable(
                f"the server at {self._address} ends the TLS handshake: it does not speak TLS, or it is stopping",
                reason="tls_mismatch",
            )
        return self._unreachable()


@dataclass(frozen=True)
class _Response:
    """A response. headers: those that matter here, with lower-case names."""

    headers: dict[str, str]
    body: bytes


class _Exchange:
    """The data of one request and its response.

    libcurl repeats a request by itself if a kept connection ends without a response. The server may have died of it:
    the body comes from a callback that cannot be rewound, so that libcurl reports E_SEND_FAIL_REWIND instead.

    Args:
        body: Body of the request; None for GET.

    Attributes:
        headers: Headers of the response that matter here, with lower-case names.
        received: Body of the response.
        was_sent: Whether libcurl has taken a part of the body to send it.
    """

    def __init__(self, body: bytes | None) -> None:
        self._body, self._offset = memoryview(body or b""), 0
        self.headers: dict[str, str] = {}
        self.received = io.BytesIO()

    @property
    def was_sent(self) -> bool:
        return self._offset > 0

    def read(self, size: int) -> bytes:
        """Return the next part of the body."""
        part = self._body[self._offset : self._offset + size]
        self._offset += len(part)
        return bytes(part)

    def receive_header(self, line: bytes) -> None:
        """Keep a header of the response if it matters."""
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() in (_HEADER_LENGTH, _RETRY_AFTER):
            self.headers[name.lower()] = value.strip()


def _open_handle(credentials: Credentials) -> pycurl.Curl:
    """Return a libcurl handle, which keeps its connection open between requests."""
    handle = pycurl.Curl()
    handle.setopt(pycurl.NOSIGNAL, 1)  # signals belong to the main thread
    handle.setopt(pycurl.NOPROXY, "*")  # the key is not encrypted on this machine
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.USERAGENT, "jpeg_client")
    trusted = credentials.ca or ssl.get_default_verify_paths().cafile or certifi.where()
    handle.setopt(pycurl.CAINFO, trusted)
    handle.unsetopt(pycurl.CAPATH)  # no other CA than those
    if credentials.certificate is not None and credentials.certificate_key is not None:
        handle.setopt(pycurl.SSLCERT, credentials.certificate)
        handle.setopt(pycurl.SSLKEY, credentials.certificate_key)
    # libcurl calls it while it waits, which lets Python handle Ctrl-C.
    handle.setopt(pycurl.NOPROGRESS, 0)
    handle.setopt(pycurl.XFERINFOFUNCTION, lambda *_: 0)
    return handle
