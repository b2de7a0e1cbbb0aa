"""The programs in examples/, compiled and run as docs/languages.md shows them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from debian_tools import lacks, tool
from jpeg_serve import TritonServer
from support import PHOTOS, ROOT, run
from web_command import WebCommand

EXAMPLES = ROOT / "examples"
COFFEE = str(PHOTOS / "coffee.jpg")

Build = Callable[[Path], list[str]]


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


def node(_folder: Path) -> list[str]:
    return [tool("node", "nodejs"), str(EXAMPLES / "node" / "classify.mjs")]


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
    command = [tool("node", "nodejs"), str(EXAMPLES / "node" / "generate.mjs"), f"http://{server.http_address}"]
    done = run(*command, COFFEE)
    assert (done.returncode, done.stdout) == (0, "espresso 0.992, consomme 0.004, soup bowl 0.001\n"), done.stderr
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    refused = run(*command, broken)
    assert refused.returncode == 1
    assert "[not_jpeg]" in refused.stderr
