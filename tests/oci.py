"""Images and containers without Docker: buildah keeps the image, runc runs it as Docker would.

The container has namespaces of its own, also for the network: its ports are the image's, and `inside` runs programs of
this machine where they can be reached.
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
    """An image in buildah's store. `config` is Docker's: User, Entrypoint, Healthcheck, Labels ..."""

    def __init__(self, name: str) -> None:
        self.name = name
        inspected = json.loads(subprocess.check_output(["buildah", "inspect", "--type", "image", name]))
        self.config: dict[str, Any] = inspected["Docker"]["config"]

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Its root file system."""
        container = subprocess.check_output(["buildah", "from", "--pull-never", self.name], text=True).strip()
        try:
            yield Path(subprocess.check_output(["buildah", "mount", container], text=True).strip())
        finally:
            subprocess.run(["buildah", "rm", container], check=True, stdout=subprocess.DEVNULL)


class Container:
    """A container of a mounted image, with a read-only root, no capabilities, and the image's user.

    models: the folder that is mounted at /models. shm_bytes: /dev/shm, by default as large as Docker's. cpus: limits
    its time on the processors, as `docker run --cpus`.
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
        """Process id of the container's first process, in this machine's count."""
        return int(json.loads(subprocess.check_output(["runc", "state", self.name]))["pid"])

    def said(self) -> str:
        """What it printed so far."""
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
        raise AssertionError(f"not healthy after {seconds} s, or ended; it said:\n{self.said()}")

    def wait(self, seconds: float) -> int:
        """Wait until it ends; returns its exit status."""
        return self._process.wait(seconds)

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        os.kill(self.pid, signal.Signals[name])

    def remove(self) -> None:
        """End it if it still runs, and forget it."""
        if self._process.poll() is None:
            subprocess.run(["runc", "kill", self.name, "KILL"], check=False, capture_output=True)
            self._process.wait(30)
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)
