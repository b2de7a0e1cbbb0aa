"""Runs one or several tritonservers on the same ports, and replaces each that dies, hangs or fails.

Each server has a keeper, a thread that starts it, watches it, and starts it again. (Linux ends a server with the thread
that started it, so the keeper lives as long.) The kernel spreads connections over the servers that listen; a server
listens once its models are loaded.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import BinaryIO

from jpeg_contract.command_line import Progress, waiting

from jpeg_serve import ports
from jpeg_serve.errors import PortError, ProbeError, ServeError, ServerDied
from jpeg_serve.options import ServerOptions
from jpeg_serve.probe import ProbeResult, ProbeSkipped, probe_once
from jpeg_serve.server import Member, TritonServer, wait_until_free
from jpeg_serve.watch import Fault, Watch, guarded_start

# Seconds before the second, third, ... start in a row of a server that does not start, or faults right after; the last
# one repeats.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_SHORT_LIFE_S = 5.0
# After so many starts in a row that failed, jpeg-serve ends: an orchestrator shall know, and may have another machine.
_MOST_FAILED_STARTS = 20
# A program that opens a connection may hold a port for a moment.
_LOST_PORT = "already in use"
_MOST_LOST_PORTS = 3
_LOOK_S = 0.1
# How long the first photo of a server that is started again may take, at least, and compared with the one before.
_LEAST_PHOTO_S, _PHOTO_FACTOR = 5.0, 4.0


class Keeper:
    """Keeps one server running.

    Args:
        options: Of the server, with settled ports.
        member: Its place.
        log: Receives what tritonserver prints; None is stderr.
        progress: Takes lines about what happens.

    Attributes:
        server: The current one, None between two.
        restarts: How many faults ended a server, by their reasons.
        failure: Why there is no server any more, None while there may be one.
    """

    def __init__(self, options: ServerOptions, member: Member, log: BinaryIO | None, progress: Progress) -> None:
        self._options, self._member, self._log, self._progress = options, member, log, progress
        self.server: TritonServer | None = None
        self.restarts: dict[str, int] = {}
        self.failure: ServeError | None = None
        self.first_probes: dict[str, ProbeResult | ProbeSkipped] | None = None
        self._first_photo_s: float | None = None
        self._ending = threading.Event()
        self._replacing = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper-{member.number}", daemon=True)

    @property
    def number(self) -> int:
        """Number of the server, from 1."""
        return self._member.number

    def start(self) -> None:
        """Start the server; returns at once."""
        self._thread.start()

    def wait_until_ready(self, is_ending: Callable[[], bool]) -> None:
        """Wait until the first server is ready. Raises ServeError if it does not become ready."""
        while not self._ready.wait(_LOOK_S):
            if is_ending():
                return
            if self.failure is not None:
                raise self.failure

    @property
    def most_http_responses(self) -> int:
        """How many HTTP responses can finish at once without a loss; 0 if that is unknown."""
        server = self.server
        return server.most_http_responses if server is not None else 0

    @property
    def is_ready(self) -> bool:
        """Whether a server serves."""
        return self._ready.is_set()

    def replace(self) -> None:
        """Drain the server, and start another one in its place; returns at once."""
        self._ready.clear()
        self._replacing.set()

    def end(self) -> None:
        """Drain the server and stop it; returns at once."""
        self._ending.set()

    def kill(self) -> None:
        """End the server at once."""
        self._ending.set()
        server = self.server
        if server is not None:
            server.kill()

    def join(self) -> None:
        """Wait until the server has stopped."""
        self._thread.join()

    def _run(self) -> None:
        failed_starts, short_lives = 0, 0
        while not self._ending.is_set():
            server = TritonServer(self._options, log=self._log, member=self._member)
            try:
                photo_s = self._bring_up(server, failed_starts)
            except Exception as error:  # a keeper that ends without a word would leave no server
                server.kill()
                server.clean_up()
                self.server = None
                failed_starts += 1
                if self._ending.is_set():
                    break
                if failed_starts >= self._most_failed_starts(error):
                    self.failure = error if isinstance(error, ServeError) else ServeError(str(error))
                    return
                self._progress(f"{self._name()} cannot be started, the next try follows: {error}")
                short_lives += 1
            else:
                failed_starts = 0
                ready_at = time.monotonic()
                fault = self._serve(server, photo_s)
                if fault is None:
                    continue
                self.restarts[fault.reason] = self.restarts.get(fault.reason, 0) + 1
                self._progress(f"{self._name()} is replaced: {fault.detail} [{fault.reason}]")
                short_lives = short_lives + 1 if time.monotonic() - ready_at < _SHORT_LIFE_S else 0
            if short_lives:
                self._ending.wait(_PAUSES_S[min(short_lives, len(_PAUSES_S)) - 1])

    def _most_failed_starts(self, error: Exception) -> int:
        """Return after how many failed starts in a row to give up: at first, an error is the user's to correct."""
        if self.first_probes is not None:
            return _MOST_FAILED_STARTS
        return _MOST_LOST_PORTS if _LOST_PORT in str(error) else 1

    def _bring_up(self, server: TritonServer, failed_starts: int) -> float:
        """Start a server, and wait until it answers a photo.

        Args:
            server: The server.
            failed_starts: In a row, before this one.

        Returns:
            How long it takes for one photo, in seconds.
        """
        server.start()
        self.server = server
        if self.first_probes is None:
            for classifier in server.classifiers if self.number == 1 else ():
                self._progress(str(classifier))
            self._progress("loading the models ..." if self.number == 1 else f"loading {self._name()} ...")
        with guarded_start(server, is_loaded=False):
            report = waiting(lambda seconds: self._progress(f"loading, {seconds:.0f} s"))
            server.wait_until_ready(report, self._ending.is_set)
        with guarded_start(server, is_loaded=True):
            return self._first_photos(server, failed_starts)

    def _first_photos(self, server: TritonServer, failed_starts: int) -> float:
        """Let a server that is ready answer photos, and return how long it takes for one, in seconds."""
        limit_s = server.options.ready_timeout_s
        if self._first_photo_s is not None:
            # Another classifier may need longer than the one before: it gets twice the time at each try.
            usual_s = max(_LEAST_PHOTO_S, _PHOTO_FACTOR * self._first_photo_s)
            limit_s = min(limit_s, usual_s * 2**failed_starts)
        photo_s = first_s = 0.0
        probes: dict[str, ProbeResult | ProbeSkipped] = {}
        for name in server.ensembles:
            try:
                begun = time.monotonic()
                # Compared with the report at the first start only: later, the repository may hold a newer build.
                if self.first_probes is None:
                    probes[name] = server.probe(limit_s, name)
                else:
                    probe_once(server.http_address, limit_s, server.server_id, name)
                # The first requests may compile kernels.
                first_s = max(first_s, time.monotonic() - begun)
                begun = time.monotonic()
                probe_once(server.http_address, limit_s, server.server_id, name)
                photo_s = max(photo_s, time.monotonic() - begun)
            except ProbeSkipped as skipped:
                probes[name] = skipped
            except ProbeError as error:
                if error.reason != "overloaded":
                    raise
                # Clients have found it already.
        if first_s:
            self._first_photo_s = first_s
        if self.first_probes is None:
            self.first_probes = probes
        return photo_s

    def _serve(self, server: TritonServer, photo_s: float) -> Fault | None:
        """Watch a server until it must end, and end it.

        Returns:
            The fault; None if it was stopped on purpose.
        """
        self._replacing.clear()
        self._ready.set()
        if self.restarts:
            self._progress(f"{self._name()} serves again")
        fault: Fault | None
        try:
            fault = Watch(server, photo_s).wait(lambda: self._ending.is_set() or self._replacing.is_set())
        except Exception as error:  # what cannot be watched is not to be trusted
            fault = Fault("fails", f"it cannot be watched: {error}")
        self._ready.clear()
        if fault is None:
            server.stop()
        else:
            # At once: what it answers from now on may be wrong, and connections of a dead server are reset.
            server.kill()
            server.clean_up()
        self.server = None
        return fault

    def _name(self) -> str:
        return f"server {self.number}"


class Supervisor:
    """Runs several servers on the same ports, from `start` to `stop`.

    Args:
        options: The models to serve, and where.
        devices: CUDA_VISIBLE_DEVICES of each server, None to leave it as it is; as many as there are servers.
        log: Receives what the tritonservers print; None is stderr.
        progress: Takes lines about what happens.

    Attributes:
        options: With the ports that are in use.
        keepers: One for each server.
    """

    def __init__(
        self,
        options: ServerOptions,
        devices: Sequence[str | None],
        *,
        progress: Progress,
        log: BinaryIO | None = None,
    ) -> None:
        self.options = options
        self._devices, self._log, self._progress = devices, log, progress
        self.keepers: list[Keeper] = []
        self._ports = ExitStack()
        self._ending = threading.Event()

    @property
    def http_address(self) -> str:
        """HOST:PORT for HTTP, as tritonclient takes it."""
        return f"{ports.reachable(self.options.address)}:{self.options.http_port}"

    @property
    def grpc_address(self) -> str:
        """HOST:PORT for gRPC, as tritonclient takes it."""
        return f"{ports.reachable(self.options.address)}:{self.options.grpc_port}"

    def start(self) -> None:
        """Start the servers, and wait until all are ready.

        Raises:
            ServeError: One cannot be started.
        """
        self._reserve_ports()
        self.keepers = [
            Keeper(self.options, Member(number, len(self._devices) == 1, device), self._log, self._progress)
            for number, device in enumerate(self._devices, start=1)
        ]
        # What keeps one from starting keeps all: the first one finds it.
        for some in (self.keepers[:1], self.keepers[1:]):
            for keeper in some:
                keeper.start()
            for keeper in some:
                keeper.wait_until_ready(self._ending.is_set)

    def wait(self) -> None:
        """Wait until `end` is called.

        Raises:
            ServerDied: No server can be kept running.
        """
        while not self._ending.wait(_LOOK_S):
            failures = [keeper.failure for keeper in self.keepers]
            if failures and all(failures):
                raise ServerDied(f"no server can be started any more: {failures[0]}", reason="server_ended")

    def replace_all(self) -> None:
        """Drain and replace the servers, one after the other."""
        for keeper in self.keepers:
            if keeper.failure is None:
                self._progress(f"server {keeper.number} is drained and replaced")
                keeper.replace()
                while not keeper.is_ready and keeper.failure is None and not self._ending.wait(_LOOK_S):
                    pass

    def end(self) -> None:
        """Start to stop: accepted requests are answered. Returns at once."""
        self._ending.set()
        for keeper in self.keepers:
            keeper.end()

    def kill(self) -> None:
        """End all servers at once."""
        self._ending.set()
        for keeper in self.keepers:
            keeper.kill()

    def stop(self) -> None:
        """Stop the servers and wait until they have ended."""
        self.end()
        for keeper in self.keepers:
            with suppress(RuntimeError):  # it was never started
                keeper.join()
        self._ports.close()

    def _reserve_ports(self) -> None:
        """Choose the ports, and keep them while a server is replaced.

        A socket that is bound and does not listen gets no connections; others of this user may share its port.
        """
        address = self.options.address
        chosen: dict[str, int] = {}
        for name in ("http_port", "grpc_port", "metrics_port"):
            port = getattr(self.options, name)
            if port in chosen.values() and port:
                raise PortError(
                    f"port {port} is given twice: HTTP, gRPC and metrics need one each", reason="port_used_twice"
                )
            if port:
                wait_until_free(address, port, f"--{name.replace('_', '-')}")
            if name == "metrics_port":
                chosen[name] = port or ports.free_port(address)
                continue
            reserved = self._ports.enter_context(socket.socket(ports.family(address), socket.SOCK_STREAM))
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                reserved.bind((address, port))
            except OSError as error:
                raise PortError(
                    f"port {port} on {address} cannot be used ({os.strerror(error.errno or 0)}): choose another with "
                    f"--{name.replace('_', '-')} PORT"
                ) from error
            chosen[name] = reserved.getsockname()[1]
        self.options = replace(
            self.options,
            http_port=chosen["http_port"],
            grpc_port=chosen["grpc_port"],
            metrics_port=chosen["metrics_port"],
        )
