"""A connection that breaks in the middle of a gRPC request."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

import grpc

from faults.wire import INFER_METHOD

_CHUNK = 1 << 14
_TIMEOUT_S = 10.0


def send_half_over_grpc(address: str, message: bytes, cut_after: int) -> None:
    """Send a request over gRPC through a relay that hangs up after so many bytes.

    Args:
        address: HOST:PORT of the server.
        message: A serialised ModelInferRequest.
        cut_after: Bytes that reach the server, HTTP/2 frames counted.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = threading.Thread(target=_relay, args=(listener, address, cut_after), name="relay")
        relay.start()
        channel = grpc.insecure_channel(
            f"127.0.0.1:{listener.getsockname()[1]}",
            options=(("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)),
        )
        with channel, contextlib.suppress(grpc.RpcError):
            channel.unary_unary(INFER_METHOD)(message, timeout=_TIMEOUT_S)
        relay.join()


def _relay(listener: socket.socket, address: str, cut_after: int) -> None:
    """Pass bytes both ways between one client and the server until `cut_after` bytes went up."""
    host, _, port = address.rpartition(":")
    listener.settimeout(_TIMEOUT_S)
    try:
        client, _ = listener.accept()
    except TimeoutError:
        return
    with client, socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S) as server:
        while cut_after > 0:
            readable, _, _ = select.select([client, server], [], [], _TIMEOUT_S)
            if not readable:
                return
            for source in readable:
                data = source.recv(_CHUNK)
                if not data:
                    return
                if source is server:
                    client.sendall(data)
                else:
                    server.sendall(data[:cut_after])
                    cut_after -= len(data)
