"""`jpeg-serve --web`: the application starts after the servers, is started again when it dies, and ends with them."""

from __future__ import annotations

import contextlib
import re
import signal
import socket

import httpx2
import psutil
import pytest
from jpeg_serve import ServerOptions, web
from jpeg_serve.errors import PortError, PrerequisiteError
from serve_command import Command, gone
from support import photo
from web_command import wait_until

COFFEE = photo("coffee")
WEB = ("--web", "--web-port", "0")


@contextlib.contextmanager
def started(*arguments):
    """`jpeg-serve` with the application; killed at the end, if it still runs."""
    command = Command(*arguments)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()
        command.output.close()


def application(command):
    """The process of the application; None while there is none."""
    for child in psutil.Process(command.process.pid).children():
        if "jpeg_web" in " ".join(child.cmdline()):
            return child
    return None


def label(url):
    response = httpx2.post(f"{url}/classify?k=1", content=COFFEE, timeout=60)
    return response.json()["results"][0]["predictions"][0]["label"]


def ready(command):
    return command.wait_for(r"ready\n(?:  .*\n)*?  web +(http://\S+)/")[1]


def test_one_application_serves_all_servers_and_is_started_again(built_repository, tmp_path):
    with started(built_repository, tmp_path, *WEB, "--servers", "2") as command:
        url = ready(command)
        assert label(url) == "espresso"
        assert httpx2.get(f"{url}/stats").json()["waiting"] is not None
        first = application(command)
        first.kill()
        command.wait_for(r"the web application serves again")
        assert application(command).pid != first.pid
        assert label(url) == "espresso"  # at the same address
        family = command.family()
    # It ends with jpeg-serve, also if that is killed.
    assert gone(family) == []


def test_it_stops_before_the_servers(built_repository, tmp_path):
    head = f"POST /classify?k=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(COFFEE)}\r\nExpect: 100-continue\r\n\r\n"
    with started(built_repository, tmp_path, *WEB) as command:
        port = int(ready(command).rpartition(":")[2])
        family = command.family()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(head.encode())
            assert b" 100 " in connection.recv(100)  # the request is open
            command.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_refused(port))
            connection.sendall(COFFEE)
            with connection.makefile("rb") as answer:
                assert b"espresso" in answer.read()
        assert command.process.wait(timeout=60) == 0
        assert gone(family) == []
        assert not re.search(r"web application (ended|serves again)", command.text())


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_missing_package_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr(web, "_PACKAGES", ("a_package_that_is_missing",))
    with pytest.raises(PrerequisiteError, match=r"pip install 'triton-jpeg-classifier\[web\]'") as raised:
        web.require_web(ServerOptions(), 0)
    assert raised.value.reason == "package_missing"


def test_a_taken_port_is_found_before_anything_starts(built_repository, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(built_repository, tmp_path, "--web", "--web-port", port) as command:
            assert command.process.wait(timeout=60) == 1
    (line,) = command.text().splitlines()
    assert line.endswith("[port_taken]")
    assert "--web-port" in line


def test_its_port_is_none_of_the_servers():
    with pytest.raises(PortError) as raised:
        web.require_web(ServerOptions(http_port=8000), 8000)
    assert raised.value.reason == "port_used_twice"
