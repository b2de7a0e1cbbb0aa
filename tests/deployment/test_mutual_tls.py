"""Mutual TLS: a real nginx that wants the client's certificate, in front of a real server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from client_support import KINDS, classified, top
from debian_tools import tool
from jpeg_client import Client, InvalidArgument, JpegClientError
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from support import PHOTOS, run

CONFIG = """\
pid nginx.pid;
error_log error.log;
daemon off;
events {{}}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate server.pem;
    ssl_certificate_key server.key;
    ssl_client_certificate ca.pem;
    ssl_verify_client on;
    location /inference.GRPCInferenceService/ {{ grpc_pass grpc://{grpc}; }}
    location / {{ proxy_pass http://{http}; }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """nginx, and the folder with its files: ca.pem, client.pem, client.key, locked.key (with a passphrase)."""

    port: int
    folder: Path


@pytest.fixture(scope="module")
def proxy(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("mutual")
    for name, subject, extension in (
        ("ca", "/CN=Test CA", "basicConstraints=critical,CA:true"),
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost"),
        ("client", "/CN=client", "extendedKeyUsage=clientAuth"),
    ):
        issuer = [] if name == "ca" else ["-CA", "ca.pem", "-CAkey", "ca.key"]
        openssl(
            folder,
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", subject, "-addext", extension, *issuer),
        )
    openssl(folder, "ec", "-in", "client.key", "-out", "locked.key", "-aes256", "-passout", "pass:secret")
    port = free_port("127.0.0.1")
    config = CONFIG.format(port=port, http=server.http_address, grpc=server.grpc_address)
    with nginx(folder, config):
        yield Proxy(port, folder)


def openssl(folder: Path, *arguments: str) -> None:
    done = run(tool("openssl", "openssl"), *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr


@contextmanager
def nginx(folder: Path, config: str) -> Iterator[None]:
    (folder / "nginx.conf").write_text(config)
    # As root, its workers are another user: they need the folder.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    command = [tool("nginx", "nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log", *user]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_client_with_a_certificate_is_answered_and_one_without_is_refused(
    proxy: Proxy, scheme: str, kind: str
) -> None:
    url, folder = f"{scheme}://localhost:{proxy.port}", proxy.folder
    files = {"certificate": folder / "client.pem", "certificate_key": folder / "client.key", "ca": folder / "ca.pem"}
    found = classified(kind, url, PHOTOS / "coffee.jpg", None, **files)
    assert top(found) == "espresso"
    with pytest.raises(JpegClientError):
        classified(kind, url, PHOTOS / "coffee.jpg", ca=folder / "ca.pem", timeout_s=2)


@pytest.mark.parametrize(
    ("url", "files", "reason"),
    [
        ("https://localhost:1", {"certificate": "client.pem"}, "invalid_certificate"),
        ("https://localhost:1", {"certificate_key": "client.key"}, "invalid_certificate"),
        ("https://localhost:1", {"certificate": "client.pem", "certificate_key": "server.key"}, "invalid_certificate"),
        ("https://localhost:1", {"certificate": "client.pem", "certificate_key": "locked.key"}, "invalid_certificate"),
        (
            "http://localhost:1",
            {"certificate": "client.pem", "certificate_key": "client.key"},
            "certificate_without_tls",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(proxy: Proxy, url: str, files: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Client(url, **{name: proxy.folder / file for name, file in files.items()})  # type: ignore[arg-type]
    assert refused.value.reason == reason
