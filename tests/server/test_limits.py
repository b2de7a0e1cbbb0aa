"""A server at its limits: too many requests are refused soon, and nothing is computed that nobody waits for."""

import shutil
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from conftest import serve
from scrape import sums
from support import photo, wait_for_batches

COFFEE = photo("coffee")
BOUND = 4
CLIENTS = 24


@pytest.fixture(scope="module")
def bounded(built_repository, tmp_path_factory):
    """Four requests may wait for `preprocess`, which takes half a second for each two."""
    folder = tmp_path_factory.mktemp("bounded")
    repository = folder / "model_repository"
    shutil.copytree(built_repository, repository)
    config = repository / "preprocess" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 64", "max_batch_size: 2"))
    ensemble = repository / "jpeg_classifier" / "config.pbtxt"
    ensemble.write_text(ensemble.read_text().replace("max_batch_size: 64", "max_batch_size: 2"))
    with (repository / "preprocess" / "1" / "model.py").open("a") as model:
        model.write(
            "\n_respond = TritonPythonModel._respond\n"
            "TritonPythonModel._respond = lambda self, requests: time.sleep(0.5) or _respond(self, requests)\n"
        )
    yield from serve(repository, folder / "triton.log", max_waiting=BOUND)


def post(server):
    """Send the photo; return the status and how long it took."""
    begun = time.monotonic()
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/jpeg_classifier/infer",
        COFFEE,
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, time.monotonic() - begun
    except urllib.error.HTTPError as error:
        with error:
            return error.code, time.monotonic() - begun


def image():
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[COFFEE]], dtype=object))
    return [tensor]


def test_too_many_waiting_requests_are_refused_soon_over_http_and_the_others_are_answered(bounded):
    with ThreadPoolExecutor(CLIENTS) as pool:
        sent = [pool.submit(post, bounded) for _ in range(CLIENTS)]
        wait(sent)
    outcomes = [future.result() for future in sent]
    refused = [seconds for status, seconds in outcomes if status == 503]
    accepted = [seconds for status, seconds in outcomes if status == 200]
    assert len(refused) + len(accepted) == CLIENTS
    # Those that wait, those in the batches of one look at the queue, and a busy machine's delay.
    assert len(refused) >= CLIENTS / 2
    assert len(accepted) >= BOUND
    assert max(refused) < max(accepted)


def test_too_many_waiting_requests_are_unavailable_over_grpc(bounded):
    with grpcclient.InferenceServerClient(bounded.grpc_address) as client:

        def classify(_number):
            try:
                return client.infer("jpeg_classifier", image()).as_numpy("LABEL")[0][0]
            except grpcclient.InferenceServerException as error:
                assert "[queue_full]" in error.message()
                return error.status()

        with ThreadPoolExecutor(CLIENTS) as pool:
            outcomes = list(pool.map(classify, range(CLIENTS)))
    assert set(outcomes) == {b"espresso", "StatusCode.UNAVAILABLE"}


def late_request(server, deadline_ms):
    with (
        grpcclient.InferenceServerClient(server.grpc_address) as client,
        pytest.raises(grpcclient.InferenceServerException) as refused,
    ):
        client.infer("jpeg_classifier", image(), parameters={"deadline": deadline_ms})
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert "[deadline_passed]" in refused.value.message()


def test_a_request_whose_deadline_has_passed_is_dropped_before_it_is_decoded(server):
    def decoded():
        time.sleep(0.5)  # metrics come a little later
        return sums(server)["jpeg_images_decoded_total{}"]

    before = decoded()
    late_request(server, int(time.time() * 1000) - 1)
    assert decoded() == before


def test_a_request_whose_deadline_passes_after_decoding_is_dropped_before_the_classifier(built_repository, tmp_path):
    repository = tmp_path / "model_repository"
    shutil.copytree(built_repository, repository)
    wait_for_batches(repository / "classifier_onnx", 64, seconds=2)
    for server in serve(repository, tmp_path / "triton.log"):
        late_request(server, int((time.time() + 1) * 1000))
        seen = sums(server, "model")
        assert seen["nv_inference_request_success_total{preprocess}"] == 1
        assert "nv_inference_request_success_total{postprocess}" not in {name for name, value in seen.items() if value}


def test_a_deadline_in_the_future_and_one_in_a_header_count(server):
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        result = client.infer(
            "jpeg_classifier", image(), parameters={"deadline": int((time.time() + 30) * 1000), "k": 1}
        )
    assert result.as_numpy("LABEL")[0].tolist() == [b"espresso"]
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/jpeg_classifier/infer",
        COFFEE,
        {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": "0",
            "deadline": str(int(time.time() * 1000) - 1),
        },
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 503
    refused.value.close()
