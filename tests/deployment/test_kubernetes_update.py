"""A rolling update with the chart's settings, on two real servers under load.

There is no cluster here. `Service` stands in for kube-proxy: it routes new connections to the pods in its list and
leaves open connections alone. The servers, their options from the chart, the sequence and times of a stop, and the
clients are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import yaml
from jpeg_client import Client, JpegClientError
from jpeg_serve import ServerOptions, TritonServer
from support import ROOT, photo

# Short times for a short test; the chart refuses a connection age that is too long for the sleep before the stop.
TIMES = {"grpcMaxConnectionAgeSeconds": 1, "preStopSeconds": 7, "drainSeconds": 8}
# Time until every node and gateway knows that a pod terminates. Usually well below a second; slow here.
KNOWN_EVERYWHERE_S = 3.0


def chart_arguments() -> tuple[list[str], list[str], float]:
    """Return the options of jpeg-serve and of tritonserver in the chart's Deployment, and the sleep before the stop."""
    with helm_python.Chart.load(ROOT / "deploy/kubernetes/chart") as chart:
        text = chart.render({"server": TIMES}, name="demo")["triton-jpeg-classifier/templates/deployment.yaml"]
    (deployment,) = [document for document in yaml.safe_load_all(text) if document]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    split = server["args"].index("--")
    sleep = server["lifecycle"]["preStop"]["exec"]["command"]
    return server["args"][:split], server["args"][split + 1 :], float(sleep[1])


class Service:
    """Route new connections to the pods in turn and leave open connections alone, as kube-proxy does."""

    def __init__(self, pods: list[str]) -> None:
        self.pods = pods
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
        host, port = self.pods[next(self._turn) % len(self.pods)].split(":")
        with contextlib.suppress(OSError):
            from_pod, to_pod = await asyncio.open_connection(host, int(port))
            await asyncio.gather(self._copy(reader, to_pod), self._copy(from_pod, writer))
        writer.close()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


class Load:
    """Clients that send requests without a pause, each in a thread; counts responses and keeps failures."""

    def __init__(self, clients: list[Callable[[Load], None]]) -> None:
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


def over_grpc(address: str) -> Callable[[Load], None]:
    """Keep one connection, as gRPC clients do, until the server closes it."""

    def run(load: Load) -> None:
        with Client(f"grpc://{address}", timeout_s=20, retry=False) as client:
            while load.running:
                try:
                    (found,) = client.classify([photo("chelsea")])
                    assert found.labels[0] == "Egyptian cat"
                    load.responses += 1
                except JpegClientError as error:
                    load.failures.append(f"gRPC: {error}")
                    time.sleep(0.1)

    return run


def over_http(address: str) -> Callable[[Load], None]:
    """Use each connection for one second: gateways have such a limit (nginx: keepalive_time)."""
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}

    def run(load: Load) -> None:
        while load.running:
            connection = http.client.HTTPConnection(address, timeout=20)
            try:
                limit = time.monotonic() + 1
                while load.running and time.monotonic() < limit:
                    connection.request("POST", "/v2/models/jpeg_classifier/infer", photo("chelsea"), headers)
                    response = connection.getresponse()
                    body = response.read()
                    assert (response.status, b"Egyptian cat" in body) == (200, True), body[:200]
                    load.responses += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                load.failures.append(f"HTTP: {error!r}")
                time.sleep(0.1)
            finally:
                connection.close()

    return run


@contextlib.contextmanager
def pod(repository: Path, log: Path, own: list[str], triton: list[str]) -> Iterator[TritonServer]:
    """Run a server with the chart's options, on free ports."""
    drain = next(argument.split("=")[1] for argument in own if argument.startswith("--drain-s="))
    options: dict[str, Any] = {"backends": ROOT / "backends", "drain_s": int(drain), "triton": tuple(triton)}
    with (
        log.open("wb") as sink,
        TritonServer(
            ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, **options), log=sink
        ) as server,
    ):
        yield server


def replace_under_load(repository: Path, folder: Path, triton: list[str], own: list[str], pre_stop: float) -> Load:
    """Run a rolling update of one pod with maxSurge 1 and maxUnavailable 0."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(pod(repository, folder / "old.log", own, triton))
        http_service = stack.enter_context(Service([old.http_address]))
        grpc_service = stack.enter_context(Service([old.grpc_address]))
        clients = [over_grpc(grpc_service.address), over_grpc(grpc_service.address), over_http(http_service.address)]
        load = stack.enter_context(Load(clients))
        # The new pod first: it joins when it is ready.
        new = stack.enter_context(pod(repository, folder / "new.log", own, triton))
        http_service.pods.append(new.http_address)
        grpc_service.pods.append(new.grpc_address)
        time.sleep(2)
        # The old pod terminates: its sleep begins, and meanwhile the endpoints propagate.
        terminating = time.monotonic()
        time.sleep(KNOWN_EVERYWHERE_S)
        http_service.pods.remove(old.http_address)
        grpc_service.pods.remove(old.grpc_address)
        time.sleep(pre_stop - (time.monotonic() - terminating))
        old.terminate()
        old.wait()
        time.sleep(2)
        load.running = False
    return load


def test_an_update_loses_no_request(built_repository: Path, tmp_path: Path) -> None:
    own, triton, pre_stop = chart_arguments()
    load = replace_under_load(built_repository, tmp_path, triton, own, pre_stop)
    assert load.failures == []
    assert load.responses > 200


def test_without_the_age_of_connections_an_update_loses_requests(built_repository: Path, tmp_path: Path) -> None:
    """The chart's options are necessary, and the test above can fail."""
    own, triton, pre_stop = chart_arguments()
    kept = [argument for argument in triton if "connection-age" not in argument]
    assert len(kept) < len(triton)
    load = replace_under_load(built_repository, tmp_path, kept, own, pre_stop)
    assert load.failures
    assert all(failure.startswith("gRPC") for failure in load.failures)
