"""jpeg_client through the gateway, over https and grpcs: the real nginx in front of the real server."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_support import Gateway, ports_of, small_jpeg
from jpeg_client import (
    CertificateRefused,
    Client,
    JpegClientError,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)
from jpeg_serve import TritonServer
from support import PHOTOS, photo, run

PATHS = {"https": "/infer", "grpcs": "/ModelInfer"}
FIRST = {"chelsea": "Egyptian cat", "coffee": "espresso", "china": "palace", "grace_hopper": "bow tie"}

COFFEE = next(PHOTOS.rglob("coffee.jpg"))

schemes = pytest.mark.parametrize("scheme", ["https", "grpcs"])


@pytest.fixture(scope="module")
def gateway(server: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(server)]) as gateway:
        yield gateway


def url(gateway: Gateway, scheme: str) -> str:
    return f"{scheme}://localhost:{gateway.endpoint.port}"


def connect(gateway: Gateway, scheme: str, *, timeout_s: float = 30, model: str = "jpeg_classifier") -> Client:
    endpoint = gateway.endpoint
    return Client(url(gateway, scheme), api_key=endpoint.key, ca=endpoint.certificate, timeout_s=timeout_s, model=model)


def inferences(gateway: Gateway, scheme: str) -> list[dict[str, str]]:
    """Return the inferences in the log; nginx writes a line at the end of a request, just after its response."""
    time.sleep(0.3)
    return [line for line in gateway.log_lines() if line["path"].endswith(PATHS[scheme])]


# --- Labels ---


@schemes
def test_labels_are_those_of_the_server(gateway: Gateway, server: TritonServer, scheme: str) -> None:
    images = [photo(name) for name in FIRST]
    with Client(f"grpc://{server.grpc_address}") as client:
        direct = client.classify(images, k=3)
    with connect(gateway, scheme) as client:
        through = client.classify(images, k=3)
    assert through == direct
    assert [prediction.labels[0] for prediction in through] == list(FIRST.values())
    assert inferences(gateway, scheme)[-1]["client"] == "first"


@schemes
def test_more_images_than_a_batch_with_one_invalid_image(gateway: Gateway, scheme: str) -> None:
    """The client reads the server's limit of 64 images through the gateway."""
    before = len(inferences(gateway, scheme))
    images = [small_jpeg()] * 65
    images[3] = b"no JPEG"
    with connect(gateway, scheme) as client:
        predictions = client.classify(images, k=1)
    assert [prediction.labels for prediction in predictions] == [("espresso",)] * 3 + [()] + [("espresso",)] * 61
    assert "not a JPEG" in (predictions[3].error or "")
    assert len(inferences(gateway, scheme)) - before == 2


# --- Keys ---


@schemes
def test_without_a_key_and_with_a_wrong_one(gateway: Gateway, scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = gateway.endpoint
    wrong = endpoint.key[:-1] + ("A" if endpoint.key[-1] != "A" else "B")
    caplog.set_level(logging.DEBUG)
    before = len(gateway.log_lines())
    for key, reason in ((None, "api_key_required"), (wrong, "api_key_rejected")):
        with Client(url(gateway, scheme), api_key=key, ca=endpoint.certificate) as client:
            with pytest.raises(RequestRefused) as refused:
                client.classify([small_jpeg()])
            shown = f"{client!r} {vars(client)!r} {caplog.text} {''.join(traceback.format_exception(refused.value))}"
        assert refused.value.reason == reason
        assert refused.value.status == {"https": "401", "grpcs": "UNAUTHENTICATED"}[scheme]
        assert wrong.split(".")[1][:8] not in shown
    # The client does not retry.
    time.sleep(0.3)
    assert len(gateway.log_lines()) - before == 2


@schemes
def test_other_model_is_refused(gateway: Gateway, scheme: str) -> None:
    with connect(gateway, scheme, model="preprocess") as client, pytest.raises(RequestRefused) as refused:
        client.classify([small_jpeg()])
    assert refused.value.reason == {"https": "not_found", "grpcs": "forbidden"}[scheme]


def test_key_for_this_machine_bypasses_proxies(server: TritonServer) -> None:
    """In a process of its own: gRPC reads the proxies from the environment when it opens a channel."""
    program = (
        "import sys; from jpeg_client import Client\n"
        "with Client(sys.argv[1], api_key='a.secret', timeout_s=10) as client:\n"
        "    print(client.classify([sys.argv[2]], k=1)[0].labels[0])"
    )
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.1)
        where = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        environment |= {"grpc_proxy": where, "http_proxy": where}
        for address in (f"grpc://{server.grpc_address}", f"http://{server.http_address}"):
            done = run(sys.executable, "-c", program, address, COFFEE, env=environment)
            assert done.stdout == "espresso\n", done.stderr
        with pytest.raises(TimeoutError):
            proxy.accept()


# --- Certificates ---


@schemes
def test_untrusted_certificate_is_refused(gateway: Gateway, scheme: str, tmp_path: Path) -> None:
    other, _ = certificate(tmp_path, "localhost")
    before = len(gateway.log_lines())
    for ca in (None, other):
        with (
            Client(url(gateway, scheme), api_key=gateway.endpoint.key, ca=ca) as client,
            pytest.raises(CertificateRefused, match=r"not trusted .*--ca FILE"),
        ):
            client.classify([small_jpeg()])
    time.sleep(0.3)
    assert len(gateway.log_lines()) == before


@schemes
@pytest.mark.parametrize(("host", "days", "fact"), [("other.example", 9, "another host"), ("localhost", -1, "expired")])
def test_certificate_for_another_host_or_expired_is_refused(
    server: TritonServer, tmp_path: Path, scheme: str, host: str, days: int, fact: str
) -> None:
    with Gateway([ports_of(server)]) as gateway:
        own, private = certificate(tmp_path, host, days)
        gateway.endpoint.certificate.write_bytes(own.read_bytes())
        (gateway.folder / "secrets" / "certificate.key").write_bytes(private.read_bytes())
        done = gateway.command("reload")
        assert done.returncode == 0, done.stderr
        # An old worker may accept a connection after a new worker accepted some.
        limit, in_a_row = time.monotonic() + 15, 0
        while in_a_row < 20:
            assert time.monotonic() < limit
            presented = ssl.get_server_certificate(("127.0.0.1", gateway.endpoint.port)).strip()
            in_a_row = in_a_row + 1 if presented in own.read_text() else 0
            time.sleep(0.05)
        with connect(gateway, scheme) as client, pytest.raises(CertificateRefused, match=fact):
            client.classify([small_jpeg()])


@schemes
def test_tls_mismatch_is_reported(gateway: Gateway, server: TritonServer, scheme: str) -> None:
    port = server.options.grpc_port if scheme == "grpcs" else server.options.http_port
    with Client(f"{scheme}://127.0.0.1:{port}", timeout_s=5) as client, pytest.raises(ServerUnavailable) as refused:
        client.classify([b"x"])
    assert refused.value.reason == "tls_mismatch"
    with Client(url(gateway, scheme[:-1]), timeout_s=5) as client, pytest.raises(ServerUnavailable) as refused:
        client.classify([b"x"])
    # gRPC does not report that the server speaks TLS.
    assert refused.value.reason == {"https": "tls_mismatch", "grpcs": "server_unavailable"}[scheme]


# --- Limits ---


@schemes
def test_client_waits_and_retries_over_the_rate(server: TritonServer, scheme: str) -> None:
    with Gateway([ports_of(server)], {"RATE": 1, "BURST": 1}) as gateway:
        begun = time.monotonic()
        with connect(gateway, scheme) as client:
            for _ in range(3):
                predictions = client.classify([small_jpeg()] * 2, k=1)
                assert [prediction.labels for prediction in predictions] == [("espresso",)] * 2
        # Of four requests, including the one for the model's config, two pass at once, and one per second after that.
        assert time.monotonic() - begun > 1.9
        lines = inferences(gateway, scheme)
        refused = [line for line in lines if line["status"] == "429" or line["grpc_status"] == "8"]
        assert len(lines) - len(refused) == 3
        assert 1 <= len(refused) <= 6


@schemes
def test_timeout_too_short_for_a_retry(server: TritonServer, scheme: str) -> None:
    with (
        Gateway([ports_of(server)], {"RATE": 1, "BURST": 1}) as gateway,
        connect(gateway, scheme, timeout_s=0.9) as client,
    ):
        client.classify([b"no JPEG"])
        client.classify([b"no JPEG"])
        begun = time.monotonic()
        with pytest.raises(TooManyRequests) as refused:
            client.classify([b"no JPEG"])
        assert time.monotonic() - begun < 0.5
        assert refused.value.wait_s == 1
        assert refused.value.status == {"https": "429", "grpcs": "RESOURCE_EXHAUSTED"}[scheme]
        assert len(inferences(gateway, scheme)) == 3


@schemes
def test_too_long_request_is_not_retried(server: TritonServer, scheme: str) -> None:
    with Gateway([ports_of(server)], {"MAX_BODY_MB": 1}) as gateway, connect(gateway, scheme) as client:
        for number in (2, 30):
            with pytest.raises(RequestRefused, match="1 MiB") as refused:
                client.classify([bytes(number * 2**20)])
            assert refused.value.reason == "request_too_large"
            assert refused.value.status == {"https": "413", "grpcs": "RESOURCE_EXHAUSTED"}[scheme]
        assert client.classify([small_jpeg()], k=1)[0].labels == ("espresso",)
        assert len(inferences(gateway, scheme)) == 3


# --- Unresponsive servers ---


@schemes
def test_no_server_and_a_hanging_server_behind_the_gateway(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs, socket.create_server(("127.0.0.1", 0)) as closed:
        hanging, unreachable = hangs.getsockname()[1], closed.getsockname()[1]
        closed.close()
        # The client repeats a request that no server had, and gives up on a slow one.
        cases: list[tuple[int, float, type[JpegClientError], str, range]] = [
            (unreachable, 4, ServerUnavailable, "gateway", range(2, 10)),
            (hanging, 30, ServerTimeout, "in time", range(1, 2)),
            (hanging, 1, ServerTimeout, "within 1 s", range(1, 2)),
        ]
        for port, timeout_s, kind, fact, requests in cases:
            with (
                Gateway([f"127.0.0.1:{port}:{port}"], {"TIMEOUT_S": 2}) as gateway,
                connect(gateway, scheme, timeout_s=timeout_s) as client,
            ):
                with pytest.raises(kind, match=fact):
                    client.classify([b"x"])
                # The request of a client that has left ends with the server's answer, or its absence.
                limit = time.monotonic() + 5
                while len(inferences(gateway, scheme)) < requests.start and time.monotonic() < limit:
                    time.sleep(0.1)
                assert len(inferences(gateway, scheme)) in requests


@schemes
def test_no_gateway(scheme: str) -> None:
    with (
        Client(f"{scheme}://127.0.0.1:1", api_key="a.secret", timeout_s=4) as client,
        pytest.raises(ServerUnavailable, match=f"{scheme}://127.0.0.1:1"),
    ):
        client.classify([b"x"])


# --- The command line ---


@schemes
def test_the_command(gateway: Gateway, scheme: str, tmp_path: Path) -> None:
    key, file = gateway.endpoint.key, tmp_path / "key"
    file.write_text(f"{key}\n")
    command = [sys.executable, "-m", "jpeg_client", "--url", url(gateway, scheme), "-k", "1"]
    command += ["--ca", str(gateway.endpoint.certificate), str(COFFEE)]
    bare = {name: value for name, value in os.environ.items() if name != "JPEG_API_KEY"}

    def done(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        finished = run(*command, *more, env={**bare, **environment})
        assert key.split(".")[1] not in finished.stdout + finished.stderr
        return finished

    right = f"{COFFEE}: espresso 0.992\n"
    assert done("--api-key-file", str(file)).stdout == right
    assert done(JPEG_API_KEY=key).stdout == right
    # The file takes precedence over the variable; an empty variable holds no key.
    assert done("--api-key-file", str(file), JPEG_API_KEY="a.wrong-one").stdout == right
    for without in (done(), done(JPEG_API_KEY="")):
        assert without.returncode == 3
        assert url(gateway, scheme) in without.stderr
        assert without.stderr.endswith(" [api_key_required]\n")
        assert without.stderr.count("\n") == 1


@schemes
def test_the_command_reports_an_untrusted_certificate_in_one_line(gateway: Gateway, scheme: str) -> None:
    done = run(sys.executable, "-m", "jpeg_client", "--url", url(gateway, scheme), COFFEE)
    assert done.returncode == 3
    assert url(gateway, scheme) in done.stderr
    assert done.stderr.endswith(" [certificate_refused]\n")
    assert done.stderr.count("\n") == 1, done.stderr


def certificate(folder: Path, host: str, days: int = 9) -> tuple[Path, Path]:
    """Make a self-signed certificate and its private key; negative days make an expired one."""
    request, private, signed = (folder / f"{host}.{suffix}" for suffix in ("request", "key", "pem"))
    name = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    requested = run("openssl", "req", "-new", *curve, *name, "-keyout", private, "-out", request)
    assert requested.returncode == 0, requested.stderr
    copied = ["-copy_extensions", "copy", "-days", str(days)]
    done = run("openssl", "x509", "-req", "-in", request, "-signkey", private, *copied, "-out", signed)
    assert done.returncode == 0, done.stderr
    return signed, private
