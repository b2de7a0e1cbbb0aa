"""The parts of the bench that compute and parse."""

from __future__ import annotations

import functools
import http.client
import io
import itertools
import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_bench import cli
from jpeg_bench.arrivals import arrivals
from jpeg_bench.asks import Ask, Load
from jpeg_bench.cross_check import read_wrk
from jpeg_bench.errors import BenchError
from jpeg_bench.gpu import GpuUse
from jpeg_bench.http_answer import INCOMPLETE, UNTIL_CLOSE, closes, end_of_answer, headers_and_body, status
from jpeg_bench.load import Samples
from jpeg_bench.photos import batches, read_photos
from jpeg_bench.proc import cpu_seconds, descendants, machine_seconds, read_rollup, snapshot
from jpeg_bench.processes import together
from jpeg_bench.ratios import all_ratios, ratio, spread
from jpeg_bench.soak import drift
from jpeg_bench.step_statistics import differences, read_counts
from PIL import Image
from support import PHOTOS


def samples(due, done, *, closed_loop=True, images=1, cpu_s=(0.0,)):
    return Samples(
        begin=10.0,
        end=20.0,
        due=np.array(due, float),
        done=np.array(done, float),
        ask=np.zeros(len(due), np.int64),
        images=np.array([images]),
        failures=0,
        held_back=0,
        reconnects=0,
        messages=(),
        cpu_s=cpu_s,
        closed_loop=closed_loop,
    )


def test_percentiles_are_those_of_all_latencies():
    # 1 ms to 100 ms, and one that began before the window.
    due = [*np.linspace(10, 19, 100), 9.0]
    done = [*(np.linspace(10, 19, 100) + np.arange(1, 101) / 1e3), 15.0]
    found = samples(due, done).measured()
    assert found.p50_ms == pytest.approx(50.5)
    assert found.p90_ms == pytest.approx(90.1)
    assert found.p99_ms == pytest.approx(99.01)
    assert found.max_ms == pytest.approx(100)
    # It ended in the window, and counts as answered there.
    assert found.requests == 101


def test_latencies_of_what_is_answered_after_the_window_count_and_throughput_does_not():
    found = samples([19.0, 12.0], [25.0, 13.0], closed_loop=False, images=4).measured()
    assert found.max_ms == pytest.approx(6000)
    assert found.requests == 1
    assert found.images_per_s == pytest.approx(0.4)


def test_a_closed_loop_counts_the_part_of_a_request_that_lies_in_the_window():
    # Requests of 4 s, one after the other from 6 to 22: half of the first and half of the last lie outside.
    found = samples([6, 10, 14, 18], [10, 14, 18, 22], images=8)
    assert found.rates() == pytest.approx((8 * 2.5 / 10, 2.5 / 10))
    # Whatever the window's edges: the same rate, where counting answers would give 2 or 3.
    shifted = samples([8, 12, 16], [12, 16, 20])
    assert shifted.rates()[1] == pytest.approx(0.25)


def test_a_busy_client_process_is_told():
    assert not samples([11], [12], cpu_s=(7.9, 7.9)).measured().client_limited
    found = samples([11], [12], cpu_s=(1.0, 8.1)).measured()
    assert found.client_limited
    assert found.client_cpu_share_of_process == pytest.approx(0.81)
    assert found.client_cpu_cores == pytest.approx(0.91)


@given(in_flight=st.integers(1, 100), processes=st.integers(1, 20))
def test_shares_of_a_closed_loop_are_the_whole(in_flight, processes):
    shares = Load(in_flight=in_flight, processes=processes).shares()
    assert sum(share.in_flight for share in shares) == in_flight
    assert len(shares) == min(in_flight, processes)
    assert all(share.in_flight for share in shares)


def test_arrivals_are_spaced_over_all_processes():
    load = Load(arrivals_per_s=40, processes=4, poisson=False)
    times: list[float] = []
    for index, share in enumerate(load.shares()):
        times += itertools.islice(arrivals(share, index=index, count=4), 10)
    assert np.diff(sorted(times)) == pytest.approx(np.full(39, 1 / 40))


def test_random_arrivals_have_the_rate_and_differ_between_processes():
    shares = Load(arrivals_per_s=100, processes=2).shares()
    first, second = ([*itertools.islice(arrivals(share), 5000)] for share in shares)
    assert first != second
    for times in (first, second):
        gaps = np.diff(times)
        assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
        # Of exponential gaps, the standard deviation is the mean.
        assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


@pytest.mark.parametrize("wrong", [{}, {"in_flight": 1, "arrivals_per_s": 1.0}, {"in_flight": 1, "seconds": 0}])
def test_a_load_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="a load has"):
        Load(**wrong)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH:  5\r\n\r\nabcde"


@pytest.mark.parametrize(("answer", "body"), [(CHUNKED, b"abc0123456789"), (LENGTH, b"abcde")])
def test_an_answer_ends_where_it_ends_and_not_before(answer, body):
    assert end_of_answer(answer) == len(answer)
    assert end_of_answer(answer + b"HTTP/1.1 500") == len(answer)
    for length in range(len(answer)):
        assert end_of_answer(answer[:length]) == INCOMPLETE
    assert status(answer) == 200
    assert not closes(answer)
    assert headers_and_body(answer)[1] == body


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_chunks_are_read_as_the_standard_library_reads_them(parts):
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    class Socket:
        def makefile(self, *_):
            return io.BytesIO(answer)

    read = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    read.begin()
    assert headers_and_body(answer)[1] == read.read() == b"".join(parts)
    assert end_of_answer(answer) == len(answer)


def test_answers_without_a_length():
    assert end_of_answer(b"HTTP/1.0 200 OK\r\n\r\nabc") == UNTIL_CLOSE
    assert closes(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert closes(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    assert status(b"SSH-2.0-OpenSSH_9.2\r\n") == 0


def test_the_bytes_of_a_request():
    ask = Ask("http", "[::1]:80", "/p?q", (("A", "b"),), b"body")
    head, _, body = ask.http_bytes().partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n") == [
        b"POST /p?q HTTP/1.1", b"Host: [::1]:80", b"A: b", b"Content-Length: 4", b"Connection: keep-alive"
    ]  # fmt: skip


def test_rollup_and_stat_of_a_process():
    text = (
        "55ff-7ffd ---p 00 00:00 0 [rollup]\nRss:  40960 kB\nPss:  20480 kB\nPss_Dirty:  7328 kB\nShared_Clean: 1 kB\n"
    )
    assert read_rollup(text) == (40.0, 20.0)
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", "1", *["0"] * 9, str(3 * ticks), str(2 * ticks), *["0"] * 30]
    assert cpu_seconds(f"123 (a ) b) {' '.join(fields)}") == 5.0
    row = [ticks * number for number in (1, 2, 3, 100, 200, 4, 5, 7, 0, 0)]
    assert machine_seconds(f"cpu  {' '.join(map(str, row))}\ncpu0 1 2 3\n") == (15.0, 7.0)


def test_this_process_is_seen_as_the_kernel_has_it():
    found = snapshot(os.getpid()).processes[os.getpid()]
    assert os.getpid() in descendants(os.getppid())
    assert 0 < found.pss_mib <= found.rss_mib
    assert found.cpu_s == pytest.approx(sum(os.times()[:2]), abs=0.5)


def statistics(images, runs, requests, queue_ms):
    part = {"count": requests, "ns": queue_ms * 1_000_000}
    return {
        "name": "preprocess",
        "version": "1",
        "inference_count": images,
        "execution_count": runs,
        # gRPC's JSON has whole numbers as texts.
        "inference_stats": {"success": {"count": str(requests)}, "queue": part, "fail": {"count": 1}},
    }


def test_statistics_are_differences():
    before = read_counts({"model_stats": [statistics(100, 50, 80, 400)]})
    after = read_counts({"model_stats": [statistics(180, 60, 120, 500), {**statistics(5, 5, 5, 5), "name": "other"}]})
    found = differences(before, after)
    assert found["preprocess"]["mean_batch"] == 8
    assert found["preprocess"]["queue_ms"] == 2.5
    assert found["preprocess"]["images"] == 80
    assert found["preprocess"]["failed"] == 0
    assert found["preprocess"]["compute_infer_ms"] == 0
    assert found["other"]["mean_batch"] == 1
    assert differences(after, after) == {}


def test_versions_of_a_model_count_together():
    said = {"model_stats": [statistics(10, 5, 5, 1), {**statistics(20, 5, 5, 1), "version": "2"}]}
    assert read_counts(said)["preprocess"].images == 30


def test_ratio_and_spread():
    assert ratio(3, 2) == 1.5
    assert ratio(None, 2) is ratio(3, None) is ratio(3, 0) is None
    found = spread([3.0, None, 1.0, 2.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, None, 1.0, 2.0]}
    assert spread([None]) is None


def point(images_per_s, p50_ms=10.0, p99_ms=20.0, failures=0):
    return {"images_per_s": images_per_s, "p50_ms": p50_ms, "p99_ms": p99_ms, "failures": failures}


def comparison(noise, *, failures=0):
    """A round on a machine that is slower or faster by a factor meanwhile."""
    ours = {
        "grpc many": point(95 * noise),
        "http many": point(90 * noise, failures=failures),
        "grpc one": point(50, 12),
    }
    return {
        "ceiling": {"images_per_s": 100 * noise, "p50_ms": 10.0},
        "ours": {"points": ours},
        "own choice": {"points": ours},
        "peers": {
            "slow tuned": {"points": {"many": point(30 * noise, p99_ms=5)}},
            "fast tuned": {"points": {"many": point(60 * noise, p99_ms=40)}},
            "liar tuned": {"points": {"many": point(900 * noise, failures=1)}},
            "fast default": {"points": {"many": point(45 * noise)}},
            "broken default": {"points": {}, "failure": "does not start"},
        },
    }


def test_ratios_are_taken_within_a_round():
    found: Any = all_ratios([comparison(noise) for noise in (1.0, 0.5, 2.0)])
    assert found["served_over_ceiling"] == {"median": 0.95, "min": 0.95, "max": 0.95, "rounds": [0.95] * 3}
    assert found["p50_over_one_process"]["median"] == 1.2
    assert found["over_best_peer"]["median"] == 1.5
    assert found["over_best_peer_grpc"]["median"] == pytest.approx(95 / 60, abs=1e-4)
    # Of the fastest peer, and not the lowest of any.
    assert found["p99_over_best_peer"]["median"] == 0.5
    assert found["own_choice_over_best_peer_default"]["median"] == 2
    assert found["served_over_ceiling_batches"] is None


def test_a_run_with_failures_has_no_ratio():
    found: Any = all_ratios([comparison(1.0, failures=1)])
    assert found["over_best_peer"] is None
    assert found["over_best_peer_grpc"]["median"] > 1


def test_drift():
    steady: Any = drift([10.0, 10.1, 9.9, 10.0, 10.0, 10.1, 9.9, 10.0])
    assert abs(steady["slope_percent"]) < 1
    assert abs(steady["halves_percent"]) < 1
    growing = drift(np.linspace(100, 110, 10).tolist())
    assert growing["slope_percent"] == pytest.approx(100 * 10 / 105, abs=0.01)
    assert growing["halves_percent"] == pytest.approx(100 * (107.78 / 102.22 - 1), abs=0.01)
    assert drift([5.0]) == drift([0.0, 0.0]) == {"slope_percent": None, "halves_percent": None}


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


def test_what_wrk_prints():
    assert read_wrk(WRK, 8) == {"images_per_s": 1096.0, "p50_ms": pytest.approx(0.95), "p99_ms": 1500.0}
    with pytest.raises(BenchError, match="Non-2xx or 3xx responses: 3"):
        read_wrk(WRK + "  Non-2xx or 3xx responses: 3\n", 1)
    with pytest.raises(BenchError, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1 Connection refused", 1)


def test_what_nvidia_smi_prints():
    use = GpuUse()
    use.read("0, NVIDIA X, 40, 1000\n1, NVIDIA Y, 0, 5\n0, NVIDIA X, 60, 3000\n0, NVIDIA X, [N/A], 3000\n")
    assert use.to_json() == [
        {"gpu": 0, "name": "NVIDIA X", "mean_use_percent": 50.0, "memory_mib": 3000},
        {"gpu": 1, "name": "NVIDIA Y", "mean_use_percent": 0.0, "memory_mib": 5},
    ]


def test_photos_as_they_are_and_cut_to_one_size(tmp_path):
    found = read_photos()
    assert found.names == tuple(sorted(path.name for path in PHOTOS.glob("*.jpg")))
    assert found.data[0] == (PHOTOS / found.names[0]).read_bytes()
    assert found.to_json()["mean_bytes"] == round(sum(map(len, found.data)) / 4)
    cut = read_photos(PHOTOS, (100, 60))
    assert set(cut.sizes) == {(100, 60)}
    with Image.open(io.BytesIO(cut.data[0])) as image:
        assert image.size == (100, 60)
    with pytest.raises(BenchError, match="holds no file"):
        read_photos(tmp_path)
    with pytest.raises(BenchError, match="is no folder"):
        read_photos(tmp_path / "none")


def test_requests_of_several_photos_each_begin_with_another():
    assert batches([b"a", b"b", b"c"], 2) == [[b"a", b"b"], [b"b", b"c"], [b"c", b"a"]]
    assert batches([b"a", b"b"], 3) == [[b"a", b"b", b"a"], [b"b", b"a", b"b"]]


def test_processes_begin_together():
    seen: list[float] = []
    # The function must be one that another process can import: here, both make max(0, start).
    start, results = together(functools.partial, [(max, 0.0), (max, 0.0)], limit_s=30, meanwhile=seen.append)
    assert results == [start, start]
    assert seen == [start]


def test_a_process_that_fails_says_why(tmp_path):
    fail: Any = int
    with pytest.raises(BenchError, match="ValueError: invalid literal"):
        together(fail, [("1", 10), ("x", 10)], limit_s=30)
    fail = read_photos
    with pytest.raises(BenchError, match="holds no file"):
        together(fail, [(tmp_path,)], limit_s=30)
    with pytest.raises(BenchError, match="ended by itself"):
        together(os._exit, [(3,)], limit_s=30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--in-flight", "0"], "give 1 or more"),
        (["serve", "--photo-size", "500"], "''"),
        (["serve", "--protocols", "grpc,ftp"], "'ftp' is none of"),
        (["serve", "--url", "ftp://127.0.0.1:1"], "is no address of a server"),
        (["serve", "--url", "grpcs://127.0.0.1:1"], "speak no TLS"),
        (["compare", "--peers", "nobody", "--results", "x.json"], "there is no peer nobody"),
        ([], "required"),
    ],
)
def test_a_wrong_call(arguments, said, capsys):
    if arguments[:1] == ["compare"]:
        pytest.importorskip("matplotlib")
    try:
        code: object = cli.main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ceiling", "serve", "sweep", "peers", "compare", "plot"])
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert "usage: jpeg-bench" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(tmp_path, capsys):
    assert cli.main(["ceiling", "--model-repository", str(tmp_path)]) == 1
    assert "has no ensemble jpeg_classifier" in capsys.readouterr().err
    assert cli.main(["plot", str(tmp_path / "none.json")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    assert cli.main(["plot", str(tmp_path / "other.json")]) == 1
    assert "is no result" in capsys.readouterr().err
