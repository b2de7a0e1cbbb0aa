"""The real gateway: Debian's nginx over deploy/gateway, as a user without rights, and ways to talk to it."""

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
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.http import InferenceServerClient

INFER = "/v2/models/jpeg_classifier/infer"
RAW_HEADERS = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}

# Who nginx runs as where the tests are root's.
_NOBODY = 10101


def small_jpeg() -> bytes:
    """A photo of a coffee cup, small, so that a server answers quickly."""
    return encode(Image.open(io.BytesIO(photo("coffee"))).resize((256, 256)), quality=85)


def ports_of(server: TritonServer) -> str:
    """A server as GATEWAY_SERVERS names it."""
    return f"127.0.0.1:{server.options.http_port}:{server.options.grpc_port}"


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, answer: http.client.HTTPResponse) -> Answer:
        """Read an answer to its end."""
        return cls(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error; fails if it has not the shape that Triton gives its own."""
        answer = self.json()
        assert list(answer) == ["error"], answer
        return str(answer["error"])


@dataclass(frozen=True)
class Door:
    """How a client reaches a gateway: its port on localhost, its certificate, a key."""

    port: int
    certificate: Path
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What shows the key over HTTP."""
        return {"Authorization": f"Bearer {self.key}"}

    def metadata(self, **more: str) -> list[tuple[str, str]]:
        """What shows the key over gRPC."""
        return [("authorization", f"Bearer {self.key}"), *more.items()]

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the gateway's certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def connection(self) -> http.client.HTTPSConnection:
        """A connection over HTTP/1.1; the caller closes it."""
        return http.client.HTTPSConnection("localhost", self.port, timeout=30, context=self.tls())

    def stream(self) -> ssl.SSLSocket:
        """A TLS connection, to send bytes that no library would."""
        plain = socket.create_connection(("localhost", self.port), timeout=30)
        return self.tls().wrap_socket(plain, server_hostname="localhost")

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        """A gRPC channel with a connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        own = [("grpc.use_local_subchannel_pool", 1), *options]
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=own)


@dataclass
class Gateway:
    """A gateway in front of servers; use it in a `with` block.

    settings: GATEWAY_ variables, without that prefix.
    """

    servers: Sequence[str]
    settings: Mapping[str, str | int] = field(default_factory=dict)

    def __enter__(self) -> Gateway:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        shutil.copytree(ROOT / "deploy" / "gateway", self.folder / "gateway")
        (self.folder / "web").mkdir()
        self._give_away(self.folder)
        secrets = self.folder / "secrets"
        key = self.secrets("init", secrets, "localhost").strip()
        self.door = Door(free_port("127.0.0.1"), secrets / "certificate.pem", key)
        self.log = self.folder / "access.log"
        self.environment = {
            "PATH": f"{Path(tool('nginx', 'nginx')).parent}:{os.environ['PATH']}",
            "GATEWAY_SERVERS": " ".join(self.servers),
            "GATEWAY_ADDRESS": "127.0.0.1",
            "GATEWAY_PORT": str(self.door.port),
            "GATEWAY_KEYS": str(self.keys),
            "GATEWAY_CERTIFICATE": str(self.door.certificate),
            "GATEWAY_CERTIFICATE_KEY": str(self.folder / "secrets" / "certificate.key"),
            "GATEWAY_WEB_ROOT": str(self.folder / "web"),
            "GATEWAY_RUN": str(self.folder / "run"),
            "GATEWAY_ACCESS_LOG": str(self.log),
            # Tests ask more than a user does; those of the limits set their own.
            "GATEWAY_RATE": "10000",
            "GATEWAY_BURST": "1000",
            "GATEWAY_WORKERS": "1",
            **{f"GATEWAY_{name}": str(value) for name, value in self.settings.items()},
        }
        with (self.folder / "nginx.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*self._as_nobody(), self.folder / "gateway" / "gateway.sh", "run"],
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
        return self.folder / "secrets" / "keys"

    def secrets(self, *arguments: str | Path) -> str:
        """Run secrets.sh; returns what it prints."""
        done = run(*self._as_nobody(), self.folder / "gateway" / "secrets.sh", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run gateway.sh with the environment of this gateway."""
        environment = {**self.environment, **settings}
        return run(*self._as_nobody(), self.folder / "gateway" / "gateway.sh", *arguments, env=environment)

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        method: str | None = None,
        key: bool = True,
    ) -> Answer:
        """One request over HTTP/1.1, with the first key unless told otherwise; the path is sent as it is."""
        connection = self.door.connection()
        try:
            connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_accept_encoding=True)
            for name, value in {**(self.door.headers if key else {}), **(headers or {})}.items():
                connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            return Answer.of(connection.getresponse())
        finally:
            connection.close()

    def classify(self, jpeg: bytes, headers: Mapping[str, str] | None = None, *, key: bool = True) -> Answer:
        """One raw JPEG over HTTP; the answer is plain JSON."""
        return self.ask(INFER, jpeg, {**RAW_HEADERS, **(headers or {})}, key=key)

    def send(self, raw: bytes) -> bytes:
        """Send bytes, and return everything that comes back until the gateway closes."""
        with self.door.stream() as stream:
            stream.sendall(raw)
            received = b""
            try:
                while more := stream.recv(65536):
                    received += more
            except ConnectionResetError:
                pass
            return received

    def log_lines(self) -> list[dict[str, str]]:
        """The access log; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def logged(self, request_id: str) -> dict[str, str]:
        """The line of a request; nginx writes it when the request is over, which may be after its answer."""
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
                assert self.ask("/healthz", key=False).status == 200
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    raise AssertionError((self.folder / "nginx.log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def _as_nobody(self) -> list[str]:
        # Not Popen's `user`: with it Python forks, which gRPC in the same process does not survive.
        user = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        return [tool("setpriv", "util-linux"), *user] if os.geteuid() == 0 else []

    def _give_away(self, folder: Path) -> None:
        if os.geteuid() == 0:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, _NOBODY, _NOBODY)


def stub(channel: grpc.Channel) -> Any:
    """The methods of Triton's service on a channel."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer_request(jpeg: bytes, model: str = "jpeg_classifier") -> Any:
    """One image, as tritonclient sends it."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(jpeg).to_bytes(4, "little") + jpeg)
    return request


def labels(answer: Answer) -> list[str]:
    """The labels of the one image in the answer to a raw JPEG."""
    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    result = InferenceServerClient.parse_response_body(answer.body, header_length=length)
    return [label.decode() for label in result.as_numpy("LABEL")[0]]


def grpc_labels(answer: Any) -> list[str]:
    """The labels of the one image in an answer over gRPC."""
    return [label.decode() for label in InferResult(answer).as_numpy("LABEL")[0]]
