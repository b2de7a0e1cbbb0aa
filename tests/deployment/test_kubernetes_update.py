"""A rolling update as the chart orders it, on two real servers: the old one is replaced under load, and nobody notices.

There is no cluster here. What stands in for one is small: `Service` does what kube-proxy does for a Service: it leads
new connections to the pods in the list, and leaves open ones where they are. All else is real: the servers with
the chart's own options, the order and the times of a stop, the clients.
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

# Short, so that the test is; the chart refuses an age that is too long for the sleep before the stop.
TIMES = {"grpcMaxConnectionAgeSeconds": 1, "preStopSeconds": 7, "drainSeconds": 8}
# Until every node and gateway knows that a pod is going. Mostly well below a second; here it is slow.
KNOWN_EVERYWHERE_S = 3.0


def chart_arguments() -> tuple[list[str], list[str], float]:
    """The options of jpeg-serve and of tritonserver in the chart's Deployment, and the sleep before the stop."""
    with helm_python.Chart.load(ROOT / "deploy/kubernetes/chart") as chart:
        text = chart.render({"server": TIMES}, name="demo")["triton-jpeg-classifier/templates/deployment.yaml"]
    (deployment,) = [document for document in yaml.safe_load_all(text) if document]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    split = server["args"].index("--")
    sleep = server["lifecycle"]["preStop"]["exec"]["command"]
    return server["args"][:split], server["args"][split + 1 :], float(sleep[1])


class Service:
    """New connections go to the pods in turn; what is connected stays connected, as with kube-proxy."""

    def __init__(self, pods: list[str]) -> None:
        self.pods = pods
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.address = ""

    def __enter__(self) -> Service:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._lead, "127.0.0.1", 0), self._loop)
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

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.pods[next(self._turn) % len(self.pods)].split(":")
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        writer.close()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


class Load:
    """Clients that ask without a pause, each in a thread; counts their answers and keeps their failures."""

    def __init__(self, asks: list[Callable[[Load], None]]) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self.running = True
        self._threads = [threading.Thread(target=ask, args=(self,)) for ask in asks]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        for thread in self._threads:
            thread.join(60)


def over_grpc(address: str) -> Callable[[Load], None]:
    """One connection for ever, as gRPC clients have it, unless the server asks for a new one."""

    def ask(load: Load) -> None:
        with Client(f"grpc://{address}", timeout_s=20) as client:
            while load.running:
                try:
                    (found,) = client.classify([photo("chelsea")])
                    assert found.labels[0] == "Egyptian cat"
                    load.answers += 1
                except JpegClientError as error:
                    load.failures.append(f"gRPC: {error}")
                    time.sleep(0.1)

    return ask


def over_http(address: str) -> Callable[[Load], None]:
    """A connection for a second at a time: gateways have a limit like that (nginx: keepalive_time)."""
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}

    def ask(load: Load) -> None:
        while load.running:
            connection = http.client.HTTPConnection(address, timeout=20)
            try:
                limit = time.monotonic() + 1
                while load.running and time.monotonic() < limit:
                    connection.request("POST", "/v2/models/jpeg_classifier/infer", photo("chelsea"), headers)
                    answer = connection.getresponse()
                    body = answer.read()
                    assert (answer.status, b"Egyptian cat" in body) == (200, True), body[:200]
                    load.answers += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                load.failures.append(f"HTTP: {error!r}")
                time.sleep(0.1)
            finally:
                connection.close()

    return ask


@contextlib.contextmanager
def pod(repository: Path, log: Path, own: list[str], triton: list[str]) -> Iterator[TritonServer]:
    """A server with the chart's options, on free ports."""
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
    """A rolling update with maxSurge 1 and maxUnavailable 0, of one pod."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(pod(repository, folder / "old.log", own, triton))
        http_service = stack.enter_context(Service([old.http_address]))
        grpc_service = stack.enter_context(Service([old.grpc_address]))
        asks = [over_grpc(grpc_service.address), over_grpc(grpc_service.address), over_http(http_service.address)]
        load = stack.enter_context(Load(asks))
        # The new pod first; it is ready, and joins.
        new = stack.enter_context(pod(repository, folder / "new.log", own, triton))
        http_service.pods.append(new.http_address)
        grpc_service.pods.append(new.grpc_address)
        time.sleep(2)
        # The old pod goes: its sleep begins, and meanwhile the news spreads.
        going = time.monotonic()
        time.sleep(KNOWN_EVERYWHERE_S)
        http_service.pods.remove(old.http_address)
        grpc_service.pods.remove(old.grpc_address)
        time.sleep(pre_stop - (time.monotonic() - going))
        old.terminate()
        old.wait()
        time.sleep(2)
        load.running = False
    return load


def test_an_update_loses_no_request(built_repository: Path, tmp_path: Path) -> None:
    own, triton, pre_stop = chart_arguments()
    load = replace_under_load(built_repository, tmp_path, triton, own, pre_stop)
    assert load.failures == []
    assert load.answers > 200


def test_without_the_age_of_connections_an_update_loses_requests(built_repository: Path, tmp_path: Path) -> None:
    """What the chart's options are for, and the proof that the test above could fail."""
    own, triton, pre_stop = chart_arguments()
    kept = [argument for argument in triton if "connection-age" not in argument]
    assert len(kept) < len(triton)
    load = replace_under_load(built_repository, tmp_path, kept, own, pre_stop)
    assert load.failures
    assert all(failure.startswith("gRPC") for failure in load.failures)
