"""The commands of docs/gateway.md, word for word except the ports."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from debian_tools import tool
from gateway_support import as_nobody, give_away, ports_of
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from support import ROOT

SCRIPTS = ("deploy/gateway/gateway.sh", "deploy/gateway/secrets.sh")
PAGE = (ROOT / "docs/gateway.md").read_text()


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder of the user that the gateway runs as."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        give_away(Path(folder))
        yield Path(folder)


def blocks() -> list[list[str]]:
    """Return the commands of each console block; a line that ends with a backslash goes on."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        lines = re.split(r"(?<!\\)\n", block.strip())
        found.append([line.removeprefix("$ ") for line in lines if line.startswith("$ ")])
    return found


def test_the_commands_of_the_page_work_in_order(server: TritonServer, home: Path) -> None:
    tool("nginx", "nginx")
    port = str(free_port("127.0.0.1"))
    lines = [line for block in blocks() for line in block]
    # `out` and `in` need a second address, and no server there: no request is sent meanwhile.
    first, second = ports_of(server), f"127.0.0.1:{free_port('127.0.0.1')}:{free_port('127.0.0.1')}"
    for old, new in (
        ("127.0.0.1:8000:8001", first),
        ("127.0.0.1:9000:9001", second),
        ("localhost:8443", f"localhost:{port}"),
        (".venv/bin/", f"{Path(sys.executable).parent}/"),
    ):
        assert any(old in line for line in lines)
        lines = [line.replace(old, new) for line in lines]
    # If the tests run as root, the scripts still run as a user.
    as_user = [f'{script}() {{ {shlex.join(as_nobody())} {script} "$@"; }}' for script in SCRIPTS if as_nobody()]
    end = 'echo; ls -l "$SECRETS"; deploy/gateway/gateway.sh servers; kill "$(cat "$GATEWAY_RUN/nginx.pid")"; wait'
    script = "\n".join(["set -eu", *as_user, *lines, end])
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "GATEWAY_PORT": port,
        "GATEWAY_RUN": str(home / "run"),
        "GATEWAY_ACCESS_LOG": str(home / "access.log"),
    }
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            # Also what the shell has left, if it failed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "espresso" in output, errors
    assert f"1 {first} in\n2 {second} in\n" in output, errors
    assert output.endswith(f"1 {first} in\n2 {second} in\n"), errors
    assert process.returncode == 0, errors
    metadata, _ = json.JSONDecoder().raw_decode(output[output.index("{") :])
    assert metadata["name"] == "jpeg_classifier"
    # The secrets lie outside of the checkout, and only their owner reads them.
    assert {path.name for path in (home / ".jpeg-gateway").iterdir()} == {"certificate.key", "certificate.pem", "keys"}
    assert re.findall(r"^-rw-------.* (keys|certificate\.key)$", output, re.MULTILINE) == ["certificate.key", "keys"]
