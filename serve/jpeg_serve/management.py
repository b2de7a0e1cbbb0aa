"""Triton's management calls over HTTP, with the keys that open them.

Source: Triton's extension_model_repository.md, and protocol/inference_protocols.md on restricted protocols.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jpeg_serve.errors import ReloadError
from jpeg_serve.triton_config import ModelConfig, json_format

# Calls that answer at once, but may wait behind one that loads a model.
_ANSWER_S = 30.0


def restricted_apis(arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What tritonserver's command line shuts over HTTP: for each API, the header and the value that open it."""
    option = "--http-restricted-api"
    keys: dict[str, tuple[str, str]] = {}
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != option:
            continue
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        apis, _, key = value.partition(":")
        header, _, secret = key.partition("=")
        keys.update(dict.fromkeys(apis.split(","), (header, secret)))
    return keys


@dataclass(frozen=True)
class ModelState:
    """One version of a model in the server. reason: why it is not ready, or what failed last."""

    name: str
    version: str
    state: str
    reason: str


class Management:
    """One server. address: HOST:PORT. keys: of `restricted_apis`. load_s: how long one model may take to load."""

    def __init__(self, address: str, keys: Mapping[str, Sequence[str]], *, load_s: float) -> None:
        self.address = address
        self._keys = keys
        self._load_s = load_s

    def config(self, model: str) -> ModelConfig | None:
        """A loaded model's config, None if it is not loaded."""
        status, text = self._call("GET", f"v2/models/{_quoted(model)}/config", "model-config")
        # A server that is newer than our protocol may say more.
        return json_format.Parse(text, ModelConfig(), ignore_unknown_fields=True) if status == 200 else None

    def load(self, model: str, parameters: Mapping[str, str] | None = None) -> None:
        """Load a model, or load it again if its files changed. Raises ReloadError with Triton's reason."""
        body = {"parameters": dict(parameters)} if parameters else {}
        self._manage(f"v2/repository/models/{_quoted(model)}/load", body, self._load_s)

    def unload(self, model: str) -> None:
        """Ask for a model to be unloaded; returns at once, requests in flight are answered first."""
        self._manage(f"v2/repository/models/{_quoted(model)}/unload", {}, _ANSWER_S)

    def states(self) -> Iterator[ModelState]:
        """All versions of all models that the server knows of."""
        for entry in json.loads(self._manage("v2/repository/index", {}, _ANSWER_S)):
            yield ModelState(
                str(entry["name"]),
                str(entry.get("version", "")),
                str(entry.get("state", "")),
                str(entry.get("reason", "")),
            )

    def _manage(self, path: str, body: Mapping[str, Any], timeout_s: float) -> str:
        status, text = self._call("POST", path, "model-repository", body, timeout_s)
        if status == 403:
            raise ReloadError(
                f"the server at {self.address} refuses to be managed with its key: was it started with "
                "--http-restricted-api of your own? Give it as model-repository:HEADER=VALUE"
            )
        if status != 200:
            raise ReloadError(reason(text))
        return text

    def _call(
        self, method: str, path: str, api: str, body: Mapping[str, Any] | None = None, timeout_s: float = _ANSWER_S
    ) -> tuple[int, str]:
        """Status and body. Through no proxy: servers are on this machine."""
        headers = {"Content-Type": "application/json"}
        if api in self._keys:
            header, secret = self._keys[api]
            headers[header] = secret
        connection = http.client.HTTPConnection(self.address, timeout=timeout_s)
        try:
            connection.request(method, f"/{path}", json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except TimeoutError as error:
            raise ReloadError(
                f"the server at {self.address} did not answer within {timeout_s:.0f} s; a model that takes longer to "
                "load needs more --ready-timeout-s. It may still come; run jpeg-serve reload again"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ReloadError(f"the server at {self.address} does not answer: {error}") from error
        finally:
            connection.close()


def reason(text: str) -> str:
    """Triton's error without the JSON around it, and without the traceback of a Python model."""
    try:
        message = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        message = text
    # A Python traceback begins with "At:"; the reason stands before it.
    return message.split("\n\nAt:\n", maxsplit=1)[0].strip().rstrip(";")


def _quoted(model: str) -> str:
    return urllib.parse.quote(model, safe="")
