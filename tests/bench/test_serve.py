"""The bench on the real server."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import numpy as np
import pytest
from jpeg_bench import cli
from jpeg_bench.asks import Load
from jpeg_bench.ceiling import alone, arrangements, rate
from jpeg_bench.ceiling_work import Arrangement
from jpeg_bench.errors import BenchError
from jpeg_bench.ours import check_answers, make_asks
from jpeg_bench.photos import read_photos
from jpeg_bench.proc import shm_bytes, shm_prefix, snapshot
from jpeg_bench.serve import measure, prepared
from jpeg_bench.soak import PARTS, soak
from jpeg_bench.steps import read_steps
from jpeg_bench.sweep import instances
from jpeg_bench.target import running_server
from support import edit, photo

SHORT: Any = {"warmup_s": 0.1, "seconds": 0.6}


@pytest.fixture(scope="module")
def photos():
    return read_photos().data


@pytest.mark.parametrize("images", [1, 8])
def test_a_closed_loop(url, photos, images):
    target = running_server(url)
    protocol = url.partition(":")[0]
    asks = prepared(target, protocol, photos, images)
    point = measure(target, asks, Load(in_flight=8 // images + 1, processes=2, **SHORT))
    found = point.measured
    assert found.failures == 0
    assert found.images_per_s == pytest.approx(images * found.requests_per_s)
    assert found.requests > 0
    assert {*point.samples.answers} <= {*range(len(asks))}
    # Triton counted what we counted, but for what was under way when either looked.
    steps, memory, cores = point.steps, point.memory, point.cpu_cores
    assert steps is not None
    assert memory is not None
    assert cores is not None
    assert {*steps} == {"preprocess", "classifier_onnx", "postprocess", "jpeg_classifier"}
    assert abs(steps["preprocess"]["requests"] - found.requests) <= 3 * (8 // images + 1)
    assert 1 <= steps["preprocess"]["mean_batch"] <= 64
    assert steps["classifier_onnx"]["compute_infer_ms"] > 0
    # This project's server is found by its port, so its processes are seen.
    assert {"tritonserver", "preprocess_0_0", "classifier_onnx_0_0", "postprocess_0_0", "all"} <= {*cores}
    assert cores["all"] > cores["preprocess_0_0"] > 0
    assert cores["machine"] > cores["preprocess_0_0"]
    assert memory["pss_mib"] > 50
    assert memory["shm_mib"] >= 3
    json.dumps(point.to_json(), allow_nan=False)


def test_an_open_loop_and_its_drift(url, photos):
    target = running_server(url)
    asks = prepared(target, url.partition(":")[0], photos, 1)
    found = soak(target, asks, Load(arrivals_per_s=30, poisson=False, warmup_s=0.1, seconds=1))
    assert found["whole"]["requests"] == pytest.approx(30, abs=3)
    assert found["whole"]["failures"] == 0
    assert len(found["parts"]) == PARTS
    assert all(part["pss_mib"] > 50 for part in found["parts"])
    assert sum(part["cpu_ms_an_image"] for part in found["parts"]) / PARTS > 1
    assert {*found["drift"]} == {"p50_ms", "p99_ms", "cpu_ms_an_image", "pss_mib", "shm_mib"}
    assert found["drift"]["shm_mib"]["slope_percent"] is not None


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_bytes_sent_are_those_of_the_client(server, protocol, photos):
    """The labels are those that the project's client gets, so the request means the same."""
    address = server.grpc_address if protocol == "grpc" else server.http_address
    asks = make_asks(protocol, address, photos, images=3)
    assert [ask.images for ask in asks] == [3] * 4
    check_answers(asks)


@pytest.mark.parametrize("images", [1, 4])
def test_a_server_that_answers_wrongly_is_not_measured(url, photos, images):
    target = running_server(url)
    with pytest.raises(BenchError, match=r"truncated JPEG|images have no label"):
        prepared(target, url.partition(":")[0], [*photos, photo("coffee")[:5000]], images)


def test_a_model_that_is_not_there(url, photos):
    target = running_server(url, "nobody")
    with pytest.raises(BenchError, match=r"(?s)request of 1 beginning with photo 0.*nobody"):
        prepared(target, url.partition(":")[0], photos, 1)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_wrong_port_is_named(protocol, capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        assert cli.main(["serve", "--url", f"{protocol}://127.0.0.1:{port}"]) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_the_command_on_a_running_server(url, capsys):
    arguments = [
        "serve",
        "--url",
        url,
        "--protocols",
        url.partition(":")[0],
        "--in-flight",
        "2",
        "--seconds",
        "0.4",
        "--warmup-s",
        "0",
    ]
    assert cli.main([*arguments, "--images-a-request", "2", "--shares", "0.5", "--photo-size", "320x240"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    closed, opened = result["points"]
    assert closed["images_a_request"] == 2
    assert closed["images_per_s"] > opened["images_per_s"] > 0
    assert opened["arrivals_per_s"] == pytest.approx(closed["requests_per_s"] / 2, rel=0.01)
    assert set(result["photos"]["sizes"]) == {"320x240"}
    assert "images/s" in said.err


def test_the_servers_shared_memory_is_that_of_its_own_prefix(server):
    prefix = shm_prefix(server.pid)
    assert prefix.startswith("jpeg_serve_")
    assert shm_bytes(prefix) >= 3 << 20
    assert shm_bytes("no-such-prefix") == shm_bytes("") == 0
    found = snapshot(server.pid)
    assert len(found.processes) >= 4
    assert found.shm_mib == shm_bytes(prefix) / (1 << 20)


def test_the_steps_in_one_process_answer_as_the_server(built_repository, client, photos):
    steps = read_steps(built_repository)
    assert (steps.backend, steps.on_gpu) == ("onnxruntime", False)
    decode, classify, postprocess = steps.open_decode(), steps.open_classify(one_thread=True), steps.open_postprocess()
    answer = postprocess(classify(decode(photos)))
    for place, prediction in enumerate(client.classify(list(photos))):
        assert [label.decode() for label in answer.labels[place]] == list(prediction.labels)
        assert np.allclose(answer.scores[place], prediction.scores, atol=1e-4)


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement("decode", processes=2, batch=2),
        Arrangement("classifier", threads=2, batch=2),
        Arrangement("both", threads=2, batch=4),
        Arrangement("both", "overlapped", batch=4),
    ],
    ids=str,
)
def test_a_ceiling(built_repository, photos, arrangement):
    found = rate(read_steps(built_repository), photos, arrangement, seconds=0.3, warmup_s=0.1)
    assert found.failure == ""
    assert found.images_per_s > 1


def test_what_is_tried_for_a_ceiling(built_repository, photos):
    steps = read_steps(built_repository)
    both = arrangements(steps, "both")
    assert {each.style for each in both} == {"workers", "whole", "overlapped"}
    assert all(each.processes == 1 for each in both)
    assert any(each.processes > 1 for each in arrangements(steps, "decode")) or len(os.sched_getaffinity(0)) == 1
    one = alone(steps, photos, 0.3)
    assert 0 < one.p50_ms <= one.p90_ms <= one.p99_ms


def test_a_ceiling_over_images_that_are_not_decoded_is_none(built_repository):
    found = rate(read_steps(built_repository), [b"no JPEG"], Arrangement("both"), seconds=0.5)
    assert "cannot be decoded" in found.failure
    assert np.isnan(found.images_per_s)


def test_a_repository_that_is_not_built(repository):
    (repository / "classifier_onnx" / "1" / "model.onnx").unlink()
    with pytest.raises(BenchError, match="jpeg-build RECIPE --backend onnx"):
        read_steps(repository)
    edit(repository / "jpeg_classifier" / "config.pbtxt", '"classifier_onnx"', '"classifier_none"')
    with pytest.raises(BenchError, match="classifier_none"):
        read_steps(repository)


def test_a_repository_with_more_instances(built_repository):
    with instances(built_repository, 3) as changed:
        assert "count: 3" in (changed / "preprocess" / "config.pbtxt").read_text()
        assert "count: 3" in (changed / "classifier_onnx" / "config.pbtxt").read_text()
        assert "count: 3" not in (changed / "postprocess" / "config.pbtxt").read_text()
        assert (changed / "classifier_onnx" / "1" / "model.onnx").is_file()
    assert not changed.exists()
