"""Images and containers without Docker: buildah stores the image, runc runs it with Docker's defaults.

The container has its own namespaces, including the network. Its ports are the image's; `Container.inside` runs a
program of this machine in the container's network.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import run

# What `docker run --tmpfs /tmp` mounts.
DOCKERS_TMPFS = ["noexec", "nosuid", "nodev", "mode=1777"]


class Image:
    """An image in buildah's store.

    Attributes:
        config: Docker's image config: User, Entrypoint, Healthcheck, Labels ...
    """

    def __init__(self, name: str) -> None:
        self.name = name
        inspected = json.loads(subprocess.check_output(["buildah", "inspect", "--type", "image", name]))
        self.config: dict[str, Any] = inspected["Docker"]["config"]

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount the root file system and yield its path."""
        container = subprocess.check_output(["buildah", "from", "--pull-never", self.name], text=True).strip()
        try:
            yield Path(subprocess.check_output(["buildah", "mount", container], text=True).strip())
        finally:
            subprocess.run(["buildah", "rm", container], check=True, stdout=subprocess.DEVNULL)


class Container:
    """A container of a mounted image, with a read-only root, no capabilities, and the image's user.

    Args:
        image: The image.
        root: Its mounted root file system.
        folder: Where the bundle and the log go.
        models: The folder to mount at /models.
        arguments: Replace the image's command.
        environment: Added to the image's.
        shm_bytes: Size of /dev/shm; the default is Docker's.
        cpus: CPU limit, as `docker run --cpus`; None for no limit.
    """

    def __init__(
        self,
        image: Image,
        root: Path,
        folder: Path,
        *,
        models: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        shm_bytes: int = 64 << 20,
        cpus: float | None = None,
    ) -> None:
        self.name = f"jpeg-{uuid.uuid4().hex[:12]}"
        self.log = folder / f"{self.name}.log"
        self._bundle = folder / self.name
        self._bundle.mkdir()
        subprocess.run(["runc", "spec"], cwd=self._bundle, check=True)
        spec = json.loads((self._bundle / "config.json").read_text())
        config = image.config
        user, _, group = config["User"].partition(":")
        spec["root"] = {"path": str(root), "readonly": True}
        spec["process"].update(
            terminal=False,
            user={"uid": int(user), "gid": int(group)},
            cwd=config["WorkingDir"],
            env=[*config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())],
            args=[*config["Entrypoint"], *(arguments or config.get("Cmd") or ())],
            capabilities={kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
            noNewPrivileges=True,
        )
        for mount in spec["mounts"]:
            if mount["destination"] == "/dev/shm":
                mount["options"] = ["nosuid", "nodev", "mode=1777", f"size={shm_bytes}"]
        spec["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": DOCKERS_TMPFS},
            {"destination": "/models", "type": "bind", "source": str(models), "options": ["bind", "rw"]},
        ]
        if cpus is not None:
            spec["linux"]["resources"]["cpu"] = {"quota": int(cpus * 100_000), "period": 100_000}
        (self._bundle / "config.json").write_text(json.dumps(spec))
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                ["runc", "run", "--bundle", self._bundle, self.name],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Process id of the container's first process on the host."""
        return int(json.loads(subprocess.check_output(["runc", "state", self.name]))["pid"])

    def output(self) -> str:
        """Return its output so far."""
        return self.log.read_text(errors="replace")

    def exec(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in the container, as `docker exec` does."""
        return run("runc", "exec", self.name, *command, **options)

    def inside(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in the container's network."""
        return run("nsenter", f"--net=/proc/{self.pid}/ns/net", *command, **options)

    def wait_until_healthy(self, check: Sequence[str], seconds: float) -> None:
        """Run the image's health check until it passes."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            if self.exec(*check).returncode == 0:
                return
            time.sleep(0.5)
        raise AssertionError(f"not healthy within {seconds} s, or ended:\n{self.output()}")

    def wait(self, seconds: float) -> int:
        """Wait until it ends, and return its exit status."""
        return self._process.wait(seconds)

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        os.kill(self.pid, signal.Signals[name])

    def remove(self) -> None:
        """Kill it if it still runs, and delete it."""
        if self._process.poll() is None:
            subprocess.run(["runc", "kill", self.name, "KILL"], check=False, capture_output=True)
            self._process.wait(30)
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)
