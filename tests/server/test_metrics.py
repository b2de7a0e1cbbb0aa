"""The models' metrics against the requests of clients: they agree to the image."""

import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from conftest import serve
from jpeg_client import Client
from jpeg_contract.image_errors import Reason
from jpeg_runtime.metrics import ANSWER_SECONDS
from jpeg_serve import state
from jpeg_serve.management import Management
from jpeg_serve.probe import COPIES
from scrape import exported, families, grown, sums
from support import edit, encode, noise, photo, run_module

# A reload probes the server, with a request of one image and one of several.
PROBE_IMAGES = 1 + COPIES

GOOD = {name: photo(name) for name in ("chelsea", "coffee", "china")}


def stating(width, height, **options):
    """A small image whose header states another size."""
    data = bytearray(encode(noise(16, 16), **options))
    start = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[start + 5 : start + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def with_scans(data, scans):
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def of_12_bits():
    data = bytearray(encode(noise(16, 16)))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


BROKEN = {
    "empty": b"",
    "not_jpeg": b"hello",
    "invalid_base64": b"/9j/4AAQ.",
    "truncated": photo("china")[:90_000],
    "corrupt": b"\xff\xd8\xff\xda" + bytes(200),
    "unsupported": of_12_bits(),
    "too_many_pixels": stating(12_000, 11_000),
    "too_many_scans": with_scans(encode(noise(64, 64).convert("L"), progressive=True), 100),
    "too_much_work": with_scans(stating(11_000, 10_900, progressive=True, subsampling=2), 40),
    "too_much_memory": stating(11_000, 10_900, progressive=True, subsampling=0),
    "too_many_bytes": photo("china") + bytes(20_000_000),
}
# No image causes these: one is a fault of the classifier, the other of this project.
NOT_BY_AN_IMAGE = {"not_finite", "internal"}


def image_tensor(images):
    tensor = grpcclient.InferInput("IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], dtype=object))
    return tensor


def infer(server, images, k=1):
    """Return the errors of a request's images; None if the whole request was refused."""
    client = grpcclient.InferenceServerClient(server.grpc_address)
    try:
        result = client.infer("jpeg_classifier", [image_tensor(images)], parameters={"k": k})
    except grpcclient.InferenceServerException:
        return None
    else:
        return result.as_numpy("ERROR").ravel().tolist()
    finally:
        client.close()


def series(model, reason=None):
    return f"{{{model},{reason}}}" if reason else f"{{{model}}}"


def test_every_series_is_zero_before_the_first_image(built_repository, tmp_path):
    for server in serve(built_repository, tmp_path / "triton.log"):
        ours = {name: value for name, value in sums(server, "model", "reason").items() if name.startswith("jpeg_")}
        kinds = {family.name: family.type for family in families(server) if family.name.startswith("jpeg_")}
    assert set(ours.values()) == {0.0}
    reasons = {name.partition("{")[2].rstrip("}").split(",")[-1] for name in ours if "jpeg_images_rejected" in name}
    assert reasons == set(get_args(Reason))
    assert kinds == {
        "jpeg_images_decoded": "counter",
        "jpeg_images_answered": "counter",
        "jpeg_images_rejected": "counter",
        "jpeg_requests_refused": "counter",
        "jpeg_classifier_wait_seconds": "counter",
        "jpeg_decode_duration_seconds": "histogram",
        "jpeg_image_size_bytes": "histogram",
        "jpeg_batch_images": "histogram",
        "jpeg_answer_duration_seconds": "histogram",
    }


def test_the_broken_images_of_this_test_cover_every_reason():
    assert set(BROKEN) | NOT_BY_AN_IMAGE == set(get_args(Reason))


def test_under_load_the_server_counts_what_the_clients_count(server):
    chance = random.Random(11)
    # The largest one is rare: it has 20 MB.
    kinds = [*GOOD, *GOOD, *GOOD, *(name for name in BROKEN if name != "too_many_bytes")]
    requests = [(chance.choices(kinds, k=chance.choice([1, 1, 2, 3, 7])), 1) for _ in range(100)]
    requests += [(["too_many_bytes", "chelsea"], 1), (["too_many_bytes"], 1), (["coffee", "empty"], 5000)]
    before = sums(server, "model", "reason")

    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda each: infer(server, [{**GOOD, **BROKEN}[n] for n in each[0]], each[1]), requests)
        )

    sent = [name for names, _ in requests for name in names]
    passed_on = [names for names, _ in requests if set(names) & set(GOOD)]
    wanted = {
        "jpeg_images_decoded_total{preprocess}": sum(name in GOOD for name in sent),
        "jpeg_image_size_bytes_count{preprocess}": len(sent),
        "jpeg_image_size_bytes_sum{preprocess}": sum(len({**GOOD, **BROKEN}[name]) for name in sent),
        "jpeg_decode_duration_seconds_count{preprocess}": len(sent),
        "jpeg_batch_images_sum{preprocess}": len(sent),
        "jpeg_batch_images_sum{postprocess}": sum(map(len, passed_on)),
        "jpeg_images_answered_total{postprocess}": sum(error == b"" for errors in results for error in errors or ()),
        "jpeg_answer_duration_seconds_count{postprocess}": sum(
            error == b"" for errors in results for error in errors or ()
        ),
        "jpeg_images_rejected_total{postprocess,not_finite}": 0,
        "jpeg_images_rejected_total{preprocess,internal}": 0,
        "jpeg_requests_refused_total{preprocess,no_usable_image}": len(requests) - len(passed_on),
        "jpeg_requests_refused_total{preprocess,internal}": 0,
        "jpeg_requests_refused_total{postprocess,bad_k}": 1,
        "jpeg_requests_refused_total{postprocess,no_usable_image}": 0,
        "jpeg_requests_refused_total{postprocess,internal}": 0,
    }
    wanted |= {f"jpeg_images_rejected_total{{preprocess,{reason}}}": sent.count(reason) for reason in BROKEN}
    assert all(value > 0 for name, value in wanted.items() if any(f",{reason}}}" in name for reason in BROKEN))
    # The clients' refusals are the server's, and every decoded image gets labels, except that of the invalid k.
    assert sum(errors is None for errors in results) == len(requests) - len(passed_on) + 1
    assert wanted["jpeg_images_answered_total{postprocess}"] == wanted["jpeg_images_decoded_total{preprocess}"] - 1
    grown(server, before, wanted, "model", "reason")


def test_histograms_put_each_value_in_its_bucket(server):
    before = sums(server, "model", "le")
    sizes = [len(photo("chelsea")), 20, 20_000_001]
    assert infer(server, [photo("chelsea"), bytes(20), bytes(20_000_001)]) is not None
    ends = [1024 * 2**power for power in range(4, 16)]
    wanted = {
        f"jpeg_image_size_bytes_bucket{{preprocess,{end:.0f}}}": sum(size <= end for size in sizes) for end in ends[:6]
    }
    wanted["jpeg_image_size_bytes_bucket{preprocess,+Inf}"] = 3
    # One request, so it is one batch of three for each model.
    for model in ("preprocess", "postprocess"):
        wanted |= {f"jpeg_batch_images_bucket{{{model},{end}}}": end >= 3 for end in (1, 2, 4, 8)}
    assert wanted["jpeg_image_size_bytes_bucket{preprocess,16384}"] == 1
    grown(server, before, wanted, "model", "le")
    seconds = sums(server, "model")["jpeg_decode_duration_seconds_sum{preprocess}"]
    assert seconds - before["jpeg_decode_duration_seconds_sum{preprocess}"] > 0.001  # a photo takes milliseconds


def test_the_durations_of_answers_are_those_that_the_clients_get(server):
    before = sums(server, "model", "le")
    client = grpcclient.InferenceServerClient(server.grpc_address)
    images = [GOOD["chelsea"], b"", GOOD["china"]]

    def microseconds(_):
        result = client.infer("jpeg_classifier", [image_tensor(images)])
        sums_of_steps = np.rint(result.as_numpy("TIMES").astype(np.float64) * 1000).sum(axis=1)
        return sums_of_steps[result.as_numpy("ERROR").ravel() == b""].tolist()

    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        durations = [each / 1e6 for response in pool.map(microseconds, range(40)) for each in response]
    elapsed = time.monotonic() - begun
    client.close()
    assert len(durations) == 80
    assert all(0.001 < each < elapsed for each in durations)
    wanted = {
        f"jpeg_answer_duration_seconds_bucket{{postprocess,{end:.10g}}}": sum(each <= end for each in durations)
        for end in ANSWER_SECONDS.buckets
    }
    wanted["jpeg_answer_duration_seconds_bucket{postprocess,+Inf}"] = 80
    wanted["jpeg_answer_duration_seconds_count{postprocess}"] = 80
    grown(server, before, wanted, "model", "le")
    name = "jpeg_answer_duration_seconds_sum{postprocess}"
    assert sums(server, "model")[name] - before[name] == pytest.approx(sum(durations))


def test_waits_and_durations_add_up_to_what_clients_wait(server):
    """With more images than the classifier takes at once, so that `preprocess` waits for it."""
    requests, images = 12, 32
    before = sums(server, "model")

    def seconds(_):
        begun = time.monotonic()
        assert infer(server, [GOOD["chelsea"]] * images) == [b""] * images
        return time.monotonic() - begun

    with ThreadPoolExecutor(requests) as pool:
        waited = sum(pool.map(seconds, range(requests)))
    grown(server, before, {"jpeg_answer_duration_seconds_count{postprocess}": requests * images}, "model")
    now = sums(server, "model")
    growth = {name: value - before.get(name, 0.0) for name, value in now.items()}
    queue = growth["nv_inference_queue_duration_us_total{preprocess}"] / 1e6
    hold = growth["jpeg_classifier_wait_seconds_total{preprocess}"]
    # All images of a request take the same time.
    answer = growth["jpeg_answer_duration_seconds_sum{postprocess}"] / images
    assert hold > 0
    assert 0.8 * waited < queue + hold + answer < waited


def test_images_that_the_classifier_spoils_are_counted(server):
    before = sums(server, "model", "reason")
    client = grpcclient.InferenceServerClient(server.grpc_address)
    logits = np.zeros((3, 1000), np.float32)
    logits[1] = np.nan

    def infer_labels(logits, errors):
        tensors = [
            grpcclient.InferInput("output__0", list(logits.shape), "FP32"),
            grpcclient.InferInput("ERROR", [len(errors), 1], "BYTES"),
            grpcclient.InferInput("CHECKSUM", [len(errors), 3], "UINT32"),
        ]
        tensors[0].set_data_from_numpy(logits)
        tensors[1].set_data_from_numpy(np.array([[error] for error in errors], dtype=object))
        tensors[2].set_data_from_numpy(np.zeros((len(errors), 3), np.uint32))
        return client.infer("postprocess", tensors)

    infer_labels(logits, [b"", b"", b"why"])
    with pytest.raises(grpcclient.InferenceServerException, match="not finite"):
        infer_labels(logits[1:2], [b""])
    client.close()
    wanted = {
        "jpeg_images_answered_total{postprocess}": 1,
        "jpeg_answer_duration_seconds_count{postprocess}": 1,
        "jpeg_images_rejected_total{postprocess,not_finite}": 2,
        "jpeg_requests_refused_total{postprocess,no_usable_image}": 1,
        "jpeg_batch_images_sum{postprocess}": 4,
        "jpeg_batch_images_count{postprocess}": 2,
    }
    grown(server, before, wanted, "model", "reason")


def classify_many(server, images, threads=4):
    """Send this many images, each in a request of its own."""
    counter, lock = iter(range(images)), threading.Lock()

    def go(_):
        with Client(f"grpc://{server.grpc_address}") as client:
            while True:
                with lock:
                    if next(counter, None) is None:
                        return
                (prediction,) = client.classify([GOOD["coffee"]], k=1)
                assert prediction.labels == ("espresso",)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(go, range(threads)))


def test_instances_versions_and_reloads_share_their_series(repository, tmp_path):
    """A new worker continues the counters of the old one, and nothing is counted twice."""
    for model in ("preprocess", "postprocess"):
        shutil.copytree(repository / model / "1", repository / model / "2")
        if model == "postprocess":  # preprocess has two
            edit(repository / model / "config.pbtxt", "count: 1", "count: 2")
        with (repository / model / "config.pbtxt").open("a") as config:
            config.write("version_policy { all { } }\n")

    def ours(images, version_1):
        return {
            "jpeg_images_decoded_total{preprocess,2}": images,
            "jpeg_decode_duration_seconds_count{preprocess,2}": images,
            "jpeg_images_answered_total{postprocess,2}": images,
            "jpeg_batch_images_sum{preprocess,2}": images,
            "jpeg_batch_images_sum{postprocess,2}": images,
            "jpeg_images_decoded_total{preprocess,1}": version_1,
        }

    for server in serve(repository, tmp_path / "triton.log"):
        classify_many(server, 20)
        grown(server, {}, ours(20, 0), "model", "version")
        client = grpcclient.InferenceServerClient(server.grpc_address)
        client.infer("preprocess", [image_tensor([GOOD["coffee"]])], model_version="1")
        client.close()
        grown(server, {}, ours(20, 1), "model", "version")
        # One instance fewer: Triton ends a worker, whose families must not take the other one's along.
        for model in ("preprocess", "postprocess"):
            edit(repository / model / "config.pbtxt", "count: 2", "count: 1")
        done = run_module("jpeg_serve", "reload", "--model-repository", repository)
        assert done.returncode == 0, done.stderr
        classify_many(server, 10)
        grown(server, {}, ours(30 + PROBE_IMAGES, 1), "model", "version")
        # New workers for all instances.
        (keys,) = [running.keys for _, running in state.find_running() if running.pid == server.pid]
        with Management(server.grpc_address, keys, load_s=60) as management:
            for model in ("preprocess", "postprocess"):
                with (repository / model / "2" / "model.py").open("a") as code:
                    code.write("\n# edited\n")
                management.load(model)
        classify_many(server, 10)
        grown(server, {}, ours(40 + PROBE_IMAGES, 1), "model", "version")
        server.stop()
    log = (tmp_path / "triton.log").read_text()
    assert "metrics could not be updated" not in log
    assert "no metrics of its own" not in log


@pytest.mark.parametrize(("options", "there"), [([], False), (["--metrics-config=summary_latencies=true"], True)])
def test_summaries_which_cost_much_of_the_throughput_are_kept_on_request_only(
    built_repository, tmp_path, options, there
):
    for server in serve(built_repository, tmp_path / "triton.log", triton=options):
        classify_many(server, 1)
        assert ("nv_inference_request_summary_us" in exported(server)) == there


def test_a_server_without_metrics_serves(built_repository, tmp_path):
    for server in serve(built_repository, tmp_path / "triton.log", triton=["--allow-metrics=false"]):
        classify_many(server, 5)
        server.stop()
    assert "Traceback" not in (tmp_path / "triton.log").read_text()


def test_the_classifiers_own_metrics_have_its_precision(server):
    stated = {
        sample.labels["model"]: sample.labels.get("_precision")
        for family in families(server)
        for sample in family.samples
        if sample.name.startswith("nv_inference_request_success")
    }
    assert stated["classifier_onnx"] == "fp32"
    assert stated["preprocess"] is None
