"""Triton's management calls over gRPC, with the keys that open them.

Over HTTP, the thread that receives a load call is blocked until the model is loaded, and with it all connections that
this thread serves, health checks too. Over gRPC, no client waits.

Source: Triton's extension_model_repository.md, and protocol/inference_protocols.md on restricted protocols.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

# In this order: tritonclient takes a missing protobuf for an installation of its own without gRPC.
from jpeg_contract.keys import GRPC_KEY_HEADER
from jpeg_contract.model_config import ModelConfig
from tritonclient import grpc as grpc_client
from tritonclient.utils import InferenceServerException

from jpeg_serve.errors import ReloadError

# For calls that return at once, but may wait behind one that loads a model.
_RESPONSE_S = 30.0
_NAME_TIMEOUT_S = 1.0

_OPTION = "--grpc-restricted-protocol"

_CHANNEL = [
    # Servers are on this machine: the environment's proxy does not apply.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    # Otherwise gRPC gives a new channel the connection of an earlier one.
    ("grpc.use_local_subchannel_pool", 1),
]

_Response = TypeVar("_Response")


def restricted_protocols(arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the restricted gRPC protocols of a command line of tritonserver, each with its key and value."""
    keys: dict[str, tuple[str, str]] = {}
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != _OPTION:
            continue
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        protocols, _, pair = value.partition(":")
        key, _, secret = pair.partition("=")
        keys.update(dict.fromkeys(protocols.split(","), (key, secret)))
    return keys


@dataclass(frozen=True)
class ModelState:
    """One version of a model in the server. reason: why it is not ready, or the last failure."""

    name: str
    version: str
    state: str
    reason: str


class Management:
    """One server, for a `with` block.

    Args:
        address: HOST:PORT of its gRPC.
        keys: Of `restricted_protocols`.
        load_s: Time limit for one model to load, in seconds.
        server_id: Which of the servers at that address; empty takes any.

    Raises:
        ReloadError: The server does not respond.
    """

    def __init__(self, address: str, keys: Mapping[str, Sequence[str]], *, load_s: float, server_id: str = "") -> None:
        self.address = address
        self._keys = keys
        self._load_s = load_s
        self._client = _connect(address, server_id)

    def __enter__(self) -> Management:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def config(self, model: str) -> ModelConfig | None:
        """Return a loaded model's config, None if it is not loaded."""
        try:
            response: Any = self._call("model-config", lambda **how: self._client.get_model_config(model, **how))
        except _NotFound:
            return None
        config = ModelConfig()
        config.CopyFrom(response.config)
        return config

    def load(self, model: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or load it again if its files changed.

        Args:
            model: Its name.
            config: As JSON, instead of the repository's.
            files: Content by "file:" and the path, instead of the repository's.

        Raises:
            ReloadError: Triton's reason.
        """
        self._call(
            "model-repository",
            lambda **how: self._client.load_model(model, config=config, files=dict(files) if files else None, **how),
            self._load_s,
        )

    def unload(self, model: str) -> None:
        """Start to unload a model; open requests are finished first."""
        self._call("model-repository", lambda **how: self._client.unload_model(model, **how))

    def states(self) -> Iterator[ModelState]:
        """Return all versions of all models in the server's repository."""
        index: Any = self._call("model-repository", self._client.get_model_repository_index)
        for entry in index.models:
            yield ModelState(str(entry.name), str(entry.version), str(entry.state), str(entry.reason))

    def _call(self, protocol: str, send: Callable[..., _Response], timeout_s: float = _RESPONSE_S) -> _Response:
        """Send a call and return Triton's response.

        Raises:
            ReloadError: Triton's reason, or why there is no response; _NotFound if Triton does not know the model.
        """
        headers: dict[str, str] = {}
        if protocol in self._keys:
            key, secret = self._keys[protocol]
            headers[f"{GRPC_KEY_HEADER}{key}".lower()] = secret  # gRPC has no other names
        try:
            return send(headers=headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            status, message = str(error.status()).rpartition(".")[2], str(error.message())
            if status == "NOT_FOUND":
                raise _NotFound(reason(message)) from error
            if status == "DEADLINE_EXCEEDED":
                raise ReloadError(
                    f"the server at {self.address} did not respond within {timeout_s:.0f} s; a model that takes longer "
                    "to load needs more --ready-timeout-s. It may still load; run jpeg-serve reload again",
                    reason="server_timeout",
                ) from error
            if "protocol is restricted" in message:
                raise ReloadError(
                    f"the server at {self.address} refuses its management key. If it was started with another "
                    f"{_OPTION}, write that as {protocol}:KEY=VALUE, with a KEY in lower case",
                    reason="key_refused",
                ) from error
            if status == "UNAVAILABLE" and not self._is_reachable():
                raise ReloadError(
                    f"the server at {self.address} does not respond over gRPC, which a reload needs: {message}",
                    reason="server_unreachable",
                ) from error
            raise ReloadError(reason(message)) from error

    def _is_reachable(self) -> bool:
        """Whether a server responds, if only with a refusal: Triton returns UNAVAILABLE for models and keys, too."""
        try:
            self._client.is_server_live(client_timeout=_RESPONSE_S)
        except InferenceServerException as error:
            return "protocol is restricted" in str(error.message())
        return True


def _connect(address: str, server_id: str) -> grpc_client.InferenceServerClient:
    """Open a channel to a certain server: the kernel spreads channels to a shared port over its servers."""
    limit = time.monotonic() + _RESPONSE_S
    while True:
        client = grpc_client.InferenceServerClient(address, channel_args=_CHANNEL)
        if not server_id:
            return client
        try:
            metadata: Any = client.get_server_metadata(client_timeout=_NAME_TIMEOUT_S)
            if metadata.name == server_id:
                return client
        except InferenceServerException:
            pass  # one that hangs or ends; time limits the attempts
        client.close()
        if time.monotonic() > limit:
            raise ReloadError(
                f"server {server_id} at {address} does not respond over gRPC, which a reload needs",
                reason="server_unreachable",
            )


class _NotFound(ReloadError):
    """Triton does not know the model."""


def reason(text: str) -> str:
    """Return Triton's error without the traceback of a Python model."""
    # A Python traceback begins with "At:", after the reason.
    return text.split("\n\nAt:\n", maxsplit=1)[0].strip().rstrip(";")
