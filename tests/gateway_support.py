"""The real gateway: Debian's nginx with deploy/gateway, as an unprivileged user, and clients for it."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from debian_tools import tool
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from PIL import Image
from support import ROOT, encode, photo, run
from tls_context import trusting
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.http import InferenceServerClient

INFER = "/v2/models/jpeg_classifier/infer"
RAW_HEADERS = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}

# The user that nginx runs as if the tests run as root.
_NOBODY = 10101


def small_jpeg() -> bytes:
    """Return a photo of a coffee cup, small for short inference times."""
    return encode(Image.open(io.BytesIO(photo("coffee"))).resize((256, 256)), quality=85)


def tiny_jpeg() -> bytes:
    """Return an image of 64 by 64 pixels, for the network of `small_repository`."""
    return encode(Image.open(io.BytesIO(photo("coffee"))).resize((64, 64)))


def ports_of(server: TritonServer) -> str:
    """Return a server's entry in GATEWAY_SERVERS."""
    return f"127.0.0.1:{server.options.http_port}:{server.options.grpc_port}"


def as_nobody() -> list[str]:
    """Return the beginning of a command that runs as an unprivileged user."""
    # Not Popen's `user`: with it Python forks, and gRPC in the same process does not survive a fork.
    user = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return [tool("setpriv", "util-linux"), *user] if os.geteuid() == 0 else []


def give_away(folder: Path) -> None:
    """Give a folder to the unprivileged user, if this one is root."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY)


@dataclass(frozen=True)
class Response:
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, response: http.client.HTTPResponse) -> Response:
        """Read a response to its end."""
        return cls(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error message; asserts the form of Triton's errors."""
        body = self.json()
        assert list(body) == ["error"], body
        return str(body["error"])


@dataclass(frozen=True)
class Endpoint:
    """What a client needs to reach a gateway: its port on localhost, its certificate, an API key."""

    port: int
    certificate: Path
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers with the key."""
        return {"Authorization": f"Bearer {self.key}"}

    def metadata(self, **more: str) -> list[tuple[str, str]]:
        """Return gRPC metadata with the key."""
        return [("authorization", f"Bearer {self.key}"), *more.items()]

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the gateway's certificate and no other."""
        return trusting(self.certificate)

    def connection(self) -> http.client.HTTPSConnection:
        """Open an HTTP/1.1 connection; the caller closes it."""
        return http.client.HTTPSConnection("localhost", self.port, timeout=30, context=self.tls())

    def stream(self) -> ssl.SSLSocket:
        """Open a TLS connection, to send bytes that no library would send."""
        plain = socket.create_connection(("localhost", self.port), timeout=30)
        return self.tls().wrap_socket(plain, server_hostname="localhost")

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        """Open a gRPC channel with its own connection."""
        credentials = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        own = [("grpc.use_local_subchannel_pool", 1), *options]
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=own)


@dataclass
class Gateway:
    """A gateway in front of servers; use it in a `with` block.

    Attributes:
        servers: Entries of GATEWAY_SERVERS.
        settings: Further GATEWAY_ variables, without that prefix.
        files: Texts by file name that replace those of deploy/gateway.
        run_by: A command that runs the gateway.
        secrets_of: A gateway whose keys and certificate this one has, too.
    """

    servers: Sequence[str]
    settings: Mapping[str, str | int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    run_by: Sequence[str] = ()
    secrets_of: Gateway | None = None
    endpoint: Endpoint = field(init=False)

    def __enter__(self) -> Gateway:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        shutil.copytree(ROOT / "deploy" / "gateway", self.folder / "gateway")
        for name, text in self.files.items():
            (self.folder / "gateway" / name).write_text(text)
        (self.folder / "web").mkdir()
        give_away(self.folder)
        secrets = (self.secrets_of or self).folder / "secrets"
        key = self.secrets_of.endpoint.key if self.secrets_of else self.secrets("init", secrets, "localhost").strip()
        self.endpoint = Endpoint(free_port("127.0.0.1"), secrets / "certificate.pem", key)
        self.log = self.folder / "access.log"
        self.environment = {
            "PATH": f"{Path(tool('nginx', 'nginx')).parent}:{os.environ['PATH']}",
            "GATEWAY_SERVERS": " ".join(self.servers),
            "GATEWAY_ADDRESS": "127.0.0.1",
            "GATEWAY_PORT": str(self.endpoint.port),
            "GATEWAY_KEYS": str(self.keys),
            "GATEWAY_CERTIFICATE": str(self.endpoint.certificate),
            "GATEWAY_CERTIFICATE_KEY": str(secrets / "certificate.key"),
            "GATEWAY_WEB_ROOT": str(self.folder / "web"),
            "GATEWAY_RUN": str(self.folder / "run"),
            "GATEWAY_ACCESS_LOG": str(self.log),
            # Tests send more requests than a user; tests of the limits set their own.
            "GATEWAY_RATE": "10000",
            "GATEWAY_BURST": "1000",
            "GATEWAY_WORKERS": "1",
            **{f"GATEWAY_{name}": str(value) for name, value in self.settings.items()},
        }
        with (self.folder / "nginx.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*as_nobody(), *self.run_by, self.folder / "gateway" / "gateway.sh", "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        shutil.rmtree(self.folder)

    @property
    def keys(self) -> Path:
        return self.endpoint.certificate.with_name("keys")

    def secrets(self, *arguments: str | Path) -> str:
        """Run secrets.sh and return its output."""
        done = run(*as_nobody(), self.folder / "gateway" / "secrets.sh", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run gateway.sh with the environment of this gateway."""
        environment = {**self.environment, **settings}
        return run(*as_nobody(), self.folder / "gateway" / "gateway.sh", *arguments, env=environment)

    def request(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        method: str | None = None,
        key: bool = True,
    ) -> Response:
        """Send a request over HTTP/1.1.

        Args:
            path: Sent unchanged.
            body: None sends no body.
            headers: Added to the key's.
            method: By default GET without a body, POST with one.
            key: Whether to send the key.
        """
        connection = self.endpoint.connection()
        try:
            connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_accept_encoding=True)
            for name, value in {**(self.endpoint.headers if key else {}), **(headers or {})}.items():
                connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            return Response.of(connection.getresponse())
        finally:
            connection.close()

    def classify(self, jpeg: bytes, headers: Mapping[str, str] | None = None, *, key: bool = True) -> Response:
        """Send one raw JPEG over HTTP."""
        return self.request(INFER, jpeg, {**RAW_HEADERS, **(headers or {})}, key=key)

    def send(self, raw: bytes) -> bytes:
        """Send bytes, and return everything that the gateway sends until it closes the connection."""
        with self.endpoint.stream() as stream:
            stream.sendall(raw)
            received = b""
            try:
                while more := stream.recv(65536):
                    received += more
            except ConnectionResetError:
                pass
            return received

    def log_lines(self) -> list[dict[str, str]]:
        """Parse the access log; every line must be JSON. The last one may be half written still."""
        complete, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in complete.splitlines()]

    def logged(self, request_id: str) -> dict[str, str]:
        """Wait for the log line of a request: nginx writes it at the end of the request, after the response."""
        limit = time.monotonic() + 5
        while time.monotonic() < limit:
            for line in self.log_lines():
                if line["id"] == request_id:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no line for {request_id} in {self.log.read_text()}")

    def _wait(self) -> None:
        limit = time.monotonic() + 10
        while True:
            try:
                assert self.request("/healthz", key=False).status == 200
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    raise AssertionError((self.folder / "nginx.log").read_text()) from None
                time.sleep(0.05)
            else:
                return


def stub(channel: grpc.Channel) -> Any:
    """Return the stub of Triton's service on a channel."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer_request(jpeg: bytes, model: str = "jpeg_classifier") -> Any:
    """Return a request with one image, as tritonclient sends it."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(jpeg).to_bytes(4, "little") + jpeg)
    return request


def labels(response: Response) -> list[str]:
    """Return the labels of the image in the response to a raw JPEG."""
    assert response.status == 200, response
    length = int(response.headers["inference-header-content-length"])
    result = InferenceServerClient.parse_response_body(response.body, header_length=length)
    return [label.decode() for label in result.as_numpy("LABEL")[0]]


def grpc_labels(response: Any) -> list[str]:
    """Return the labels of the image in a gRPC response."""
    return [label.decode() for label in InferResult(response).as_numpy("LABEL")[0]]
