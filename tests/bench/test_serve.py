"""The bench on a real server."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jpeg_bench import cli
from jpeg_bench.capacity import Capacity
from jpeg_bench.ceiling import arrangements, measure_single_image, measure_throughput
from jpeg_bench.ceiling_worker import Arrangement
from jpeg_bench.changed_repository import repository_with_ensembles, repository_with_instances
from jpeg_bench.ensemble_requests import check_server, prepare_requests
from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.growth import in_rounds
from jpeg_bench.load import Load
from jpeg_bench.load_point import measure_load, prepare_and_check
from jpeg_bench.photos import read_photos
from jpeg_bench.pipeline import read_pipeline
from jpeg_bench.process_usage import read_usage, shm_bytes, shm_prefix
from jpeg_bench.soak import PARTS, measure_soak
from jpeg_bench.target_server import find_server, start_server
from jpeg_contract.model_names import own_name
from support import edit, photo

SHORT: Any = {"warmup_s": 0.1, "seconds": 0.6}


@pytest.fixture(scope="module")
def photos():
    return read_photos().data


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_closed_loop(url, photos, batch_size):
    target = find_server(url)
    protocol = url.partition(":")[0]
    requests = prepare_and_check(target, protocol, photos, batch_size)
    concurrency = 8 // batch_size + 1
    point = measure_load(target, requests, Load(concurrency=concurrency, client_processes=2, **SHORT))
    result = point.result
    assert result.failures == 0
    assert result.images_per_s == pytest.approx(batch_size * result.requests_per_s)
    assert result.requests > 0
    assert {*point.samples.responses} <= {*range(len(requests))}
    models, memory, cores = point.models, point.memory, point.cpu_cores
    assert models is not None
    assert memory is not None
    assert cores is not None
    assert {*models} == {"preprocess", "classifier_onnx", "postprocess", "jpeg_classifier"}
    # Triton's counters are read slightly before or after the edges of the measurement.
    assert abs(models["preprocess"]["requests"] - result.requests) <= 3 * concurrency
    assert 1 <= models["preprocess"]["mean_batch"] <= 64
    assert models["classifier_onnx"]["compute_infer_ms"] > 0
    # The port identifies a local server of this project, and its processes.
    assert {"tritonserver", "preprocess_0_0", "classifier_onnx_0_0", "postprocess_0_0", "all"} <= {*cores}
    assert cores["all"] > cores["preprocess_0_0"] > 0
    assert cores["machine"] > cores["preprocess_0_0"]
    assert memory["pss_mib"] > 50
    assert memory["shm_mib"] >= 3
    json.dumps(point.to_json(), allow_nan=False)


def test_a_soak(url, photos):
    target = find_server(url)
    requests = prepare_and_check(target, url.partition(":")[0], photos, 1)
    found = measure_soak(target, requests, Load(request_rate=30, distribution="constant", warmup_s=0.1, seconds=1))
    assert found["whole"]["requests"] == pytest.approx(30, abs=3)
    assert found["whole"]["failures"] == 0
    assert len(found["parts"]) == PARTS
    assert all(part["pss_mib"] > 50 for part in found["parts"])
    assert sum(part["cpu_ms_per_image"] or 0 for part in found["parts"]) / PARTS > 1
    assert {*found["drift"]} == {"p50_ms", "p99_ms", "cpu_ms_per_image", "pss_mib", "shm_mib"}
    assert found["drift"]["shm_mib"]["slope_percent"] is not None


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_responses_are_checked(server, protocol, photos):
    address = server.grpc_address if protocol == "grpc" else server.http_address
    requests = prepare_requests(protocol, address, photos, batch_size=3)
    assert [request.images for request in requests] == [3] * 4
    check_server(requests)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_server_with_wrong_responses_is_not_measured(url, photos, batch_size):
    target = find_server(url)
    with pytest.raises(BenchError) as raised:
        prepare_and_check(target, url.partition(":")[0], [*photos, photo("coffee")[:5000]], batch_size)
    # A request whose images all fail is an error response.
    assert raised.value.reason == ("request_failed" if batch_size == 1 else "invalid_response")


def test_an_unknown_model_is_named(url, photos):
    target = find_server(url, "unknown_model")
    with pytest.raises(BenchError, match="unknown_model") as raised:
        prepare_and_check(target, url.partition(":")[0], photos, 1)
    assert raised.value.reason == "request_failed"


def test_an_unknown_address_is_named():
    target = find_server("http://192.0.2.1:8000")
    assert target.pid is None
    with pytest.raises(InvalidOption) as raised:
        target.address("grpc")
    assert raised.value.reason == "address_unknown"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_wrong_port_is_named(protocol, capsys):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert cli.main(["serve", "--url", f"{protocol}://127.0.0.1:{port}"]) == 1
    message = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in message
    assert "[server_unreachable]" in message


def test_the_command_on_a_running_server(url, capsys):
    arguments = ["serve", "--url", url, "--protocol", url.partition(":")[0], "--concurrency", "2", "--seconds", "0.4"]
    arguments += ["--warmup-s", "0", "--batch-size", "2", "--peak-fraction", "0.5", "--photo-size", "320x240"]
    assert cli.main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    closed, opened = result["points"]
    assert closed["batch_size"] == 2
    assert closed["images_per_s"] > opened["images_per_s"] > 0
    assert opened["request_rate"] == pytest.approx(closed["requests_per_s"] / 2, rel=0.01)
    assert set(result["photos"]["sizes"]) == {"320x240"}
    assert "concurrency 2" in output.err
    assert cli.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_latency_of_each_size_in_a_mix(url, capsys):
    short = ["--protocol", url.partition(":")[0], "--warmup-s", "0.1", "--seconds", "0.6", "--concurrency", "2"]
    sizes = ["--photo-size", "500x375,1000x750", "--progressive"]
    assert cli.main(["serve", "--url", url, *short, *sizes, "--batch-size", "1,2", "--json"]) == 0
    single, batches = json.loads(capsys.readouterr().out)["points"]
    assert {*single["by_size"]} == {"500x375", "1000x750"}
    # Requests of several photos have several sizes.
    assert "by_size" not in batches
    assert cli.main(["serve", "--url", url, *short, *sizes, "--batch-size", "1"]) == 0
    assert re.search(r"^(grpc|http) +2 +1000x750 ", capsys.readouterr().out, re.MULTILINE)


def test_the_shrink_command_on_a_running_server(url, capsys):
    arguments = ["shrink", "--url", url, "--photo-size", "2400x1800,300x200", "--grain", "8", "--uplink-mbit", "8"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    large, small = found["photos"][:2]
    assert large["whole_bytes"] > 8 * large["shrunk_bytes"]
    assert large["label"] == large["shrunk_label"] == "Egyptian cat"
    assert 0 < large["score_difference"] < 0.2
    # It is sent as it is.
    assert (small["shrunk_bytes"], small["score_difference"]) == (small["whole_bytes"], 0)
    assert (found["count"], found["labels_changed"]) == (8, 0)
    (uplink,) = found["uplinks"]
    assert uplink["whole_per_s"] == pytest.approx(1e6 / found["whole_bytes"], rel=0.01)
    assert uplink["shrunk_per_s"] > 3 * uplink["whole_per_s"]
    assert cli.main(arguments) == 0
    assert "0 of 8 labels change" in capsys.readouterr().out


def test_the_soak_command_on_a_running_server(url, capsys):
    arguments = ["soak", "--url", url, "--duration-s", "1", "--warmup-s", "0", "--peak-seconds", "0.4"]
    assert cli.main([*arguments, "--protocol", url.partition(":")[0], "--concurrency", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["soak"]["request_rate"] == pytest.approx(0.9 * result["peak"]["requests_per_s"], rel=0.01)
    assert len(result["soak"]["parts"]) == PARTS


def test_shared_memory_is_that_of_the_server(server):
    prefix = shm_prefix(server.pid)
    assert prefix.startswith("jpeg_serve_")
    assert shm_bytes(prefix) >= 3 << 20
    assert shm_bytes("no-such-prefix") == shm_bytes("") == 0
    usage = read_usage(server.pid)
    assert len(usage.processes) >= 4
    assert usage.shm_mib == shm_bytes(prefix) / (1 << 20)


def test_the_pipeline_computes_what_the_server_responds(built_repository, client, photos):
    pipeline = read_pipeline(built_repository)
    assert pipeline.classifier == "classifier_onnx"
    assert not pipeline.on_gpu
    decode, classify = pipeline.open_decoder(), pipeline.open_classifier(cpus=1)
    response = pipeline.open_postprocessor()(classify(decode(photos)))
    for place, prediction in enumerate(client.classify(list(photos))):
        assert [label.decode() for label in response.labels[place]] == list(prediction.labels)
        assert np.allclose(response.scores[place], prediction.scores, atol=1e-4)


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement("decode", processes=2, batch=2),
        Arrangement("classifier", threads=2, batch=2),
        Arrangement("both", threads=2, batch=4),
        Arrangement("both", "sequential", batch=4),
        Arrangement("both", "pipelined", batch=4),
        Arrangement("both", "pipelined", threads=2, classifiers=2, batch=4),
    ],
    ids=str,
)
def test_an_arrangement(built_repository, photos, arrangement):
    found = measure_throughput(read_pipeline(built_repository), photos, arrangement, seconds=0.3, warmup_s=0.1)
    assert found.failure == ""
    assert found.images_per_s > 1


def test_the_arrangements_of_a_ceiling(built_repository, photos):
    pipeline = read_pipeline(built_repository)
    both = arrangements(pipeline, "both")
    assert {each.style for each in both} == {"workers", "sequential", "pipelined"}
    assert all(each.processes == 1 for each in both)
    assert any(each.processes > 1 for each in arrangements(pipeline, "decode")) or len(os.sched_getaffinity(0)) == 1
    with pytest.raises(InvalidOption):
        arrangements(pipeline, "both", [pipeline.max_batch_size + 1])
    single = measure_single_image(pipeline, photos, 0.3)
    assert 0 < single.p50_ms <= single.p90_ms <= single.p99_ms


def test_a_ceiling_needs_decodable_images(built_repository):
    found = measure_throughput(read_pipeline(built_repository), [b"no JPEG"], Arrangement("both"), seconds=0.5)
    assert "cannot be decoded" in found.failure
    assert np.isnan(found.images_per_s)


def test_an_unbuilt_repository(repository):
    (repository / "classifier_onnx" / "1" / "model.onnx").unlink()
    with pytest.raises(BenchError, match="jpeg-build mobilenet_v2 --backend onnx") as unbuilt:
        read_pipeline(repository)
    assert unbuilt.value.reason == "artefact_missing"
    edit(repository / "jpeg_classifier" / "config.pbtxt", '"classifier_onnx"', '"classifier_none"')
    with pytest.raises(BenchError, match="classifier_none") as missing:
        read_pipeline(repository)
    assert missing.value.reason == "model_missing"


def test_a_repository_with_more_instances(built_repository):
    with repository_with_instances(built_repository, 3) as changed:
        assert "count: 3" in (changed / "preprocess" / "config.pbtxt").read_text()
        assert "count: 3" in (changed / "classifier_onnx" / "config.pbtxt").read_text()
        assert "count: 3" not in (changed / "postprocess" / "config.pbtxt").read_text()
        assert (changed / "classifier_onnx" / "1" / "model.onnx").is_file()
    assert not changed.exists()


def test_a_repository_with_more_ensembles(built_repository, photos):
    with repository_with_ensembles(built_repository, 3) as (changed, names), start_server(changed) as server:
        for name in names:
            requests = prepare_and_check(replace(server, model=name), "grpc", photos, 2)
            found = measure_load(server, requests, Load(concurrency=2, **SHORT))
            assert found.models is not None
            assert own_name(name, "preprocess") in found.models
            assert set(names) & set(found.models) == {name}


def test_many_connections_are_measured_for_some_rounds():
    """With 2000 at 300 requests/s, each has an answer every 6.7 s: a window of 5 s shows how they began."""
    load = in_rounds(Load(concurrency=1, warmup_s=1, seconds=5), 2000 / 300)
    assert load.warmup_s > 2000 / 300
    assert load.seconds > 2000 / 300
    assert in_rounds(Load(concurrency=1, warmup_s=1, seconds=5), 0) == Load(concurrency=1, warmup_s=1, seconds=5)


def test_the_growth_command(built_repository, tmp_path, capsys):
    results = tmp_path / "growth.json"
    arguments = ["growth", "--model-repository", str(built_repository), "--seconds", "0.5", "--photo-size", "64x64"]
    arguments += ["--connections", "1,150", "--instances", "2", "--ensembles", "2", "--results", str(results)]
    assert cli.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    result = json.loads(results.read_text())
    assert results.with_suffix(".png").stat().st_size > 10_000
    points = [point for name in ("connections", "instances", "ensembles") for point in result[name]]
    assert [point["failures"] for point in points] == [0] * 6
    assert all(point["cpu_ms_per_image"] > 0 for point in points)
    assert {(point["connections"], point["protocol"]) for point in result["connections"]} == {
        (1, "grpc"),
        (150, "grpc"),
        (1, "http"),
        (150, "http"),
    }


def test_the_capacity_command_on_a_running_server(url, tmp_path, capsys):
    results = tmp_path / "capacity.json"
    arguments = ["capacity", "--url", url, "--protocol", url.partition(":")[0], "--seconds", "1", "--concurrency", "8"]
    arguments += ["--peak-fraction", "0.2,0.4", "--check-fraction", "0.3", "--json", "--results", str(results)]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    model = Capacity.from_json(found["capacity"])
    assert model.peak_images_per_s == pytest.approx(found["peak"]["images_per_s"], rel=0.01)
    assert len(found["checks"]) == 1
    sizes = found["photos"]["mean_bytes"]
    assert sizes < model.request_bytes < sizes + 2000
    # Planned from the file, without a measurement.
    rate = 10 * model.peak_images_per_s
    assert cli.main(["capacity", "--measured", str(results), "--request-rate", f"{rate}", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["plans"]
    assert planned["servers"] == 12
    assert planned["gigabits_in"] == pytest.approx(rate * model.request_bytes * 8e-9, rel=0.01)
    assert cli.main(["capacity", "--measured", str(results), "--request-rate", "5", "--p99-ms", "0.001"]) == 1
    assert "[latency_out_of_reach]" in capsys.readouterr().err
