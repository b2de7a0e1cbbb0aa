"""Addresses, keys, certificates and error responses of the client."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from jpeg_client import (
    CertificateRefused,
    Client,
    InvalidArgument,
    JpegClientError,
    RequestLost,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)
from jpeg_client.address import Address
from jpeg_client.cli import main
from jpeg_client.error_responses import certificate_error, response_error, retry_after_s
from support import run_module

KEY = "first.EXAMPLE-EXAMPLE_EXAMPLE~EXAMPLE"


@pytest.mark.parametrize(
    ("url", "address", "where"),
    [
        ("grpc://localhost", Address("grpc", "localhost", 8001), "localhost:8001"),
        ("http://10.0.0.1", Address("http", "10.0.0.1", 8000), "10.0.0.1:8000"),
        ("grpcs://photos.example", Address("grpcs", "photos.example", 443), "photos.example:443"),
        ("https://[::1]:8443/", Address("https", "::1", 8443), "[::1]:8443"),
    ],
)
def test_addresses(url: str, address: Address, where: str) -> None:
    assert Address.parse(url) == address
    assert address.host_and_port == where
    assert address.tls == (url.partition(":")[0] in ("grpcs", "https"))


@pytest.mark.parametrize(
    "url", ["https://user:{}@host", "grpcs://{}@host:1", "https://host/?key={}", "https://host#{}", "https://{}@[h"]
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Client(url.format(KEY))
    assert refused.value.reason == "invalid_url"
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize("host", ["photos.example", "10.0.0.1", "[fe80::1]", "localhost.example", "127.0.0.1.example"])
def test_a_key_goes_to_no_other_machine_unencrypted(scheme: str, host: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{scheme}s://") as refused:
        Client(f"{scheme}://{host}:1", api_key=KEY)
    assert refused.value.reason == "unencrypted_api_key"
    assert KEY not in str(refused.value)
    Client(f"{scheme}s://{host}:1", api_key=KEY).close()
    Client(f"{scheme}://{host}:1").close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST"])
def test_a_key_may_stay_on_this_machine(host: str) -> None:
    Client(f"grpc://{host}:1", api_key=KEY).close()
    Client(f"http://{host}:1", api_key=KEY).close()


@pytest.mark.parametrize(
    "key", ["", "two words", f"{KEY}\r\nX-More: 1", "schlüssel", f"Bearer {KEY}", f'"{KEY}"', "\x00"]
)
def test_an_invalid_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Client("https://host", api_key=key)
    assert refused.value.reason == "invalid_api_key"
    assert not key or key not in str(refused.value)


def test_a_ca_is_a_file_of_certificates_and_for_tls(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    for scheme in ("grpcs", "https"):
        with pytest.raises(InvalidArgument, match=r"nonsense\.pem.* PEM") as refused:
            Client(f"{scheme}://localhost:1", ca=nonsense)
        assert refused.value.reason == "invalid_ca"
        with pytest.raises(FileNotFoundError) as missing:
            Client(f"{scheme}://localhost:1", ca=tmp_path / "gone.pem")
        assert missing.value.filename == str(tmp_path / "gone.pem")
    with pytest.raises(InvalidArgument, match="grpcs://") as refused:
        Client("grpc://localhost:1", ca=nonsense)
    assert refused.value.reason == "ca_without_tls"


# --- Error responses ---

NOT_TRITON = None  # a page, which is not shown


@pytest.mark.parametrize(
    ("status", "message", "kind", "reason", "fact"),
    [
        ("403", "this is not allowed", RequestRefused, "forbidden", r"\(this is not allowed\)"),
        ("415", "send it uncompressed", RequestRefused, "unsupported", r"\(send it uncompressed\)"),
        ("UNIMPLEMENTED", "this gateway does not offer that", RequestRefused, "unsupported", "gateway"),
        ("413", "it may have 1 MiB", RequestRefused, "request_too_large", r"\(it may have 1 MiB\).*fewer"),
        ("RESOURCE_EXHAUSTED", "the request is longer than 1 MiB", RequestRefused, "request_too_large", "1 MiB"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max", RequestRefused, "request_too_large", "larger"),
        ("RESOURCE_EXHAUSTED", "too many requests", TooManyRequests, "too_many_requests", "timeout_s"),
        ("429", "too many requests", TooManyRequests, "too_many_requests", "timeout_s"),
        ("502", NOT_TRITON, RequestLost, "request_lost", "gateway"),
        ("503", NOT_TRITON, RequestLost, "request_lost", "gateway"),
        ("UNAVAILABLE", "no server answers", RequestLost, "request_lost", "gateway"),
        ("503", "upstream connect error. reset reason: connection termination", RequestLost, "request_lost", "gateway"),
        ("503", "no healthy upstream", ServerUnavailable, "server_unavailable", "upstream"),
        ("503", "in ensemble 'a', Exceeds maximum queue size", ServerUnavailable, "queue_full", "^Exceeds"),
        (
            "UNAVAILABLE",
            "in ensemble 'a', it ends [server_stopping]",
            ServerUnavailable,
            "server_stopping",
            "^it ends$",
        ),
        ("503", "Request timeout expired", ServerTimeout, "server_timeout", "https://here"),
        (
            "NOT_FOUND",
            "Request for unknown model: 'x' has no available versions",
            ServerUnavailable,
            "model_not_ready",
            "'x'",
        ),
        ("500", "Stub process 'a_0_0' is not healthy.", RequestLost, "worker_died", "https://here"),
        ("500", "it failed", RequestRefused, "request_refused", "^it failed$"),
        ("504", "no server answered in time", ServerTimeout, "server_timeout", r"\(no server answered in time\)"),
        ("418", NOT_TRITON, RequestRefused, "unexpected_response", "418"),
        ("404", NOT_TRITON, RequestRefused, "not_found", "https://here"),
        ("404", "this gateway has nothing at that path", RequestRefused, "not_found", "nothing at that path"),
        ("404", "Request for unknown model: 'x' is not found", RequestRefused, "unknown_model", "'x'"),
        ("404", "Not Found", RequestRefused, "unknown_model", "https://here"),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", RequestRefused, "unknown_model", "'x'"),
        ("400", "in ensemble 'a', k must be 1 [invalid_k]", RequestRefused, "invalid_k", "^k must be 1$"),
        ("INVALID_ARGUMENT", "in ensemble 'a', k must be 1 [invalid_k]", RequestRefused, "invalid_k", "^k must be 1$"),
        ("400", "k must be 1", RequestRefused, "request_refused", "^k must be 1$"),
    ],
)
def test_an_error_response_maps_to_an_exception(
    status: str, message: str | None, kind: type[JpegClientError], reason: str, fact: str
) -> None:
    error = response_error("https://here", status, message, has_key=False)
    assert type(error) is kind
    assert error.reason == reason
    assert re.search(fact, str(error)), error
    if isinstance(error, RequestRefused):
        assert error.status == status


@pytest.mark.parametrize("status", ["401", "UNAUTHENTICATED"])
def test_a_missing_key_and_a_wrong_key_have_different_reasons(status: str) -> None:
    missing = response_error("https://here", status, "", has_key=False)
    assert missing.reason == "api_key_required"
    assert "--api-key-file" in str(missing)
    assert response_error("https://here", status, "", has_key=True).reason == "api_key_rejected"


@pytest.mark.parametrize(
    ("message", "fact"),
    [
        ("Peer name a is not in peer certificate", "another host"),  # gRPC before it verified host names itself
        ("Hostname mismatch, certificate is not valid for 'a'", "another host"),
        ("SSL: no alternative certificate subject name matches target host name 'a'", "another host"),
        ("certificate has expired", "expired"),
        ("self-signed certificate", "--ca"),
    ],
)
def test_a_certificate_error_names_the_remedy(message: str, fact: str) -> None:
    error = certificate_error("grpcs://a", message)
    assert type(error) is CertificateRefused
    assert error.reason == "certificate_refused"
    assert fact in str(error)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s(None) == retry_after_s("soon") == retry_after_s("-3") == retry_after_s("") == 1
    later = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert 57 < retry_after_s(format_datetime(later, usegmt=True)) <= 60
    assert retry_after_s("Sun, 06 Nov 1994 08:49:37 GMT") == 0
    assert retry_after_s("Sun, 06 Nov 1994 08:49:37 -0000") == 0


# --- The command line ---


def test_the_help_explains_why_no_option_takes_a_key() -> None:
    text = " ".join(run_module("jpeg_client", "--help").stdout.split())
    assert "--api-key-file" in text
    assert "process list" in text


@pytest.mark.parametrize(
    "arguments", [("--api-key", KEY), (f"--api-key={KEY}",), ("--api-key-file", KEY), ("--key", KEY)]
)
def test_a_key_on_the_command_line_is_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    done = run_module("jpeg_client", *arguments, "--url", "https://localhost:1", __file__)
    assert done.returncode == 2
    assert arguments[0].partition("=")[0] in done.stderr
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\n", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_without_a_valid_key_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")  # main would set it for this whole process
    monkeypatch.setenv("JPEG_API_KEY", KEY)  # the file takes precedence
    (tmp_path / "key").write_bytes(content)
    arguments = ["--api-key-file", str(tmp_path / "key"), "--url", "https://localhost:1", __file__]
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("[invalid_api_key]\n")


def test_missing_files_are_an_invalid_call(tmp_path: Path) -> None:
    for option in ("--ca", "--api-key-file"):
        done = run_module("jpeg_client", "--url", "https://localhost:1", __file__, option, tmp_path / "gone")
        assert done.returncode == 2
        assert done.stderr.endswith("[file_missing]\n")
        # The value of --api-key-file may be a key.
        assert (str(tmp_path / "gone") in done.stderr) == (option == "--ca")


def test_the_key_from_the_environment_is_not_sent_unencrypted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jpeg_client", "--url", "http://photos.example", __file__],
        env={"JPEG_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("[unencrypted_api_key]\n")
    assert KEY not in done.stderr
