"""A rolling update with the chart's settings, on two real servers under load, with and without their gateways.

There is no cluster here. `Service` stands in for kube-proxy: it routes new connections to the pods in its list and
leaves open connections alone. The servers and gateways, their options from the chart, the sequence and times of a stop,
and the clients are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from gateway_support import Gateway, ports_of
from jpeg_client import Client, JpegClientError
from jpeg_serve import ServerOptions, TritonServer
from support import ROOT, photo

# Short times for a short test; the chart refuses a connection age that is too long for the sleep before the stop.
TIMES = {"connectionAgeSeconds": 1, "preStopSeconds": 7, "drainSeconds": 8}
# Time until every node and gateway knows that a pod terminates. Usually well below a second; slow here.
KNOWN_EVERYWHERE_S = 3.0


@dataclass(frozen=True)
class Settings:
    """What the chart sets.

    Attributes:
        own: Options of jpeg-serve.
        triton: Options of tritonserver.
        pre_stop: The sleep of both containers before they stop, in seconds.
        age: GATEWAY_CONNECTION_AGE_S, None without a gateway.
    """

    own: list[str]
    triton: list[str]
    pre_stop: float
    age: str | None


def chart_settings(*, gateway: bool) -> Settings:
    """Read the settings from the chart's Deployment."""
    values = {"server": TIMES, "gateway": {"enabled": gateway}}
    with helm_python.Chart.load(ROOT / "deploy/kubernetes/chart") as chart:
        text = chart.render(values, name="demo")["triton-jpeg-classifier/templates/deployment.yaml"]
    (deployment,) = [document for document in yaml.safe_load_all(text) if document]
    server, *others = deployment["spec"]["template"]["spec"]["containers"]
    split = server["args"].index("--")
    sleep = server["lifecycle"]["preStop"]["exec"]["command"]
    assert all(other["lifecycle"] == server["lifecycle"] for other in others)
    ages = [each["value"] for other in others for each in other["env"] if each["name"] == "GATEWAY_CONNECTION_AGE_S"]
    assert len(ages) == gateway
    return Settings(server["args"][:split], server["args"][split + 1 :], float(sleep[1]), ages[0] if ages else None)


class Service:
    """Route new connections to the pods in turn and leave open connections alone, as kube-proxy does.

    Attributes:
        pods: The addresses of the pods, HOST:PORT.
        open: The number of open connections to each pod, by its address.
    """

    def __init__(self, pods: list[str]) -> None:
        self.pods = pods
        self.open: Counter[str] = Counter()
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.address = ""

    def __enter__(self) -> Service:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._route, "127.0.0.1", 0), self._loop)
        self._server = listening.result(10)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _route(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pod = self.pods[next(self._turn) % len(self.pods)]
        host, port = pod.split(":")
        writers = [writer]
        self.open[pod] += 1
        # Cancelled: the service ends with connections open.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            from_pod, to_pod = await asyncio.open_connection(host, int(port))
            writers.append(to_pod)
            await asyncio.gather(self._copy(reader, to_pod), self._copy(from_pod, writer))
        self.open[pod] -= 1
        for each in writers:
            each.transport.abort()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


class Load:
    """Clients that send one request after the other, each in a thread; counts responses and keeps failures."""

    def __init__(self, clients: list[Callable[[Load], None]], pause_s: float) -> None:
        self.pause_s = pause_s
        self.responses = 0
        self.failures: list[str] = []
        self.running = True
        self._threads = [threading.Thread(target=client, args=(self,)) for client in clients]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        for thread in self._threads:
            thread.join(60)


def over_grpc(address: str, gateway: Gateway | None) -> Callable[[Load], None]:
    """Keep one connection, as gRPC clients do, until the server closes it."""

    def run(load: Load) -> None:
        port = address.split(":")[1]
        client = (
            Client(f"grpc://{address}", timeout_s=20, retry=False)
            if gateway is None
            else Client(
                f"grpcs://localhost:{port}",
                timeout_s=20,
                retry=False,
                api_key=gateway.endpoint.key,
                ca=gateway.endpoint.certificate,
            )
        )
        with client:
            while load.running:
                try:
                    (found,) = client.classify([photo("chelsea")])
                    assert found.labels[0] == "Egyptian cat"
                    load.responses += 1
                    time.sleep(load.pause_s)
                except JpegClientError as error:
                    load.failures.append(f"gRPC: {error}")
                    time.sleep(0.1)

    return run


def over_http(address: str, gateway: Gateway | None) -> Callable[[Load], None]:
    """Keep one connection until the gateway closes it; without a gateway, for one second, as other gateways do."""
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    headers |= gateway.endpoint.headers if gateway else {}

    def connect() -> http.client.HTTPConnection:
        if gateway is None:
            return http.client.HTTPConnection(address, timeout=20)
        return http.client.HTTPSConnection(
            "localhost", int(address.split(":")[1]), timeout=20, context=gateway.endpoint.tls()
        )

    def run(load: Load) -> None:
        while load.running:
            connection = connect()
            try:
                # http.client opens a new connection where the last response said that this one ends.
                limit = time.monotonic() + (1000 if gateway else 1)
                while load.running and time.monotonic() < limit:
                    connection.request("POST", "/v2/models/jpeg_classifier/infer", photo("chelsea"), headers)
                    response = connection.getresponse()
                    body = response.read()
                    assert (response.status, b"Egyptian cat" in body) == (200, True), body[:200]
                    load.responses += 1
                    time.sleep(load.pause_s)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                load.failures.append(f"HTTP: {error!r}")
                time.sleep(0.1)
            finally:
                connection.close()

    return run


@dataclass(frozen=True)
class Pod:
    """A server, and its gateway if it has one."""

    server: TritonServer
    gateway: Gateway | None

    @property
    def addresses(self) -> tuple[str, str]:
        """The addresses for HTTP and gRPC."""
        if self.gateway is None:
            return self.server.http_address, self.server.grpc_address
        address = f"127.0.0.1:{self.gateway.endpoint.port}"
        return address, address

    def stop(self) -> None:
        """Send both containers their stop signals, and wait until both have ended."""
        if self.gateway:
            self.gateway.process.send_signal(signal.SIGQUIT)
        self.server.terminate()
        self.server.wait()
        if self.gateway:
            self.gateway.process.wait(60)


@contextlib.contextmanager
def pods(repository: Path, folder: Path, settings: Settings) -> Iterator[tuple[Pod, Pod]]:
    """Run two servers with the chart's options, on free ports, and their gateways, which have the same Secrets."""
    drain = next(argument.split("=")[1] for argument in settings.own if argument.startswith("--drain-s="))
    options: dict[str, Any] = {"backends": ROOT / "backends", "drain_s": int(drain), "triton": tuple(settings.triton)}
    with contextlib.ExitStack() as stack:
        servers: list[TritonServer] = []
        for name in ("old", "new"):
            sink = stack.enter_context((folder / f"{name}.log").open("wb"))
            served = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, **options)
            servers.append(TritonServer(served, log=sink))
            stack.callback(servers[-1].clean_up)
            servers[-1].start()
        for server in servers:
            server.wait_until_ready()
        gateways: list[Gateway] = []
        if settings.age is not None:
            for server in servers:
                secrets_of = gateways[0] if gateways else None
                gateway = Gateway([ports_of(server)], {"CONNECTION_AGE_S": settings.age}, secrets_of=secrets_of)
                gateways.append(stack.enter_context(gateway))
        old, new = itertools.zip_longest(servers, gateways)
        yield Pod(*old), Pod(*new)


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        responses: The number of responses.
        failures: What each failed request said.
        open_at_stop: The number of connections that the old pod still had when it was stopped. Each is a request at
            risk: a client may send one just while the server closes the connection.
    """

    responses: int
    failures: list[str]
    open_at_stop: int


def replace_under_load(repository: Path, folder: Path, settings: Settings, pause_s: float = 0.0) -> Update:
    """Run a rolling update of one pod with maxSurge 1 and maxUnavailable 0. pause_s: after each request of a client."""
    with contextlib.ExitStack() as stack:
        # The new one, too, and not under load: gRPC's clients in this process do not survive the fork of its start.
        old, new = stack.enter_context(pods(repository, folder, settings))
        services = [stack.enter_context(Service([address])) for address in old.addresses]
        over = [over_http(services[0].address, old.gateway), *[over_grpc(services[1].address, old.gateway)] * 2]
        load = stack.enter_context(Load(over, pause_s))
        time.sleep(1)
        # The new pod joins first, and is ready.
        for service, address in zip(services, new.addresses, strict=True):
            service.pods.append(address)
        time.sleep(1)
        # The old pod terminates: its sleep begins, and meanwhile the endpoints propagate.
        terminating = time.monotonic()
        time.sleep(KNOWN_EVERYWHERE_S)
        for service in services:
            del service.pods[0]
        time.sleep(settings.pre_stop - (time.monotonic() - terminating))
        open_at_stop = sum(service.open[address] for service, address in zip(services, old.addresses, strict=True))
        old.stop()
        time.sleep(1)
        load.running = False
    return Update(load.responses, load.failures, open_at_stop)


@pytest.mark.parametrize("gateway", [True, False])
def test_an_update_loses_no_request(built_repository: Path, tmp_path: Path, gateway: bool) -> None:
    update = replace_under_load(built_repository, tmp_path, chart_settings(gateway=gateway))
    assert update.failures == []
    assert update.responses > 200
    assert update.open_at_stop == 0


def test_without_the_age_of_connections_clients_stay_with_a_pod_that_stops(
    built_repository: Path, tmp_path: Path
) -> None:
    """The chart's options are necessary. Whether a request is then lost is a matter of microseconds."""
    settings = replace(chart_settings(gateway=True), age="3600")
    # With a pause, since nginx closes a connection after 1,000 requests (keepalive_requests), too.
    update = replace_under_load(built_repository, tmp_path, settings, pause_s=0.05)
    assert update.open_at_stop == 3
