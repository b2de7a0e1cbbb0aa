"""Requests that need no library: JSON, base64 and the binary form of docs/contract.md, as a shell sends them."""

import base64
import json
import re
import struct
import subprocess
import urllib.error
import urllib.request
import zlib

import pytest
from support import PHOTOS, ROOT, photo

MODEL = "/v2/models/jpeg_classifier"


def post(server, path, body, **headers):
    """Return the status and the JSON of a response."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{server.http_address}{MODEL}/{path}", body, names)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def generate(server, image, **parameters):
    body = json.dumps({"IMAGE": image, **parameters}).encode()
    return post(server, "generate", body, Content_Type="application/json")


TEXT = base64.b64encode(photo("coffee")).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        base64.encodebytes(photo("coffee")).decode(),
        base64.urlsafe_b64encode(photo("coffee")).decode().rstrip("="),
        f"data:image/jpeg;base64,{TEXT}",
        json.dumps(TEXT),
    ],
    ids=["base64", "lines", "for URLs", "data URL", "quoted"],
)
def test_generate_takes_base64_and_returns_labels_in_json(server, text):
    status, answer = generate(server, text, k=2)
    assert status == 200
    assert answer["LABEL"] == ["espresso", "consomme"]
    assert answer["INDEX"] == [967, 925]
    assert answer["SCORE"][0] == pytest.approx(0.992, abs=0.01)
    assert answer["ERROR"] == ""
    assert len(answer["TIMES"]) == 3
    # That of the bytes that were sent.
    assert answer["CHECKSUM"] == zlib.crc32(text.encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT[:1000] + "*" + TEXT[1000:], "invalid_base64"),
        (TEXT[:1001], "invalid_base64"),
        ("data:image/jpeg,%FF%D8%FF", "invalid_base64"),
        (TEXT[:1000], "truncated"),
        ("hello", "not_jpeg"),
        ("", "empty"),
    ],
)
def test_generate_names_what_is_wrong_with_an_image(server, text, reason):
    status, answer = generate(server, text)
    assert status == 400
    assert answer["error"].endswith(f"[{reason}]")


def test_generate_refuses_a_k_out_of_range(server):
    status, answer = generate(server, TEXT, k=0)
    assert status == 400
    assert "1 to 1000" in answer["error"]


def test_several_images_in_json(server):
    images = [TEXT, "/9j/*", base64.b64encode(photo("chelsea")).decode()]
    body = {
        "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [3, 1], "data": images}],
        "outputs": [{"name": "LABEL"}, {"name": "ERROR"}],
        "parameters": {"k": 1},
    }
    status, answer = post(server, "infer", json.dumps(body).encode(), Content_Type="application/json")
    assert status == 200
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["LABEL"] == ["espresso", "", "Egyptian cat"]
    assert [error.partition("[")[2] for error in outputs["ERROR"]] == ["", "invalid_base64]", ""]


def test_a_json_part_in_front_of_raw_bytes(server):
    images = b"".join(struct.pack("<I", len(image)) + image for image in (photo("coffee"), photo("chelsea")))
    size = {"binary_data_size": len(images)}
    head = json.dumps(
        {
            "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [2, 1], "parameters": size}],
            "parameters": {"k": 1},
        }
    ).encode()
    status, answer = post(
        server,
        "infer",
        head + images,
        Content_Type="application/octet-stream",
        Inference_Header_Content_Length=str(len(head)),
    )
    assert status == 200
    labels = next(output for output in answer["outputs"] if output["name"] == "LABEL")
    assert labels["data"] == ["espresso", "Egyptian cat"]


def test_the_commands_of_the_contract(server, tmp_path):
    """In order, in one shell, in a folder with the photos of a checkout."""
    (tmp_path / "photos").symlink_to(PHOTOS)
    section = (ROOT / "docs" / "contract.md").read_text().split("\n## Requests without", 1)[1].split("\n## ", 1)[0]
    commands = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif line.startswith("    "):
                commands[-1] += f"\n{line}"
    script = "set -eu\n" + "\n".join(f"{command}\necho" for command in commands)
    script = script.replace("localhost:8000", server.http_address)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    raw, json_part = done.stdout.split('{"CHECKSUM"')
    assert "espresso" in raw
    answers = [json.loads(line) for line in ('{"CHECKSUM"' + json_part).splitlines() if line]
    generated, several, binary = answers
    assert generated["LABEL"] == ["espresso", "consomme"]
    labels = [
        next(output["data"] for output in answer["outputs"] if output["name"] == "LABEL")
        for answer in (several, binary)
    ]
    assert labels == [["espresso", "Egyptian cat"], ["espresso", "consomme"]]
