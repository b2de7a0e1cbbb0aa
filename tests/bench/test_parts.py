"""Computation and parsing in the bench."""

from __future__ import annotations

import functools
import http.client
import io
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_bench import cli
from jpeg_bench.cross_check import ToolResult, parse_perf_analyzer, parse_wrk, supported_protocols
from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.gpu_usage import GpuUsage
from jpeg_bench.http_response import (
    INCOMPLETE,
    UNTIL_CLOSE,
    closes_connection,
    headers_and_body,
    response_length,
    status,
)
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.load_generator import LoadSamples
from jpeg_bench.options import PhotoOptions
from jpeg_bench.photos import read_photos, rotate_batches
from jpeg_bench.process_usage import ProcessUsage, Usage, process_tree, pss_mib, read_usage
from jpeg_bench.send_schedule import send_times
from jpeg_bench.soak import compute_drift
from jpeg_bench.summary import text_table
from jpeg_bench.triton_statistics import differences, parse_statistics
from jpeg_bench.worker_processes import run_together
from PIL import Image
from support import PHOTOS


def samples(scheduled, completed, *, closed_loop=True, images=1, cpu_s=(0.0,)):
    return LoadSamples(
        begin=10.0,
        end=20.0,
        scheduled=np.array(scheduled, float),
        completed=np.array(completed, float),
        request=np.zeros(len(scheduled), np.int64),
        images=np.array([images]),
        failures=0,
        delayed=0,
        reconnects=0,
        failure_messages=(),
        cpu_s=cpu_s,
        closed_loop=closed_loop,
    )


def test_percentiles_are_over_all_latencies():
    # 1 ms to 100 ms, and one that was scheduled before the measurement.
    scheduled = [*np.linspace(10, 19, 100), 9.0]
    completed = [*(np.linspace(10, 19, 100) + np.arange(1, 101) / 1e3), 15.0]
    found = samples(scheduled, completed).result()
    assert found.p50_ms == pytest.approx(50.5)
    assert found.p90_ms == pytest.approx(90.1)
    assert found.p99_ms == pytest.approx(99.01)
    assert found.max_ms == pytest.approx(100)
    # It completed during the measurement, and counts as a response.
    assert found.requests == 101


def test_the_latency_of_each_size():
    found = replace(
        samples([11.0, 12.0, 13.0, 9.0], [11.1, 12.3, 13.3, 10.5]),
        request=np.array([0, 1, 2, 1]),
        images=np.ones(4, np.int64),
    ).by_group(["small", "large", "large", "none"])
    assert found == {
        "small": {"requests": 1, "p50_ms": 100.0, "p90_ms": 100.0, "p99_ms": 100.0},
        "large": {"requests": 2, "p50_ms": 300.0, "p90_ms": 300.0, "p99_ms": 300.0},
        "none": {"requests": 0, "p50_ms": None, "p90_ms": None, "p99_ms": None},
    }


def test_requests_that_complete_late_count_for_latency_only():
    found = samples([19.0, 12.0], [25.0, 13.0], closed_loop=False, images=4).result()
    assert found.max_ms == pytest.approx(6000)
    assert found.requests == 1
    assert found.images_per_s == pytest.approx(0.4)


def test_a_closed_loop_counts_fractions_of_requests():
    # Requests of 4 s, one after the other from 6 to 22: half of the first and half of the last lie outside.
    found = samples([6, 10, 14, 18], [10, 14, 18, 22], images=8)
    assert found.throughput() == pytest.approx((8 * 2.5 / 10, 2.5 / 10))
    # The same throughput for other edges, where counting completions gives 2 or 3.
    shifted = samples([8, 12, 16], [12, 16, 20])
    assert shifted.throughput()[1] == pytest.approx(0.25)


def test_a_busy_client_process_is_reported():
    assert not samples([11], [12], cpu_s=(7.9, 7.9)).result().client_limited
    found = samples([11], [12], cpu_s=(1.0, 8.1)).result()
    assert found.client_limited
    assert found.client_cpu_share == pytest.approx(0.81)
    assert found.client_cpu_cores == pytest.approx(0.91)


@given(concurrency=st.integers(1, 100), processes=st.integers(1, 20))
def test_the_loads_of_all_processes_are_the_whole(concurrency, processes):
    loads = Load(concurrency=concurrency, client_processes=processes).split()
    assert sum(load.concurrency for load in loads) == concurrency
    assert len(loads) == min(concurrency, processes)
    assert all(load.concurrency for load in loads)


def test_constant_intervals_are_even_over_all_processes():
    load = Load(request_rate=40, client_processes=4, distribution="constant")
    times: list[float] = []
    for index, each in enumerate(load.split()):
        times += itertools.islice(send_times(each, index=index, count=4), 10)
    assert np.diff(sorted(times)) == pytest.approx(np.full(39, 1 / 40))


def test_poisson_intervals_have_the_rate_and_differ_between_processes():
    loads = Load(request_rate=100, client_processes=2).split()
    first, second = ([*itertools.islice(send_times(load), 5000)] for load in loads)
    assert first != second
    for times in (first, second):
        intervals = np.diff(times)
        assert intervals.mean() == pytest.approx(1 / 50, rel=0.05)
        # The standard deviation of exponential intervals is their mean.
        assert intervals.std() == pytest.approx(intervals.mean(), rel=0.1)


@pytest.mark.parametrize("values", [{}, {"concurrency": 1, "request_rate": 1.0}, {"concurrency": 1, "seconds": 0}])
def test_an_inconsistent_load_is_rejected(values):
    with pytest.raises(ValueError, match="a load needs"):
        Load(**values)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH:  5\r\n\r\nabcde"


@pytest.mark.parametrize(("response", "body"), [(CHUNKED, b"abc0123456789"), (LENGTH, b"abcde")])
def test_the_length_of_a_response(response, body):
    assert response_length(response) == len(response)
    assert response_length(response + b"HTTP/1.1 500") == len(response)
    for length in range(len(response)):
        assert response_length(response[:length]) == INCOMPLETE
    assert status(response) == 200
    assert not closes_connection(response)
    assert headers_and_body(response)[1] == body


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_chunks_are_parsed_like_the_standard_library(parts):
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    class Socket:
        def makefile(self, *_):
            return io.BytesIO(response)

    reference = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    reference.begin()
    assert headers_and_body(response)[1] == reference.read() == b"".join(parts)
    assert response_length(response) == len(response)


def test_responses_without_a_length():
    assert response_length(b"HTTP/1.0 200 OK\r\n\r\nabc") == UNTIL_CLOSE
    assert closes_connection(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert closes_connection(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    assert status(b"SSH-2.0-OpenSSH_9.2\r\n") == 0


def test_the_bytes_of_a_request():
    request = PreparedRequest("http", "[::1]:80", "/p?q", (("A", "b"),), b"body")
    head, _, body = request.http_bytes().partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n") == [
        b"POST /p?q HTTP/1.1",
        b"Host: [::1]:80",
        b"A: b",
        b"Content-Length: 4",
        b"Connection: keep-alive",
    ]


def test_the_usage_of_a_process_tree():
    code = "import sys; data = bytearray(32 << 20); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        pids = [process.pid for process in process_tree(os.getpid())]
        assert pids == sorted(pids)
        assert {os.getpid(), child.pid} <= {*pids}
        usage = read_usage(os.getpid())
        process = usage.processes[child.pid]
        assert process.name.startswith("python")
        assert 32 < process.pss_mib <= process.rss_mib
        assert pss_mib(psutil.Process(child.pid)) == pytest.approx(process.pss_mib, abs=2)
        assert usage.memory()["pss_mib"] >= process.pss_mib
        assert read_usage(os.getpid(), memory=False).memory()["pss_mib"] == 0
        child.communicate()
    assert usage.processes[os.getpid()].cpu_s == pytest.approx(sum(os.times()[:2]), abs=0.5)
    assert usage.machine_cpu_s > 0
    assert process_tree(child.pid) == []
    assert read_usage(child.pid).processes == {}


def test_cpu_cores_are_differences_by_name():
    before = Usage({1: ProcessUsage(1, "server", 10.0)}, machine_cpu_s=100.0, stolen_cpu_s=5.0)
    processes = {1: ProcessUsage(1, "server", 12.0), 2: ProcessUsage(2, "worker", 1.0), 3: ProcessUsage(3, "worker", 3)}
    after = Usage(processes, machine_cpu_s=107.0, stolen_cpu_s=5.5)
    expected = {"server": 1.0, "worker": 2.0, "all": 3.0, "machine": 3.5, "stolen": 0.25}
    assert after.cpu_cores_since(before, 2.0) == expected


def statistics(images, executions, requests, queue_ms):
    part = {"count": requests, "ns": queue_ms * 1_000_000}
    return {
        "name": "preprocess",
        "version": "1",
        "inference_count": images,
        "execution_count": executions,
        # JSON of gRPC messages has 64-bit integers as strings.
        "inference_stats": {"success": {"count": str(requests)}, "queue": part, "fail": {"count": 1}},
    }


def test_statistics_are_differences():
    before = parse_statistics({"model_stats": [statistics(100, 50, 80, 400)]})
    other = {**statistics(5, 5, 5, 5), "name": "other"}
    after = parse_statistics({"model_stats": [statistics(180, 60, 120, 500), other]})
    found = differences(before, after)
    assert found["preprocess"]["mean_batch"] == 8
    assert found["preprocess"]["queue_ms"] == 2.5
    assert found["preprocess"]["images"] == 80
    assert found["preprocess"]["failures"] == 0
    assert found["preprocess"]["compute_infer_ms"] == 0
    assert found["other"]["mean_batch"] == 1
    assert differences(after, after) == {}


def test_statistics_of_versions_are_summed():
    response = {"model_stats": [statistics(10, 5, 5, 1), {**statistics(20, 5, 5, 1), "version": "2"}]}
    assert parse_statistics(response)["preprocess"].images == 30


def test_drift():
    steady: Any = compute_drift([10.0, 10.1, 9.9, 10.0, 10.0, 10.1, 9.9, 10.0])
    assert abs(steady["slope_percent"]) < 1
    assert abs(steady["halves_percent"]) < 1
    growing = compute_drift(np.linspace(100, 110, 10).tolist())
    assert growing["slope_percent"] == pytest.approx(100 * 10 / 105, abs=0.01)
    assert growing["halves_percent"] == pytest.approx(100 * (107.78 / 102.22 - 1), abs=0.01)
    unknown = {"slope_percent": None, "halves_percent": None}
    assert compute_drift([5.0]) == compute_drift([0.0, 0.0]) == compute_drift([1.0, None]) == unknown


WRK = """\
Running 3s test @ http://127.0.0.1:1/
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   226.13ms   36.99ms 291.65ms   69.20%
  Latency Distribution
     50%  950.00us
     75%  248.44ms
     90%  281.49ms
     99%    1.50s
  276 requests in 2.01s, 239.61KB read
Requests/sec:    137.00
"""

# perf_analyzer 2.60
PERF_ANALYZER = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
4,104.553,15,12893,2,149,22965,1927,16,34952,55478,67283,108118
"""


def test_the_output_of_wrk():
    found = parse_wrk(WRK, 8)
    assert (found.images_per_s, found.p99_ms) == (1096.0, 1500.0)
    assert found.p50_ms == pytest.approx(0.95)
    for output in (WRK + "  Non-2xx or 3xx responses: 3\n", "unable to connect to 127.0.0.1:1 Connection refused"):
        with pytest.raises(BenchError) as raised:
            parse_wrk(output, 1)
        assert raised.value.reason == "tool_failed"


def test_the_report_of_perf_analyzer():
    assert parse_perf_analyzer(PERF_ANALYZER) == ToolResult(images_per_s=104.6, p50_ms=34.952, p99_ms=108.118)
    for report in ("", "Concurrency\n4\n"):
        with pytest.raises(BenchError) as raised:
            parse_perf_analyzer(report)
        assert raised.value.reason == "tool_failed"


def test_wrk_supports_http_only():
    assert supported_protocols("perf_analyzer", ("grpc", "http")) == ["grpc", "http"]
    assert supported_protocols("wrk", ("grpc", "http")) == ["http"]
    with pytest.raises(InvalidOption):
        supported_protocols("wrk", ("grpc",))


def test_the_output_of_nvidia_smi():
    usage = GpuUsage()
    usage.parse("0, NVIDIA X, 40, 1000\n1, NVIDIA Y, 0, 5\n0, NVIDIA X, 60, 3000\n0, NVIDIA X, [N/A], 3000\n")
    assert usage.to_json() == [
        {"gpu": 0, "name": "NVIDIA X", "mean_utilization_percent": 50.0, "max_memory_mib": 3000},
        {"gpu": 1, "name": "NVIDIA Y", "mean_utilization_percent": 0.0, "max_memory_mib": 5},
    ]


def test_photos_unchanged_and_resized(tmp_path):
    found = read_photos()
    assert found.names == tuple(sorted(path.name for path in PHOTOS.glob("*.jpg")))
    assert found.data[0] == (PHOTOS / found.names[0]).read_bytes()
    assert found.to_json()["mean_bytes"] == round(sum(map(len, found.data)) / 4)
    resized = read_photos(PHOTOS, (100, 60))
    assert set(resized.sizes) == {(100, 60)}
    with Image.open(io.BytesIO(resized.data[0])) as image:
        assert image.size == (100, 60)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BenchError) as raised:
            read_photos(folder)
        assert raised.value.reason == "photos_missing"


def test_photos_of_several_sizes_are_mixed_with_the_bytes_of_a_camera():
    sizes = ((400, 300), (80, 60))
    smooth, grainy, progressive = (
        PhotoOptions(photo_size=sizes, grain=grain, progressive=is_progressive).read()
        for grain, is_progressive in ((0, False), (8, False), (8, True))
    )
    for found in (smooth, grainy, progressive):
        assert found.groups == ("400x300", "80x60") * 4
        assert found.names[:2] == ("chelsea.jpg", "chelsea.jpg")
    assert len(grainy.data[0]) > 1.3 * len(smooth.data[0])
    pixels = [np.asarray(Image.open(io.BytesIO(each.data[0]))) for each in (grainy, progressive)]
    assert (pixels[0] == pixels[1]).all()
    assert b"\xff\xc2" in progressive.data[0]
    assert PhotoOptions().read() == read_photos()
    with pytest.raises(InvalidOption, match="photo-size"):
        PhotoOptions(progressive=True).read()


def test_batches_begin_with_different_photos():
    assert rotate_batches([b"a", b"b", b"c"], 2) == [[b"a", b"b"], [b"b", b"c"], [b"c", b"a"]]
    assert rotate_batches([b"a", b"b"], 3) == [[b"a", b"b", b"a"], [b"b", b"a", b"b"]]


def test_processes_start_together():
    starts: list[float] = []
    # The function must be importable in another process: here, both compute max(0, start).
    start, results = run_together(functools.partial, [(max, 0.0), (max, 0.0)], timeout_s=30, meanwhile=starts.append)
    assert results == [start, start]
    assert starts == [start]


def test_errors_of_a_process_keep_message_and_reason(tmp_path):
    prepare: Any = int
    with pytest.raises(BenchError, match="ValueError: invalid literal") as failed:
        run_together(prepare, [("1", 10), ("x", 10)], timeout_s=30)
    assert failed.value.reason == "worker_failed"
    prepare = read_photos
    with pytest.raises(BenchError) as reasoned:
        run_together(prepare, [(tmp_path,)], timeout_s=30)
    assert reasoned.value.reason == "photos_missing"
    with pytest.raises(BenchError) as crashed:
        run_together(os._exit, [(3,)], timeout_s=30)
    assert crashed.value.reason == "worker_crashed"


def test_a_table_is_aligned():
    assert text_table(("name", "n"), [["a", "10"], ["longer", "9"]]).splitlines() == [
        "name     n",
        "a       10",
        "longer   9",
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve", "--concurrency", "0"], "invalid_call"),
        (["serve", "--batch-size", "1,x"], "invalid_call"),
        (["serve", "--photo-size", "500"], "invalid_call"),
        (["serve", "--photo-size", "500x375,0x1"], "invalid_call"),
        (["serve", "--progressive"], "invalid_option"),
        (["shrink", "--grain", "8"], "invalid_option"),
        (["shrink", "--uplink-mbit", "0"], "invalid_call"),
        (["serve", "--protocol", "grpc,ftp"], "invalid_call"),
        (["serve", "--seconds", "0"], "invalid_call"),
        (["serve", "--warmup-s", "-1"], "invalid_call"),
        (["serve", "--url", "ftp://127.0.0.1:1"], "invalid_url"),
        (["serve", "--url", "grpcs://127.0.0.1:1"], "tls_unsupported"),
        (["soak", "--duration-s", "nan"], "invalid_call"),
        (["unknown"], "invalid_call"),
    ],
)
def test_an_invalid_call(arguments, reason, capsys):
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert f"[{reason}]" in output.err


@pytest.mark.parametrize("command", ["ceiling", "serve", "sweep", "soak", "cross-check", "plot"])
def test_the_help_of_each_command(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"jpeg-bench {command}" in capsys.readouterr().out


def test_the_help_needs_no_heavy_imports():
    code = "import sys; from jpeg_bench.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "matplotlib", "tritonclient", "psutil", "PIL", "jpeg_serve"} & {*done.stderr.split()}


def test_a_failed_measurement(tmp_path, capsys):
    assert cli.main(["ceiling", "--model-repository", str(tmp_path)]) == 1
    assert "[ensemble_missing]" in capsys.readouterr().err
    assert cli.main(["plot", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    assert cli.main(["plot", str(tmp_path / "other.json")]) == 1
    assert "[invalid_result_file]" in capsys.readouterr().err


def test_a_missing_tool_is_named(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["cross-check", "--tool", "wrk"]) == 1
    assert "[tool_missing]" in capsys.readouterr().err
