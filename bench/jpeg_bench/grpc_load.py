"""One process that asks over gRPC: grpcio, with requests that are serialised already and answers that stay bytes."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from time import process_time, sleep
from typing import Any

import grpc

from jpeg_bench.arrivals import arrivals
from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.recorder import Recorder, clock

_CONNECT_S = 5.0
# What each request costs this process: measured, in bench/NOTES.md.
_OPTIONS = [
    # A request that may be repeated is kept for it; one that is measured never is repeated.
    ("grpc.enable_retries", 0),
    ("grpc.http2.write_buffer_size", 4 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels to one address share a connection otherwise.
    ("grpc.use_local_subchannel_pool", 1),
    # The environment may name a proxy, and this machine is reached without.
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str) -> grpc.Channel:
    """A connected channel. Raises BenchError if no gRPC server listens there."""
    nobody = f"no gRPC server answers at grpc://{address}"
    host, _, port = address.rpartition(":")
    try:
        # gRPC tries again and again where nobody listens; that is known at once.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise BenchError(f"{nobody} ({error}): is it running, and is that the right port?") from error
    channel = grpc.insecure_channel(address, options=_OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
    except grpc.FutureTimeoutError as error:
        channel.close()
        raise BenchError(f"{nobody}, but something else listens there: is that the right port?") from error
    return channel


class GrpcLoad:
    """See `jpeg_bench.load`. Raises BenchError if no gRPC server listens there.

    The calls are started by `future()`, the next one by the callback of the one before: all in the one thread that
    grpcio has for a channel, without a thread of ours that must be woken.
    """

    def __init__(self, asks: Sequence[Ask], load: Load, index: int, count: int) -> None:
        self._bodies, self._load = [ask.body for ask in asks], load
        self._arrivals = arrivals(load, index=index, count=count) if load.arrivals_per_s else iter(())
        self._next = index * len(asks) // count
        self._backlog: deque[float] = deque()
        self._under_way = 0
        self._is_over = False
        self._changed = threading.Condition()
        self._channels = [open_channel(asks[0].address) for _ in range(max(1, load.channels))]
        # Without serialisers: bytes go out and come in as they are.
        self._methods = [channel.unary_unary(asks[0].path) for channel in self._channels]

    def run(self, start: float, recorder: Recorder) -> None:
        """Ask from `start` to the end of the recorder's window, and wait for what is under way then."""
        self._recorder = recorder
        sleep(max(0.0, start - clock()))
        for _ in range(self._load.in_flight):
            self._begin(clock())
        due = self._let_pass(start + next(self._arrivals, 0.0), start, recorder.begin)
        cpu = process_time()
        self._let_pass(due, start, recorder.end)
        recorder.notes.cpu_s = process_time() - cpu
        with self._changed:
            self._is_over = True
            self._changed.wait_for(lambda: self._under_way == 0 or recorder.gave_up, self._load.timeout_s + 1)
        for _ in self._backlog:
            recorder.failed(clock(), f"not sent within {self._load.timeout_s:g} s: too many were under way")
        for channel in self._channels:
            channel.close()

    def _let_pass(self, due: float, start: float, end: float) -> float:
        """Send what is due until then, in an open loop; returns when the next request is due."""
        open_loop = self._load.arrivals_per_s > 0
        while (now := clock()) < end and not self._recorder.gave_up:
            if not open_loop:
                sleep(min(0.25, end - now))
                continue
            while due <= now:
                self._is_due(due)
                due = start + next(self._arrivals)
            sleep(max(0.0, min(due, end, now + 0.25) - clock()))
        return due

    def _is_due(self, due: float) -> None:
        with self._changed:
            if self._under_way >= self._load.most_outstanding:
                self._backlog.append(due)
                if due >= self._recorder.begin:
                    self._recorder.notes.held_back += 1
                return
            self._under_way += 1
        self._send(due)

    def _begin(self, due: float) -> None:
        with self._changed:
            self._under_way += 1
        self._send(due)

    def _send(self, due: float) -> None:
        """Send the next request; it is counted among those under way already."""
        number = self._next
        self._next = number + 1
        ask = number % len(self._bodies)
        method = self._methods[number % len(self._methods)]
        try:
            call = method.future(self._bodies[ask], timeout=self._load.timeout_s)
        except (ValueError, RuntimeError) as error:  # the channel was closed
            self._recorder.failed(clock(), f"not sent: {error}")
            self._ended()
            return
        call.add_done_callback(partial(self._done, due, ask))

    def _done(self, due: float, ask: int, call: Any) -> None:
        now, recorder = clock(), self._recorder
        if call.exception() is None:
            recorder.answered(due, now, ask, call.result())
        else:
            recorder.failed(now, f"{call.code().name}: {call.details()}")
        if self._load.in_flight and now < recorder.end and not recorder.gave_up:
            self._send(now)
        else:
            self._ended()

    def _ended(self) -> None:
        """One less is under way; one that was held back may go."""
        with self._changed:
            if not self._backlog or self._recorder.gave_up:
                self._under_way -= 1
                if self._is_over:
                    self._changed.notify()
                return
            due = self._backlog.popleft()
        self._send(due)
