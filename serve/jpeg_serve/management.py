"""Triton's management calls over gRPC, with the keys that open them.

Over HTTP, the thread that takes a load is blocked until the model is loaded, and with it all connections that this
thread serves, health checks too. Over gRPC nobody waits.

Source: Triton's extension_model_repository.md, and protocol/inference_protocols.md on restricted protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from tritonclient.utils import InferenceServerException

from jpeg_serve.errors import ReloadError
from jpeg_serve.triton_config import ModelConfig, grpc_client

# Calls that answer at once, but may wait behind one that loads a model.
_ANSWER_S = 30.0

_OPTION = "--grpc-restricted-protocol"
# Triton hands a call on to a restricted protocol only with the key in this header.
_HEADER = "triton-grpc-protocol-"

_CHANNEL = [
    # Servers are on this machine: through no proxy, whatever the environment says.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
]

_Answer = TypeVar("_Answer")


def restricted_protocols(arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What tritonserver's command line shuts over gRPC: for each protocol, the key and the value that open it."""
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
    """One version of a model in the server. reason: why it is not ready, or what failed last."""

    name: str
    version: str
    state: str
    reason: str


class Management:
    """One server, to be used in a `with` block.

    address: HOST:PORT of its gRPC. keys: of `restricted_protocols`. load_s: how long one model may take to load.
    """

    def __init__(self, address: str, keys: Mapping[str, Sequence[str]], *, load_s: float) -> None:
        self.address = address
        self._keys = keys
        self._load_s = load_s
        self._client = grpc_client.InferenceServerClient(address, channel_args=_CHANNEL)

    def __enter__(self) -> Management:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def config(self, model: str) -> ModelConfig | None:
        """A loaded model's config, None if it is not loaded."""
        try:
            answer: Any = self._call("model-config", lambda **how: self._client.get_model_config(model, **how))
        except _NotFound:
            return None
        config = ModelConfig()
        config.CopyFrom(answer.config)
        return config

    def load(self, model: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or load it again if its files changed. Raises ReloadError with Triton's reason.

        config, files: instead of the repository's; the config as JSON, the files by "file:" and their path.
        """
        self._call(
            "model-repository",
            lambda **how: self._client.load_model(model, config=config, files=dict(files) if files else None, **how),
            self._load_s,
        )

    def unload(self, model: str) -> None:
        """Ask for a model to be unloaded; returns at once, requests in flight are answered first."""
        self._call("model-repository", lambda **how: self._client.unload_model(model, **how))

    def states(self) -> Iterator[ModelState]:
        """All versions of all models that the server knows of."""
        index: Any = self._call("model-repository", self._client.get_model_repository_index)
        for entry in index.models:
            yield ModelState(str(entry.name), str(entry.version), str(entry.state), str(entry.reason))

    def _call(self, protocol: str, ask: Callable[..., _Answer], timeout_s: float = _ANSWER_S) -> _Answer:
        """What Triton answers. Raises _NotFound, or ReloadError with Triton's reason or with why it did not answer."""
        headers: dict[str, str] = {}
        if protocol in self._keys:
            key, secret = self._keys[protocol]
            headers[f"{_HEADER}{key}".lower()] = secret  # gRPC knows no other names
        try:
            return ask(headers=headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            status, message = str(error.status()).rpartition(".")[2], str(error.message())
            if status == "NOT_FOUND":
                raise _NotFound(reason(message)) from error
            if status == "DEADLINE_EXCEEDED":
                raise ReloadError(
                    f"the server at {self.address} did not answer within {timeout_s:.0f} s; a model that takes longer "
                    "to load needs more --ready-timeout-s. It may still come; run jpeg-serve reload again"
                ) from error
            if "protocol is restricted" in message:
                raise ReloadError(
                    f"the server at {self.address} refuses to be managed with its key: was it started with "
                    f"{_OPTION} of your own? Give it as {protocol}:KEY=VALUE, with a KEY in small letters"
                ) from error
            if status == "UNAVAILABLE" and not self._is_there():
                raise ReloadError(
                    f"the server at {self.address} does not answer over gRPC, which a reload needs: {message}"
                ) from error
            raise ReloadError(reason(message)) from error

    def _is_there(self) -> bool:
        """Whether something answers, if only with a refusal: Triton says UNAVAILABLE of models and of keys, too."""
        try:
            self._client.is_server_live(client_timeout=_ANSWER_S)
        except InferenceServerException as error:
            return "protocol is restricted" in str(error.message())
        return True


class _NotFound(ReloadError):
    """Triton does not know the model."""


def reason(text: str) -> str:
    """Triton's error without the traceback of a Python model."""
    # A Python traceback begins with "At:"; the reason stands before it.
    return text.split("\n\nAt:\n", maxsplit=1)[0].strip().rstrip(";")
