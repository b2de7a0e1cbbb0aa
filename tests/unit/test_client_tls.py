"""Addresses, keys, certificates and patience: what the client decides before and after it asks."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from jpeg_client import Client, RequestRefused, ServerTimeout, ServerUnavailable, TooManyRequests
from jpeg_client.address import Address
from jpeg_client.cli import main
from jpeg_client.refusals import bad_certificate, refusal, wait_s
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
    "url", ["https://user:{}@host", "grpcs://{}@host:1", "https://host/?key={}", "https://host#{}"]
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="give the key as api_key") as refused:
        Client(url.format(KEY))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize("host", ["photos.example", "10.0.0.1", "[fe80::1]", "localhost.example", "127.0.0.1.example"])
def test_a_key_goes_to_no_other_machine_unencrypted(scheme: str, host: str) -> None:
    with pytest.raises(ValueError, match=f"unencrypted.*: use {scheme}s://, or no key") as refused:
        Client(f"{scheme}://{host}:1", api_key=KEY)
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
def test_what_is_no_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="this is no API key") as refused:
        Client("https://host", api_key=key)
    assert not key or key not in str(refused.value)


def test_a_ca_is_a_file_of_certificates_and_for_tls(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    for scheme in ("grpcs", "https"):
        with pytest.raises(ValueError, match=r"nonsense\.pem holds no certificate in PEM format"):
            Client(f"{scheme}://localhost:1", ca=nonsense)
        with pytest.raises(FileNotFoundError) as missing:
            Client(f"{scheme}://localhost:1", ca=tmp_path / "gone.pem")
        assert missing.value.filename == str(tmp_path / "gone.pem")
    with pytest.raises(ValueError, match=r"for grpcs:// and https://, not for grpc://"):
        Client("grpc://localhost:1", ca=nonsense)


# --- What is said ---


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        ("403", "this is not allowed", RequestRefused, r"does not allow this \(this is not allowed\)"),
        ("415", "send it uncompressed", RequestRefused, "does not offer what the client needs"),
        ("UNIMPLEMENTED", "this gateway does not offer that method", RequestRefused, "does not offer what the client"),
        ("413", "it may have 1 MiB", RequestRefused, r"\(it may have 1 MiB\): classify fewer or smaller images"),
        ("RESOURCE_EXHAUSTED", "the request is longer than 1 MiB", RequestRefused, "fewer or smaller images"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max", RequestRefused, "fewer or smaller images"),
        ("RESOURCE_EXHAUSTED", "too many requests", TooManyRequests, "takes no more requests for now"),
        ("429", "too many requests", TooManyRequests, "takes no more requests for now"),
        ("502", "an exception occurred in the client: <html>", ServerUnavailable, "no server behind it"),
        ("503", "an exception occurred in the client: <html>", ServerUnavailable, "no server behind it"),
        ("503", "Exceeds maximum queue size", ServerUnavailable, "^Exceeds maximum queue size$"),
        ("504", "no server answered in time", ServerTimeout, "had no answer from its server in time"),
        ("418", "an exception occurred in the client: <html>", RequestRefused, "not as Triton or its gateway does"),
        ("404", "Request for unknown model: 'x'", RequestRefused, "^Request for unknown model: 'x'$"),
        ("400", "in ensemble 'a', k must be", RequestRefused, "^k must be$"),
    ],
)
def test_what_a_refusal_is_called(status: str, message: str, kind: type[Exception], said: str) -> None:
    error = refusal("https://here", status, message, has_key=False)
    assert type(error) is kind
    with pytest.raises(kind, match=said):
        raise error
    assert "<html>" not in str(error)
    if isinstance(error, RequestRefused):
        assert error.status == status


def test_older_grpc_names_another_host_in_its_own_words() -> None:
    # gRPC's word before it checked host names itself; the others are met in tests/deployment.
    assert "another host" in str(bad_certificate("grpcs://a", "Peer name a is not in peer certificate"))


def test_retry_after_is_seconds_or_a_date() -> None:
    assert wait_s("7") == 7
    assert wait_s(None) == wait_s("soon") == wait_s("-3") == wait_s("") == 1
    later = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert 57 < wait_s(format_datetime(later, usegmt=True)) <= 60
    assert wait_s("Sun, 06 Nov 1994 08:49:37 GMT") == 0
    assert wait_s("Sun, 06 Nov 1994 08:49:37 -0000") == 0


# --- Patience ---


class Busy:
    """Stands where the connection is, and refuses so many calls; the gateway's tests use a real one."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.left_s: list[float] = []

    def max_batch_size(self, model: str, timeout_s: float) -> int:
        self.left_s.append(timeout_s)
        if self.refusals:
            raise self.refusals.pop(0)
        return 8

    def close(self) -> None:
        pass


def limit(busy: Busy, timeout_s: float) -> int:
    client = Client("grpc://localhost:1", timeout_s=timeout_s)
    client.close()
    client._transport = busy  # type: ignore[assignment]
    return client._limit()


def test_it_waits_as_told_and_asks_again_while_there_is_time() -> None:
    busy = Busy(*(TooManyRequests("wait", "429", 0.1) for _ in range(3)))
    begun = time.monotonic()
    assert limit(busy, 2) == 8
    waited = time.monotonic() - begun
    assert 0.3 <= waited < 2
    assert busy.left_s[0] == 2
    # Each call has what is left, after a wait that is never shorter than told.
    assert all(before - after >= 0.1 for before, after in zip(busy.left_s, busy.left_s[1:], strict=False))
    assert len(busy.left_s) == 4


def test_it_does_not_wait_for_what_comes_too_late() -> None:
    busy = Busy(TooManyRequests("wait", "429", 60))
    begun = time.monotonic()
    with pytest.raises(TooManyRequests):
        limit(busy, 1)
    assert time.monotonic() - begun < 0.5
    assert len(busy.left_s) == 1
    # And ends, however often it is told to wait not at all.
    busy = Busy(*(TooManyRequests("wait", "429", 0) for _ in range(10_000)))
    with pytest.raises(TooManyRequests):
        limit(busy, 0.5)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("error", [RequestRefused("no", "401"), ServerUnavailable("no"), ServerTimeout("no")])
def test_it_repeats_nothing_else(error: Exception) -> None:
    busy = Busy(error)
    with pytest.raises(type(error)):
        limit(busy, 5)
    assert len(busy.left_s) == 1


def test_over_http_the_time_is_that_of_the_whole_answer() -> None:
    """A socket whose answer drips: each byte comes in time, the whole does not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n":
                    if over.wait(0.2):
                        return
                    connection.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            begun = time.monotonic()
            with (
                Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.6) as client,
                pytest.raises(ServerTimeout, match=r"within 0\.6 s"),
            ):
                client.classify([b"x"])
            assert 0.5 < time.monotonic() - begun < 2
        finally:
            over.set()
            thread.join()


# --- The command line ---


def test_no_option_takes_a_key_and_the_help_says_why() -> None:
    said = " ".join(run_module("jpeg_client", "--help").stdout.split())
    assert "--api-key-file FILE" in said
    assert "other users of this machine can read those in the list of processes" in said
    # Who gives it there nevertheless does not find it in a log as well.
    for option in ("--api-key", "--api-key-file", "--key"):
        done = run_module("jpeg_client", option, KEY, "--url", "https://localhost:1", __file__)
        assert done.returncode == 2
        assert option in done.stderr
        assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\n", b"\xff\xfe\x00", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_that_holds_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")  # which main would set
    monkeypatch.setenv("JPEG_API_KEY", KEY)  # the file goes before it
    (tmp_path / "key").write_bytes(content)
    arguments = ["--api-key-file", str(tmp_path / "key"), "--url", "https://localhost:1", __file__]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("jpeg-classify: this is no API key")


def test_files_that_are_not_there_are_a_wrong_call(tmp_path: Path) -> None:
    ask = ["jpeg_client", "--url", "https://localhost:1", __file__]
    done = run_module(*ask, "--ca", tmp_path / "gone")
    assert done.returncode == 2
    assert done.stderr == f"jpeg-classify: there is no file or folder {tmp_path / 'gone'}\n"
    done = run_module(*ask, "--api-key-file", tmp_path / "gone")
    assert done.returncode == 2
    assert "there is no file of the name given as --api-key-file" in done.stderr


def test_the_key_of_the_environment_does_not_leave_unencrypted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jpeg_client", "--url", "http://photos.example", __file__],
        env={"JPEG_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unencrypted" in done.stderr
    assert KEY not in done.stderr
