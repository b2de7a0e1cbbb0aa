"""The log of a server as a user collects it: levels, JSON, and what a client cannot write into it."""

import http.client
import json
import re
from urllib.parse import quote

import pytest
from conftest import serve
from jpeg_client import Client
from jpeg_contract.gpus import find_gpus
from support import photo

pytestmark = pytest.mark.skipif(bool(find_gpus().found), reason="it is about machines without a GPU")

MARK = "forged by a client"
FORGED = (
    f'\nE1128 07:30:00.581849 1 server.cc:1] "{MARK}"\n{{"level": "error", "message": "{MARK}"}}'
    f"\r\njpeg-serve: {MARK} [x]\n"
)


def send_what_forges(address):
    """Put line breaks and the beginnings of log lines wherever a request has text; return the statuses."""
    text, path = json.dumps(FORGED), quote(FORGED, safe="")
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [FORGED]}
    requests = [
        ("/v2/models/jpeg_classifier/infer", json.dumps({"inputs": [image]})),
        ("/v2/models/jpeg_classifier/infer", json.dumps({"inputs": [image], "parameters": {"k": FORGED}})),
        ("/v2/models/jpeg_classifier/infer", json.dumps({"inputs": [image], "parameters": {FORGED: FORGED}})),
        ("/v2/models/jpeg_classifier/infer", json.dumps({"inputs": [image], "id": FORGED})),
        ("/v2/models/jpeg_classifier/infer", json.dumps({"inputs": [image | {"name": FORGED}]})),
        ("/v2/models/jpeg_classifier/generate", f'{{"IMAGE": {text}, "k": {text}, {text}: 1}}'),
        (f"/v2/models/{path}/infer", json.dumps({"inputs": [image]})),
        (f"/{path}", "{}"),
    ]
    statuses = []
    for target, body in requests:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", target, body.encode(), {"Content-Type": "application/json", "k": "forged"})
        statuses.append(connection.getresponse().status)
        connection.close()
    return statuses


def test_a_healthy_start_has_no_warning_and_json_lines_are_objects(command):
    server = command("--log-format", "json")
    address = server.wait_for(r'"message": "ready\\n  HTTP     http://([\d.:]+)')[1]
    with Client(f"http://{address}") as client:
        assert client.classify(photo("coffee"), k=1).labels == ("espresso",)
    before = [json.loads(line) for line in server.text().splitlines()]
    assert [each for each in before if each["level"] != "info"] == []
    assert {each["source"] for each in before} == {"jpeg-serve", "tritonserver"}
    assert any(each.get("file", "").startswith("model_lifecycle.cc") for each in before)
    assert min(send_what_forges(address)) >= 400
    server.process.terminate()
    assert server.process.wait(60) == 0
    # Each line is an object of ours, whatever clients sent.
    for line in server.text().splitlines():
        each = json.loads(line)
        assert each["source"] in ("jpeg-serve", "tritonserver")
        # What a client sent stands inside of messages that the server wrote, if at all.
        assert each.get("reason") != "x"
        assert not each["message"].startswith(MARK)
        assert MARK not in each["message"] or each["source"] == "tritonserver"
        assert each.get("file") != "server.cc:1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["time"])


def test_a_healthy_start_has_no_warning_as_text(built_repository, tmp_path):
    log = tmp_path / "triton.log"
    for server in serve(built_repository, log):
        server.stop()
    lines = log.read_text().splitlines()
    assert [line for line in lines if re.match(r"[WEF]\d{4} |Error|error", line)] == []
    assert any(line.startswith("I") for line in lines)


def test_an_error_before_the_start_is_an_object(command, tmp_path):
    server = command("--log-format", "json", repository=tmp_path / "missing")
    assert server.process.wait(60) == 1
    last = json.loads(server.text().splitlines()[-1])
    assert (last["level"], last["source"]) == ("error", "jpeg-serve")
    assert last["reason"]


def test_an_invalid_call_is_an_object(command):
    server = command("--log-format", "json", "--http-port", "none")
    assert server.process.wait(60) == 2
    (line,) = server.text().splitlines()
    assert json.loads(line)["reason"] == "invalid_call"
