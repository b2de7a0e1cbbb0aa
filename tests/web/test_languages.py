"""The programs in examples/, compiled and run as docs/languages.md shows them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest
from debian_tools import lacks, tool
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from support import PHOTOS, ROOT, run
from web_command import WebCommand, wait_until

EXAMPLES = ROOT / "examples"
COFFEE = str(PHOTOS / "coffee.jpg")

Build = Callable[[Path], list[str]]
ServeApp = Callable[..., AbstractContextManager[str]]


def java(folder: Path) -> list[str]:
    compiler = tool("javac", "default-jdk-headless")
    version = re.search(r"javac (\d+)", run(compiler, "-version").stdout)
    if version is None or int(version[1]) < 11:
        lacks("needs Java 11 or later")
    done = run(compiler, "-Werror", "-Xlint:all", "-d", folder, EXAMPLES / "java" / "Classify.java")
    assert done.returncode == 0, done.stderr
    return [tool("java", "default-jre-headless"), "-cp", str(folder), "Classify"]


def cpp(folder: Path) -> list[str]:
    compiler = tool("g++", "g++")
    headers = run(compiler, "-E", "-include", "curl/curl.h", "-x", "c++", "/dev/null")
    if headers.returncode != 0:
        lacks("needs libcurl's headers (Debian, Ubuntu: apt-get install libcurl4-openssl-dev)")
    built = folder / "classify"
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    done = run(compiler, *options, EXAMPLES / "cpp" / "classify.cpp", "-lcurl", "-o", built)
    assert done.returncode == 0, done.stderr
    return [str(built)]


def go(folder: Path) -> list[str]:
    compiler = shutil.which("go")
    if compiler is None:  # no `tool`: CI has no Go
        pytest.skip("needs go (Debian, Ubuntu: apt-get install golang)")
    done = run(compiler, "build", "-o", folder / "classify", EXAMPLES / "go" / "main.go")
    assert done.returncode == 0, done.stderr
    return [str(folder / "classify")]


def node(_folder: Path, program: str = "classify.mjs") -> list[str]:
    return [tool("node", "nodejs"), str(EXAMPLES / "node" / program)]


@pytest.mark.parametrize("build", [node, go, java, cpp], ids=lambda build: build.__name__)
def test_an_example_prints_labels_and_fails_with_a_reason(web: WebCommand, tmp_path: Path, build: Build) -> None:
    command = build(tmp_path)
    done = run(*command, web.url, COFFEE)
    assert done.returncode == 0, done.stderr
    assert "espresso" in done.stdout
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    refused = run(*command, web.url, broken)
    assert refused.returncode == 1
    assert "not_jpeg" in refused.stdout + refused.stderr
    assert run(*command).returncode == 2


@pytest.mark.parametrize("build", [node, go, java, cpp], ids=lambda build: build.__name__)
def test_an_example_states_a_missing_file_or_server_in_one_line(tmp_path: Path, build: Build) -> None:
    command = build(tmp_path)
    nobody = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    for url, file, fact in (
        (nobody, COFFEE, f"{nobody}/classify"),
        ("http://no.such.host.invalid", COFFEE, "no.such.host.invalid"),
        (nobody, str(tmp_path / "missing.jpg"), "missing.jpg"),
    ):
        failed = run(*command, url, file)
        assert (failed.returncode, failed.stdout) == (1, ""), failed.stderr
        (line,) = failed.stderr.splitlines()
        assert fact in line
        assert ("start the server" in line) is (file == COFFEE)


def test_java_and_cpp_print_the_json_of_the_api(web: WebCommand, tmp_path: Path) -> None:
    (result,) = json.loads(run(*cpp(tmp_path), web.url, COFFEE).stdout)["results"]
    assert [each["label"] for each in result["predictions"]] == ["espresso", "consomme", "soup bowl"]


def test_node_sends_several_photos(web: WebCommand, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    done = run(*node(tmp_path), web.url, COFFEE, broken, PHOTOS / "chelsea.jpg")
    assert done.returncode == 1
    first, second, third = done.stdout.splitlines()
    assert first == "coffee.jpg: espresso 0.992, consomme 0.004, soup bowl 0.001"
    assert second.startswith("broken.jpg: ")
    assert second.endswith("[not_jpeg]")
    assert third.startswith("chelsea.jpg: Egyptian cat")


def test_node_needs_no_web_application(server: TritonServer, tmp_path: Path) -> None:
    command = [*node(tmp_path, "generate.mjs"), f"http://{server.http_address}"]
    done = run(*command, COFFEE)
    assert (done.returncode, done.stdout) == (0, "espresso 0.992, consomme 0.004, soup bowl 0.001\n"), done.stderr
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    refused = run(*command, broken)
    assert refused.returncode == 1
    assert "[not_jpeg]" in refused.stderr


def test_node_states_the_cause_of_the_system(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    for file, code in ((COFFEE, "ECONNREFUSED"), (tmp_path / "missing.jpg", "ENOENT")):
        failed = run(*node(tmp_path, "generate.mjs"), nobody, file)
        assert (failed.returncode, failed.stdout) == (1, "")
        (line,) = failed.stderr.splitlines()
        assert code in line


def test_node_repeats_what_is_refused_for_now(serve_app: ServeApp, server: TritonServer, tmp_path: Path) -> None:
    """jpeg-web is busy with an open body, until the program reports its first 503."""
    url = f"grpc://{server.grpc_address}"
    with serve_app(url=url, metrics_url="", max_request_mib=1, max_held_mib=1) as web_url:
        host, _, port = web_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(999_999)
            )
            wait_until(lambda: httpx2.post(f"{web_url}/classify", content=Path(COFFEE).read_bytes()).status_code == 503)
            process = subprocess.Popen(
                [*node(tmp_path), web_url, COFFEE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            assert "503" in process.stderr.readline()
        printed, _ = process.communicate(timeout=60)
    assert (process.returncode, "espresso" in printed) == (0, True)
