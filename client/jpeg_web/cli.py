"""The command `jpeg-web`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jpeg_client.api_keys import KEY_VARIABLE, NO_KEY_OPTION, names_key, read_key
from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL, URL_VARIABLE
from jpeg_client.errors import InvalidArgument, JpegClientError
from jpeg_contract.command_line import (
    FAILED,
    OK,
    WRONG_CALL,
    Parameter,
    Port,
    PositiveSeconds,
    fail,
    make_app,
    note,
    positive,
    run_app,
)
from jpeg_contract.errors import ReasonedError
from jpeg_contract.tensors import ENSEMBLE

if TYPE_CHECKING:
    from jpeg_web.settings import Settings

COMMAND = "jpeg-web"
DEFAULT_ADDRESS, DEFAULT_PORT = "127.0.0.1", 8080

# Above the 60 s for which nginx keeps an idle connection, so that no request meets a connection that is closing.
_KEEP_ALIVE_S = 75

app = make_app(
    COMMAND,
    "Serve JSON over HTTP and a page for the browser, in front of a running server.",
    f"A gateway in front of the server requires an API key. It comes from a file or from the environment variable "
    f"{KEY_VARIABLE}. The application itself requires no key: beyond 127.0.0.1, put a gateway in front.\n\n"
    "Ctrl-C or SIGTERM stops the application: it finishes open requests first.\n\n"
    "Exit status: 0 stopped by a signal; 1 it failed; 2 the call is invalid.",
)
app.usage = f"Usage: {COMMAND} [OPTIONS]"


class PortTaken(ReasonedError):
    """The port cannot be used."""

    reason = "port_taken"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: None takes sys.argv.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if names_key(tokens):
        return fail(COMMAND, NO_KEY_OPTION, WRONG_CALL, reason="invalid_call")
    return run_app(
        app, tokens, extra="web", statuses={InvalidArgument: WRONG_CALL, PortTaken: FAILED, JpegClientError: FAILED}
    )


@app.default
def serve(
    *,
    url: Annotated[str, Parameter(env_var=URL_VARIABLE)] = DEFAULT_URL,
    metrics_url: str | None = None,
    address: str = DEFAULT_ADDRESS,
    port: Port = DEFAULT_PORT,
    model: Annotated[tuple[str, ...], Parameter(show_default=", ".join)] = (ENSEMBLE,),
    cors: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    api_key_file: Path | None = None,
    ca: Path | None = None,
    timeout_s: PositiveSeconds = DEFAULT_TIMEOUT_S,
    max_request_mib: Annotated[float, Parameter(validator=positive)] = 48.0,
    root_path: Annotated[str, Parameter(show_default=False)] = "",
    drain_s: PositiveSeconds = 30.0,
) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        url: Triton: grpc://HOST:PORT, http://HOST:PORT, or with TLS grpcs://HOST:PORT, https://HOST:PORT. By default
            JPEG_URL, if it is set.
        metrics_url: Triton's metrics, http://HOST:PORT/metrics. By default port 8002 of the host in --url; "" for none.
        address: IP address to listen on.
        port: Port to listen on; 0 takes a free one.
        model: Ensemble that requests may name, can be repeated; the first one is the default.
        cors: Origin whose pages may call the application, as https://example.org, can be repeated; * for all.
        api_key_file: Text file with the API key for a gateway. By default JPEG_API_KEY holds the key, if any.
        ca: PEM file with the server's CA or self-signed certificate, for TLS. By default the public CAs are trusted.
        timeout_s: Time limit for the classification of one request, in seconds.
        max_request_mib: Longest body of a request, in MiB.
        root_path: Path under which a proxy serves the application, as /jpeg.
        drain_s: Time limit for open requests once the application stops, in seconds.
    """
    if api_key_file is not None and (not api_key_file.exists() or api_key_file.is_dir()):
        # Not repeated: the value may be the key.
        return fail(
            COMMAND,
            "--api-key-file does not name a file: it takes the path of a file, not the key itself",
            WRONG_CALL,
            reason="file_missing",
        )
    if ca is not None and not ca.exists():
        return fail(COMMAND, f"no such file: {ca}", WRONG_CALL, reason="file_missing")

    from jpeg_web.settings import Settings

    settings = Settings(
        url=url,
        metrics_url=metrics_url,
        api_key=read_key(api_key_file),
        ca=ca,
        models=model,
        cors=cors,
        timeout_s=timeout_s,
        max_request_mib=max_request_mib,
    )
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        return fail(
            COMMAND,
            f"--root-path {root_path} is invalid: it begins with a slash and does not end with one, as /jpeg",
            WRONG_CALL,
            reason="invalid_call",
        )
    logging.basicConfig(format=f"{COMMAND}: %(message)s", level=logging.WARNING)
    try:
        return asyncio.run(_serve(settings, address, port, root_path, drain_s))
    except KeyboardInterrupt:  # uvicorn has finished the open requests
        note(COMMAND, "stopped")
        return OK


async def _serve(settings: Settings, address: str, port: int, root_path: str, drain_s: float) -> int:
    import uvicorn

    from jpeg_web.application import create_app
    from jpeg_web.backend import Backend

    # Invalid settings end the command; inside the application, uvicorn would log them with a traceback.
    async with Backend(settings):
        pass

    class Server(uvicorn.Server):
        """Reports its address once it serves."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                note(COMMAND, f"ready\n  web      http://{_authority(listener)}{root_path}/")

    with _listen(address, port) as listener:
        server = Server(
            uvicorn.Config(
                create_app(settings),
                log_config=None,
                access_log=False,  # queries and addresses are the client's
                ws="none",
                root_path=root_path,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )
        await server.serve(sockets=[listener])
    return OK if server.started else FAILED


def _listen(address: str, port: int) -> socket.socket:
    """Listen on a port; 0 takes a free one. Raises PortTaken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=2048)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise PortTaken(
            f"port {port} on {address} cannot be used ({cause}): choose another with --port PORT, or a free one with "
            "--port 0"
        ) from error


def _authority(listener: socket.socket) -> str:
    """Return HOST:PORT to connect to."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
