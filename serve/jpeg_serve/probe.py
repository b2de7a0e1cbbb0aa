"""Real inferences as a health check: a server that is ready may still have a model that fails, or labels wrongly."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jpeg_contract.checksum import checksum
from jpeg_contract.forms import ClassifierForm, form_of_backend
from jpeg_contract.inside import is_inside
from jpeg_contract.model_names import ensemble_of, is_router
from jpeg_contract.parameters import SettingsError
from jpeg_contract.probe_photo import PROBE_PHOTO
from jpeg_contract.remedies import reload_command
from jpeg_contract.report import KnownClass, Report, find_report
from jpeg_contract.routes import Route, Target
from jpeg_contract.tensors import CHECKSUM, ENSEMBLE, ERROR, IMAGE, INDEX, LABEL, OUTPUT

from jpeg_serve.connection import connect
from jpeg_serve.errors import ProbeError
from jpeg_serve.rebuild import rebuild_command

# How many copies of the photo the second request holds: rows of one batch must not mix.
COPIES = 3
DEFAULT_TIMEOUT_S = 10.0

_OK, _FORBIDDEN, _UNAVAILABLE = 200, 403, 503

_THRESHOLD = "threshold"
"""Parameter and header of the requests: with 0, the best label is in the response whatever the model's threshold is."""

_INTEGERS = {"INT32": "i", "UINT32": "I"}
"""Data types of the response, with their letters in `struct`."""


class ProbeSkipped(ProbeError):
    """The model is not an image classifier of this project, or its requests need a key: there is nothing to compare.

    Reasons: not_a_classifier, inference_restricted.
    """

    reason = "not_a_classifier"


@dataclass(frozen=True)
class ProbeResult:
    """A successful probe.

    Attributes:
        label: The best label of the photo.
        note: Why labels were not compared with a report; empty if they were.
    """

    label: str
    note: str = ""


@dataclass(frozen=True)
class _Row:
    """The result for one image."""

    index: int
    label: str
    error: str
    checksum: int | None


@dataclass(frozen=True)
class _Expected:
    """The statement of the classifier's report about the photo.

    Attributes:
        classes: Acceptable best classes.
        build: The command that builds the classifier again.
    """

    classes: list[KnownClass]
    build: str


def probe(
    address: str,
    model: str = ENSEMBLE,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    repository: Path | None = None,
    server_id: str = "",
) -> ProbeResult:
    """Let a server classify a photo over HTTP, in a request of one image and in one of three copies.

    Args:
        address: HOST:PORT.
        model: The ensemble.
        timeout_s: Time limit for each connection and each response, in seconds.
        repository: The model repository that the server serves; None compares no labels.
        server_id: Which of the servers at that address; empty takes any.

    Raises:
        ProbeSkipped: The model is not an image classifier of this project, or its requests need a key.
        ProbeError: The server does not classify the photo, or as another class than the classifier's report names.
    """
    server = _Server(address, model, timeout_s, server_id)
    try:
        config = server.config(model)
        if config is not None and not _is_classifier(config):
            raise ProbeSkipped(
                f"{model} on {address} is not an image classifier of this project: it needs the input {IMAGE} and the "
                f"outputs {LABEL} and {INDEX}"
            )
        copies = min(COPIES, int((config or {}).get("max_batch_size", COPIES)))
        responses = [server.classify(1)] + ([server.classify(copies)] if copies > 1 else [])
        for rows in responses:
            _require_labels(f"{model} on {address}", rows)
        expected, note = _expected(server, config, repository)
    finally:
        server.close()
    if expected is not None:
        for rows in responses:
            _require_expected(f"{model} on {address}", rows, expected, repository)
    return ProbeResult(responses[0][0].label, note)


def probe_once(address: str, timeout_s: float, server_id: str = "", model: str = ENSEMBLE) -> None:
    """Let a server classify a photo over HTTP, in a request of one image.

    Args:
        address: HOST:PORT.
        timeout_s: Time limit for the connection and the response, in seconds.
        server_id: Which of the servers at that address; empty takes any.
        model: The ensemble.

    Raises:
        ProbeSkipped: The server has no such ensemble, or its requests need a key.
        ProbeError: The photo gets no label, or the answer belongs to another image; with reason "overloaded" if the
            server's queue is full.
    """
    server = _Server(address, model, timeout_s, server_id)
    try:
        rows = server.classify(1)
    finally:
        server.close()
    _require_labels(f"{model} on {address}", rows)


class _Server:
    """A server's HTTP endpoint, for requests one after the other."""

    def __init__(self, address: str, model: str, timeout_s: float, server_id: str) -> None:
        self._address, self._model, self._timeout_s, self._server_id = address, model, timeout_s, server_id
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def config(self, model: str) -> dict[str, Any] | None:
        """Return a loaded model's config; None if it may not be read."""
        return self._read(f"/v2/models/{quote(model, safe='')}/config", model)

    def versions(self, model: str) -> list[int]:
        """Return the loaded versions of a model."""
        metadata = self._read(f"/v2/models/{quote(model, safe='')}", model)
        return [int(version) for version in (metadata or {}).get("versions", [])]

    def classify(self, copies: int) -> list[_Row]:
        """Classify copies of the photo in one request."""
        photo = PROBE_PHOTO.read_bytes()
        if copies == 1:
            # The whole body is the one input: "raw binary request" in Triton's HTTP extensions.
            header, body = b"", photo
            headers = {_THRESHOLD: "0"}
        else:
            body = (struct.pack("<I", len(photo)) + photo) * copies
            tensor = {
                "name": IMAGE,
                "shape": [copies, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(body)},
            }
            parameters = {"binary_data_output": True, _THRESHOLD: 0}
            header, headers = json.dumps({"inputs": [tensor], "parameters": parameters}).encode(), {}
        status, body, length = self._request(
            "POST",
            f"/v2/models/{quote(self._model, safe='')}/infer",
            header + body,
            {
                **headers,
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(len(header)),
            },
        )
        if status == _FORBIDDEN:
            raise ProbeSkipped(f"{self._address} accepts inferences with a key only", reason="inference_restricted")
        if status == _UNAVAILABLE:
            raise ProbeError(
                f"{self._model} on {self._address} refuses the photo: {body[:300].decode(errors='replace')}",
                reason="overloaded",
            )
        if status != _OK:
            raise ProbeError(
                f"{self._model} on {self._address} returns status {status}: {body[:300].decode(errors='replace')}",
                reason="request_refused",
            )
        try:
            return _rows(body, length)
        except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            raise ProbeError(f"{self._model} on {self._address} returns no labels", reason="no_label") from error

    def _read(self, path: str, model: str) -> dict[str, Any] | None:
        status, body, _ = self._request("GET", path)
        if status == _FORBIDDEN:
            return None
        if status != _OK:
            # Triton returns 400 for a model that it does not know.
            raise ProbeSkipped(f"{self._address} serves no model {model} (status {status})")
        content: dict[str, Any] = json.loads(body)
        return content

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, int]:
        """Send a request; return status, body, and the length of the body's JSON part."""
        try:
            if self._connection is None:
                self._connection = connect(self._address, self._server_id, self._timeout_s)
            self._connection.request(method, path, body, headers or {})
            response = self._connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            raise ProbeError(
                f"{self._model} on {self._address} did not respond within {self._timeout_s:g} s", reason="timeout"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ProbeError(
                f"{self._address} cannot be reached: {str(error) or type(error).__name__}", reason="unreachable"
            ) from error
        return response.status, content, int(response.headers.get("Inference-Header-Content-Length") or 0)


def _is_classifier(config: dict[str, Any]) -> bool:
    inputs = {tensor["name"] for tensor in config.get("input", [])}
    outputs = {tensor["name"] for tensor in config.get("output", [])}
    return inputs == {IMAGE} and {LABEL, INDEX} <= outputs


def _rows(body: bytes, header_length: int) -> list[_Row]:
    """Read a response with binary outputs: the best class of each image."""
    at = header_length
    outputs: dict[str, list[Any]] = {}
    shapes: dict[str, list[int]] = {}
    for output in json.loads(body[:header_length])["outputs"]:
        size = int(output["parameters"]["binary_data_size"])
        data, at = body[at : at + size], at + size
        shapes[output["name"]] = output["shape"]
        if output["datatype"] == "BYTES":
            outputs[output["name"]] = _strings(data)
        elif output["datatype"] in _INTEGERS:
            outputs[output["name"]] = list(struct.unpack(f"<{size // 4}{_INTEGERS[output['datatype']]}", data))
    images, k = shapes[LABEL]
    errors = outputs.get(ERROR, [""] * images)
    checksums = outputs.get(CHECKSUM, [None] * images)
    return [
        _Row(outputs[INDEX][row * k], outputs[LABEL][row * k], errors[row], checksums[row]) for row in range(images)
    ]


def _strings(data: bytes) -> list[str]:
    """Read strings, each after its length: 4 bytes, little-endian."""
    strings, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        strings.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return strings


def _require_labels(subject: str, rows: list[_Row]) -> None:
    for number, row in enumerate(rows, start=1):
        if row.error or not row.label:
            raise ProbeError(
                f"{subject} gives no label in row {number} of {len(rows)}: {row.error or 'the label is empty'}",
                reason="no_label",
            )
        if row.checksum not in (None, checksum(PROBE_PHOTO.read_bytes())):
            raise ProbeError(
                f"{subject} answers row {number} of {len(rows)} with the labels of another image",
                reason="wrong_checksum",
            )


def _require_expected(subject: str, rows: list[_Row], expected: _Expected, repository: Path | None) -> None:
    known = {each.index: each.label for each in expected.classes}
    for number, row in enumerate(rows, start=1):
        if known.get(row.index) != row.label:
            names = " or ".join(f'"{label}" (class {index})' for index, label in known.items())
            restart = reload_command(repository) if repository is not None else reload_command()
            raise ProbeError(
                f'{subject} labels the probe\'s photo "{row.label}" (class {row.index}) in row {number} of '
                f"{len(rows)}, but the report on its classifier names {names}: pixels, network and labels do not "
                f"belong together. Build them again: {expected.build}, then {restart}",
                reason="wrong_label",
            )


def _expected(server: _Server, config: dict[str, Any] | None, repository: Path | None) -> tuple[_Expected | None, str]:
    """Return the expected classes by the report on the serving version, or the reason why there are none."""
    if repository is None:
        return None, "labels are not compared, since the server's model repository is not known: --model-repository DIR"
    steps = (config or {}).get("ensemble_scheduling", {}).get("step", [])
    step = next((step for step in steps if OUTPUT in step.get("output_map", {})), None)
    none = f"labels are not compared, since no step of the ensemble is a classifier with {OUTPUT}"
    targets = _answering(server, step) if step is not None else []
    if not targets:
        return None, none
    classes: dict[int, KnownClass] = {}
    builds = []
    for target in targets:
        classifier = server.config(target.model)
        form = form_of_backend((classifier or {}).get("backend", ""))
        if classifier is None or form is None:
            return None, none
        reports = _reports(repository / target.model / str(target.version), classifier, form)
        known = {each.index: each for report in reports for each in report.probe}
        if not known:
            cause = "names no class for the photo" if reports else "is missing"
            return None, f"labels are not compared, since the report on {target} {cause}"
        classes.update(known)
        version = None if target.version == 1 else target.version
        ensemble = ensemble_of(target.model)
        builds.append(rebuild_command(form.name, repository, reports[0], version=version, ensemble=ensemble))
    return _Expected(list(classes.values()), " and ".join(builds)), ""


def _answering(server: _Server, step: Mapping[str, Any]) -> list[Target]:
    """Return the versions of classifiers that answer for a step of an ensemble: of a split both, else one."""
    name, version = str(step["model_name"]), int(step.get("model_version", -1))
    if is_router(name):
        parameters = (server.config(name) or {}).get("parameters", {})
        try:
            route = Route.from_parameters({key: value["string_value"] for key, value in parameters.items()})
        except SettingsError:
            return []
        return [route.primary, route.candidate] if route.mode == "split" else [route.primary]
    if version == -1:
        version = max(server.versions(name), default=-1)
    return [Target(name, version)]


def _reports(folder: Path, config: dict[str, Any], form: ClassifierForm) -> list[Report]:
    """Return the reports on a version's artefact, or on those for each kind of GPU."""
    files = [*config.get("cc_model_filenames", {}).values(), config.get("default_model_filename") or form.artefact]
    reports = (find_report(folder / file) for file in dict.fromkeys(files) if is_inside(folder, file))
    return [report for report in reports if report is not None]
