"""deploy/compose.yaml without Docker: its schema, its references, and its security settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from jpeg_web.cli import app
from support import ROOT, run

DEPLOY = ROOT / "deploy"


def interpolated(path: Path) -> dict[str, Any]:
    """Read the file as Compose does when no variable is set: ${NAME:-default} is its default."""
    text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", path.read_text())
    assert not re.search(r"\$\{", text)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return interpolated(DEPLOY / "compose.yaml")


def check(document: dict[str, Any]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(document)).validate()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_files_follow_the_compose_specification(name):
    check(interpolated(DEPLOY / name))


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("server", "stop_grace_perod", "45s"),
        ("server", "shm_size", [1]),
        ("gateway", "depends_on", {"server": {"condition": "service_fine"}}),
        ("gateway", "networks", ["insid"]),
    ],
)
def test_the_schema_finds_mistakes(compose, service, key, value):
    document = yaml.safe_load(yaml.safe_dump(compose))
    document["services"][service][key] = value
    with pytest.raises(ValueError, match=re.escape(str(key if isinstance(value, (str, list)) else "condition"))[:6]):
        check(document)


def test_referenced_files_exist(compose):
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert (DEPLOY / volume["source"]).is_dir()
                assert volume["read_only"]
            else:
                assert volume.split(":")[0] in compose["volumes"]
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / "Dockerfile").is_file()
            assert f" AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()
        for secret in service.get("secrets", []):
            # deploy/up.sh creates these.
            assert Path(compose["secrets"][secret]["file"]).parent == Path("secrets")
    assert set(compose["networks"]) == {"inside", "outside"}


def test_every_container_is_hardened_and_limited(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"].rpartition("/")[2], name


def test_only_the_gateway_is_reachable_from_other_machines(compose):
    assert compose["networks"]["inside"] == {"internal": True}
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert name == "gateway" or port.startswith("127.0.0.1:")
        if name.startswith("server"):
            assert service["networks"] == ["inside"]
            assert "ports" not in service
            # So the entrypoint's own options hold, with --behind-gateway.
            assert not {"command", "entrypoint"} & set(service)


def test_the_web_application_is_behind_the_gateway_and_its_command_valid(compose):
    web, gateway = compose["services"]["web"], compose["services"]["gateway"]
    assert web["networks"] == ["inside"]
    assert "ports" not in web
    assert gateway["environment"]["GATEWAY_WEB"] == "web:8080"
    assert web["image"] == compose["services"]["server"]["image"]
    command, *options = web["command"]
    assert command == "jpeg-web"
    _, bound, _ = app.parse_args(options, exit_on_error=False, print_error=False)
    assert bound.arguments["address"] == "0.0.0.0"
    assert "port" not in bound.arguments  # 8080, as the gateway has it


def test_the_list_of_models_reaches_the_gateway():
    text = (DEPLOY / "compose.yaml").read_text()
    for name, default in (("GATEWAY_MODELS", "jpeg_classifier"), ("GATEWAY_PRIVATE_MODELS", "")):
        assert f"{name}: ${{{name}:-{default}}}\n" in text
        assert f': "${{{name}:={default}}}"\n' in (DEPLOY / "gateway" / "gateway.sh").read_text()


def test_services_wait_for_healthy_dependencies(compose):
    services = compose["services"]
    assert {name: list(service.get("depends_on", {})) for name, service in services.items()} == {
        "server": [],
        "server-2": ["server"],
        "web": ["server"],
        "gateway": ["server", "server-2", "web"],
        "prometheus": ["server"],
        "grafana": ["prometheus"],
    }
    for service in services.values():
        for wanted, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            # The server's image has the health check.
            assert "healthcheck" in services[wanted] or wanted.startswith("server")


def test_server_has_time_to_complete_open_requests(compose):
    from jpeg_serve import ServerOptions

    assert int(compose["services"]["server"]["stop_grace_period"].removesuffix("s")) > ServerOptions().drain_s + 10


def test_linter_finds_no_errors():
    linted = run(Path(sys.executable).with_name("compose-lint"), DEPLOY / "compose.yaml")
    assert linted.returncode == 0, linted.stdout


def test_make_up_creates_the_secrets_and_starts_compose(tmp_path):
    """A stand-in for `docker` records its arguments."""
    copy = tmp_path / "deploy"
    subprocess.run(["cp", "-R", "--", DEPLOY, copy], check=True)
    subprocess.run(["rm", "-rf", copy / "secrets"], check=True)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$GATEWAY_USER $*" >> {tmp_path}/arguments\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{docker.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    first = run(copy / "up.sh", env=environment)
    assert first.returncode == 0, first.stderr
    made = {path.name: path.stat() for path in (copy / "secrets").iterdir()}
    assert sorted(made) == ["certificate.key", "certificate.pem", "grafana_admin", "keys"]
    assert all(not state.st_mode & 0o077 for name, state in made.items() if name != "certificate.pem")
    owner = made["keys"]
    recorded = (tmp_path / "arguments").read_text()
    assert recorded == f"{owner.st_uid}:{owner.st_gid} compose -f compose.yaml up --detach --wait\n"
    assert owner.st_uid != 0
    assert "API key" in first.stderr
    second = run(copy / "up.sh", env=environment)
    assert second.returncode == 0
    assert "API key" not in second.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (copy / "secrets").iterdir()} == {
        name: state.st_mtime_ns for name, state in made.items()
    }
