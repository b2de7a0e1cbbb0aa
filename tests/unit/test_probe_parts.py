"""The probe against servers that respond wrongly."""

import json
import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jpeg_contract.tensors import ENSEMBLE
from jpeg_serve.errors import ProbeError
from jpeg_serve.probe import ProbeSkipped, probe
from repository.static_repository import make_report

CLASSIFIER = "classifier_onnx"
LABELS = {967: "espresso", 968: "cup"}


def strings(texts):
    return b"".join(struct.pack("<I", len(text)) + text.encode() for text in texts)


class Model:
    """A server that serves one ensemble. Each row is an index, a label and an error."""

    def __init__(self):
        self.rows = [(967, "espresso", "")] * 3
        self.status = 200
        self.body = None
        self.delay_s = 0.0
        self.requests = []
        self.configs = {
            ENSEMBLE: {
                "max_batch_size": 64,
                "input": [{"name": "IMAGE"}],
                "output": [{"name": name} for name in ("LABEL", "SCORE", "INDEX", "ERROR")],
                "ensemble_scheduling": {
                    "step": [{"model_name": CLASSIFIER, "model_version": -1, "output_map": {"output__0": "logits"}}]
                },
            },
            CLASSIFIER: {"backend": "onnxruntime"},
        }

    def get(self, path):
        name = path.split("/")[3]
        if name not in self.configs:
            return 400, {}, b'{"error": "unknown model"}'
        content = self.configs[name] if path.endswith("/config") else {"name": name, "versions": ["1"]}
        return 200, {}, json.dumps(content).encode()

    def infer(self, header_length, body):
        time.sleep(self.delay_s)
        images = json.loads(body[:header_length])["inputs"][0]["shape"][0] if header_length else 1
        self.requests.append((images, body[header_length:]))
        if self.body is not None or self.status != 200:
            return self.status, {}, self.body or b'{"error": "broken"}'
        rows = self.rows[:images]
        indices = [each for index, _, _ in rows for each in (index, 1)]
        parts = {
            ("LABEL", "BYTES", 2): strings(text for _, label, _ in rows for text in (label, "second")),
            ("INDEX", "INT32", 2): struct.pack(f"<{2 * images}i", *indices),
            ("SCORE", "FP32", 2): bytes(8 * images),
            ("ERROR", "BYTES", 1): strings(error for _, _, error in rows),
        }
        outputs = [
            {"name": name, "datatype": kind, "shape": [images, width], "parameters": {"binary_data_size": len(data)}}
            for (name, kind, width), data in parts.items()
        ]
        header = json.dumps({"outputs": outputs}).encode()
        return 200, {"Inference-Header-Content-Length": str(len(header))}, header + b"".join(parts.values())


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def address(model):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self, status, headers, body):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # of a client that waits no longer
                self.wfile.write(body)

        def do_GET(self):  # the library's name
            self.respond(*model.get(self.path))

        def do_POST(self):  # the library's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.respond(*model.infer(int(self.headers["Inference-Header-Content-Length"]), body))

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        # Closing it waits for them: none runs, or prints, beside another test.
        daemon_threads = False

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def repository(tmp_path):
    artefact = tmp_path / CLASSIFIER / "1" / "model.onnx"
    artefact.parent.mkdir(parents=True)
    artefact.write_bytes(b"")
    make_report(artefact)
    return tmp_path


def test_the_photo_is_sent_alone_and_three_times(address, model, repository):
    result = probe(address, repository=repository)
    assert (result.label, result.note) == ("espresso", "")
    (one, photo), (three, body) = model.requests
    assert (one, three) == (1, 3)
    assert photo.startswith(b"\xff\xd8")
    assert body == (struct.pack("<I", len(photo)) + photo) * 3


def reason_of(address, **options):
    with pytest.raises(ProbeError) as caught:
        probe(address, **options)
    return caught.value.reason, str(caught.value)


def test_every_row_is_compared(address, model, repository):
    model.rows = [(967, "espresso", ""), (967, "espresso", ""), (968, "cup", "")]
    reason, message = reason_of(address, repository=repository)
    assert reason == "wrong_label"
    assert "row 3 of 3" in message
    assert probe(address).note


def test_the_remedy_builds_the_classifier_of_that_model(address, model, tmp_path):
    config = model.configs.pop(ENSEMBLE)
    config["ensemble_scheduling"]["step"][0]["model_name"] = f"cats_{CLASSIFIER}"
    model.configs = {"cats": config, f"cats_{CLASSIFIER}": model.configs[CLASSIFIER]}
    artefact = tmp_path / f"cats_{CLASSIFIER}" / "1" / "model.onnx"
    artefact.parent.mkdir(parents=True)
    artefact.write_bytes(b"")
    make_report(artefact)
    model.rows = [(967, "cup", "")] * 3
    reason, message = reason_of(address, model="cats", repository=tmp_path)
    assert reason == "wrong_label"
    assert "jpeg-build mobilenet_v2 --backend onnx --name cats " in message


def test_index_and_label_belong_together(address, model, repository):
    model.rows = [(967, "cup", "")] * 3
    assert reason_of(address, repository=repository)[0] == "wrong_label"


@pytest.mark.parametrize("row", [(-1, "", "not a JPEG"), (967, "", ""), (967, "espresso", "why")])
def test_every_row_has_a_label(address, model, row):
    model.rows = [(967, "espresso", ""), row, (967, "espresso", "")]
    reason, message = reason_of(address)
    assert reason == "no_label"
    assert "row 2 of 3" in message


@pytest.mark.parametrize("body", [b"", b"{}", b"no JSON", b'{"outputs": []}', b'{"outputs": [{"name": "LABEL"}]}'])
def test_a_response_of_something_else_has_no_label(address, model, body):
    model.body = body
    assert reason_of(address)[0] == "no_label"


def test_a_refused_request_is_given_with_its_status(address, model):
    model.status = 500
    reason, message = reason_of(address)
    assert reason == "request_refused"
    assert "500" in message
    assert "broken" in message


def test_a_slow_server_is_not_waited_for(address, model):
    model.delay_s = 2
    assert reason_of(address, timeout_s=0.3)[0] == "timeout"


def test_a_model_that_is_not_a_classifier_is_skipped(address, model):
    model.configs[ENSEMBLE]["output"] = [{"name": "SUM"}]
    with pytest.raises(ProbeSkipped):
        probe(address)
    del model.configs[ENSEMBLE]
    with pytest.raises(ProbeSkipped):
        probe(address)


def test_an_ensemble_without_a_classifier_compares_no_labels(address, model, repository):
    model.configs[ENSEMBLE]["ensemble_scheduling"]["step"][0]["output_map"] = {"LABEL": "LABEL"}
    assert probe(address, repository=repository).note
    model.configs[CLASSIFIER]["backend"] = "python"
    assert probe(address, repository=repository).note
