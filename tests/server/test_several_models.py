"""Several ensembles in one server: each by its name, one swapped or removed while the others serve."""

import asyncio
import json
import shutil
import threading
import time
import urllib.request

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from colours import RGB, colour_recipe, plain
from conftest import serve
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.recipe.recipe import load_recipe
from jpeg_build.repository.combine import combine
from jpeg_build.repository.use import Trial, try_beside, use
from jpeg_client import AsyncClient, Client, JpegClientError
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.forms import FORMS
from jpeg_contract.model_names import ModelNames
from jpeg_contract.report import ArtefactFile, KnownClass, read_report, write_report
from jpeg_contract.run_folder import read_ensembles
from jpeg_serve.errors import ProbeError
from jpeg_serve.management import Management
from jpeg_serve.state import find_at
from scrape import grown, sums
from support import edit, run_module
from web_command import web_command

CATS = {"tabby": RGB["red"], "siamese": RGB["white"]}
DOGS = {"poodle": RGB["green"], "husky": RGB["blue"], "pug": RGB["red"]}
BIRDS = {"robin": RGB["red"], "parrot": RGB["green"], "jay": RGB["blue"]}


def put(root, recipe, ensemble, **more):
    build(Request(load_recipe(recipe), root, ensemble=ensemble, **more), lambda line: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Dogs and cats of one geometry, birds of another one, and dogs and cats on one image."""
    folder = tmp_path_factory.mktemp("several")
    root = folder / "model_repository"
    put(root, colour_recipe(folder, "dogs", DOGS), "jpeg_classifier")
    put(root, colour_recipe(folder, "cats", CATS), "cats")
    put(root, colour_recipe(folder, "birds", BIRDS, size=48), "birds")
    combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    return root


@pytest.fixture(scope="module")
def server(built, tmp_path_factory):
    yield from serve(built, tmp_path_factory.mktemp("log") / "triton.log")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_each_model_answers_by_its_name(server, protocol):
    url = f"{protocol}://{getattr(server, f'{protocol}_address')}"
    for model, label in (("jpeg_classifier", "pug"), ("cats", "tabby"), ("birds", "robin"), ("both", "pug")):
        with Client(url, model=model) as client:
            assert client.classify(plain("red"), k=1).labels == (label,)
    with Client(url, model="fish") as client, pytest.raises(JpegClientError) as caught:
        client.classify(plain("red"))
    assert caught.value.reason == "unknown_model"


def test_two_networks_share_one_decoded_image(server):
    before = sums(server, "model")
    images = np.array([[plain("red")], [plain("white")], [b"no image"]], object)
    tensor = grpcclient.InferInput("IMAGE", list(images.shape), "BYTES")
    tensor.set_data_from_numpy(images)
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        response = client.infer("both", [tensor], parameters={"k": 1})
    assert response.as_numpy("LABEL").ravel().tolist() == [b"pug", b"poodle", b""]
    assert response.as_numpy("cats_LABEL").ravel().tolist() == [b"tabby", b"siamese", b""]
    errors = [response.as_numpy(name).ravel().tolist() for name in ("ERROR", "cats_ERROR")]
    assert errors[0] == errors[1]
    assert [bool(error) for error in errors[0]] == [False, False, True]
    models = ["preprocess", "classifier_onnx", "cats_classifier_onnx"]
    grown(server, before, {f"nv_inference_count_total{{{model}}}": 3.0 for model in models}, "model")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_reads_the_labels_of_both_networks(server, protocol):
    with Client(f"{protocol}://{getattr(server, f'{protocol}_address')}", model="both") as client:
        red, broken, white = client.classify([plain("red"), b"no image", plain("white")], k=1)
        assert (red.labels, red.others["cats"].labels) == (("pug",), ("tabby",))
        assert (white.labels, white.others["cats"].labels) == (("poodle",), ("siamese",))
        assert (broken.reason, broken.others["cats"].reason) == ("not_jpeg", "not_jpeg")
        assert client.describe().classifier == "classifier_onnx"
    with Client(f"{protocol}://{getattr(server, f'{protocol}_address')}") as client:
        assert client.classify(plain("red")).others == {}


def test_the_server_states_what_it_serves(server):
    assert server.run_folder is not None
    found = read_ensembles(server.run_folder)
    assert found["cats"] == ["preprocess", "cats_classifier_onnx", "cats_postprocess"]
    assert sorted(found) == ["birds", "both", "cats", "jpeg_classifier"]
    assert {name: server.probe(ensemble=name).note for name in found} == dict.fromkeys(found, "")


def test_only_the_named_models_are_loaded(built, tmp_path):
    for server in serve(built, tmp_path / "triton.log", load=["cats"]):
        with Client(f"http://{server.http_address}", model="cats") as client:
            assert client.classify(plain("red"), k=1).labels == ("tabby",)
        with Client(f"http://{server.http_address}") as client, pytest.raises(JpegClientError) as caught:
            client.classify(plain("red"))
        assert caught.value.reason == "unknown_model"
        assert server.run_folder is not None
        assert sorted(read_ensembles(server.run_folder)) == ["cats"]


class Load:
    """Clients of one model that never pause, from the start to `stop`."""

    def __init__(self, server, model, colour):
        self._labels, self.failures = [], []
        self._over = threading.Event()
        urls = [f"grpc://{server.grpc_address}", f"http://{server.http_address}"]
        self._threads = [threading.Thread(target=self._run, args=(url, model, plain(colour))) for url in urls]
        for thread in self._threads:
            thread.start()

    def _run(self, url, model, image):
        with Client(url, model=model, retry=False) as client:
            while not self._over.is_set():
                try:
                    self._labels += client.classify(image, k=1).labels
                except Exception as error:  # any failure counts
                    self.failures.append(repr(error))

    @property
    def labels(self):
        return set(self._labels)

    def labels_from_now(self, requests):
        """Return the labels of the next requests, without those that are open now."""
        begun = len(self._labels) + len(self._threads)
        limit = time.monotonic() + 30
        while len(self._labels) < begun + requests and time.monotonic() < limit and not self.failures:
            time.sleep(0.01)
        assert self.failures == []
        return set(self._labels[begun:])

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join()


def reloaded(root):
    done = run_module("jpeg_serve", "reload", "--model-repository", root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_are_added_swapped_and_removed_while_another_serves(tmp_path):
    root = tmp_path / "model_repository"
    put(root, colour_recipe(tmp_path, "dogs", DOGS), "jpeg_classifier")
    put(root, colour_recipe(tmp_path, "cats", CATS), "cats")
    for server in serve(root, tmp_path / "triton.log"):
        loads = [Load(server, "jpeg_classifier", "blue"), Load(server, "cats", "white")]
        try:
            put(root, colour_recipe(tmp_path, "birds", BIRDS, size=48), "birds")
            assert "birds_classifier_onnx" in reloaded(root)
            put(root, tmp_path / "cats.toml", "cats", backend="openvino")
            done = run_module("jpeg_build", "use", "openvino", "--name", "cats", "--model-repository", root)
            assert done.returncode == 0, done.stderr
            assert "cats_classifier_openvino" in reloaded(root)
            with Client(f"http://{server.http_address}", model="birds") as client:
                assert client.classify(plain("green"), k=1).labels == ("parrot",)
            cats = loads.pop()
            cats.stop()
            assert (cats.labels, cats.failures) == ({"siamese"}, [])
            done = run_module("jpeg_build", "remove", "cats", "--model-repository", root)
            assert done.returncode == 0, done.stderr
            assert "cats" not in reloaded(root)
            with (
                Client(f"http://{server.http_address}", model="cats", retry=False) as client,
                pytest.raises(JpegClientError) as caught,
            ):
                client.classify(plain("white"))
            # Triton knows the name still, and has no version of it.
            assert caught.value.reason == "model_not_ready"
        finally:
            for load in loads:
                load.stop()
        assert (loads[0].labels, loads[0].failures) == ({"husky"}, [])


@pytest.fixture(scope="module")
def retrained(tmp_path_factory):
    """Two versions of one classifier: the second one calls red what the first one calls green, and the reverse."""
    folder = tmp_path_factory.mktemp("retrained")
    root = folder / "model_repository"
    put(root, colour_recipe(folder, "birds", BIRDS), "jpeg_classifier")
    turned = {"robin": BIRDS["parrot"], "parrot": BIRDS["robin"], "jay": BIRDS["jay"]}
    put(root, colour_recipe(folder, "birds", turned), "jpeg_classifier", version=2)
    use(root, FORMS["onnx"], "1")
    return root


def classified(server, colour, count):
    with Client(f"grpc://{server.grpc_address}") as client:
        return [client.classify(plain(colour), k=1).labels[0] for _ in range(count)]


def test_a_tenth_of_the_requests_is_answered_by_another_version(retrained, tmp_path):
    try_beside(retrained, FORMS["onnx"], "2", Trial("split", 10))
    for server in serve(retrained, tmp_path / "triton.log"):
        before, versions = sums(server, "model"), sums(server, "model", "version")
        labels = classified(server, "red", 100)
        # Two workers count for themselves.
        assert 8 <= labels.count("parrot") <= 10
        assert labels.count("robin") == 100 - labels.count("parrot")
        candidate = float(labels.count("parrot"))
        routed = {"primary": 100 - candidate, "candidate": candidate}
        grown(server, before, {f"jpeg_routed_{to}_images_total{{router}}": n for to, n in routed.items()}, "model")
        name = "nv_inference_count_total{classifier_onnx,%d}"
        grown(server, versions, {name % 1: 100 - candidate, name % 2: candidate}, "model", "version")
        # Going back needs no restart, and loses nothing.
        load = Load(server, "jpeg_classifier", "blue")
        use(retrained, FORMS["onnx"], None)
        reloaded(retrained)
        load.stop()
        assert (load.labels, load.failures) == ({"jay"}, [])
        assert set(classified(server, "red", 20)) == {"robin"}


def test_a_shadow_is_compared_and_answers_nothing(retrained, tmp_path):
    try_beside(retrained, FORMS["onnx"], "2", Trial("shadow", 100))
    for server in serve(retrained, tmp_path / "triton.log"):
        before = sums(server, "model")
        assert set(classified(server, "red", 20)) == {"robin"}
        assert set(classified(server, "blue", 10)) == {"jay"}
        counted = {"routed_primary": 30.0, "shadow_same": 10.0, "shadow_different": 20.0, "shadow_skipped": 0.0}
        grown(server, before, {f"jpeg_{name}_images_total{{router}}": n for name, n in counted.items()}, "model")
    use(retrained, FORMS["onnx"], None)


def expected_by_the_probe(root, version, *indices):
    """Let the report on a version name these classes for the probe's photo."""
    artefact = root / "classifier_onnx" / str(version) / "model.onnx"
    known = [KnownClass(index=index, label=list(BIRDS)[index], score=0.5) for index in indices]
    write_report(msgspec.structs.replace(read_report(artefact), probe=known), artefact)


def test_a_trial_is_described_and_probed_as_the_networks_that_answer(retrained, tmp_path):
    root = shutil.copytree(retrained, tmp_path / "model_repository")
    first, second = (read_report(root / "classifier_onnx" / version / "model.onnx").probe[0].index for version in "12")
    assert first != second
    for trial in (Trial("shadow", 50), Trial("split", 50)):
        mode = trial.mode
        expected_by_the_probe(root, 2, second)
        try_beside(root, FORMS["onnx"], "2", trial)
        for server in serve(root, tmp_path / "triton.log"):
            with Client(f"grpc://{server.grpc_address}") as client:
                described = client.describe()
            assert (described.classifier, described.router) == ("classifier_onnx", "router")
            assert (described.backend, described.precision) == ("onnxruntime", "fp32")
            assert asyncio.run(described_by(server)) == described
            # Half of the requests of the probe are answered by each; or all by the first one.
            assert {server.probe().note for _ in range(4)} == {""}
            assert reloaded(root).endswith(
                f"preprocess -> router ({mode} 50 %: classifier_onnx (version 1: birds in fp32) | classifier_onnx "
                "(version 2: birds in fp32)) -> postprocess\n"
            )
            expected_by_the_probe(root, 2, 3 - first - second)
            if mode == "split":
                with pytest.raises(ProbeError) as caught:
                    [server.probe() for _ in range(4)]
                assert caught.value.reason == "wrong_label"
            else:
                server.probe()
            with web_command(tmp_path / f"{mode}.log", "--url", f"http://{server.http_address}") as web:
                request = urllib.request.Request(f"{web.url}/classify", plain("red"), {"Content-Type": "image/jpeg"})
                with urllib.request.urlopen(request, timeout=30) as response:
                    assert json.load(response)["model"]["classifier"] == "classifier_onnx"


async def described_by(server):
    async with AsyncClient(f"http://{server.http_address}") as client:
        return await client.describe()


def test_a_candidate_that_fails_costs_no_answer(retrained, tmp_path):
    """Its version is gone from the server."""
    try_beside(retrained, FORMS["onnx"], "2", Trial("split", 100))
    for server in serve(retrained, tmp_path / "triton.log"):
        running = find_at(server.http_address)
        assert running is not None
        with Management(server.grpc_address, running.keys, load_s=60) as management:
            management.unload("classifier_onnx")
            management.unload("jpeg_classifier")
            # Only the primary comes back.
            edit(retrained / "classifier_onnx" / "config.pbtxt", "versions: [1, 2]", "versions: [1]")
            management.load("classifier_onnx")
            management.load("jpeg_classifier")
        before = sums(server, "model")
        assert set(classified(server, "red", 5)) == {"robin"}
        grown(server, before, {"jpeg_candidate_failed_images_total{router}": 5.0}, "model")
    edit(retrained / "classifier_onnx" / "config.pbtxt", "versions: [1]", "versions: [1, 2]")
    use(retrained, FORMS["onnx"], None)


TURNED = {"robin": BIRDS["parrot"], "parrot": BIRDS["robin"], "jay": BIRDS["jay"]}


def ran(*arguments):
    done = run_module(*arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("more", [("--version", "2"), ("--backend", "openvino")], ids=["version", "form"])
def test_a_network_of_another_recipe_is_tried_taken_and_given_back_under_load(tmp_path, more):
    """Red is a robin for the first network, and a parrot for the one that was trained again."""
    root = tmp_path / "model_repository"
    put(root, colour_recipe(tmp_path, "birds", BIRDS), "jpeg_classifier")
    again = colour_recipe(tmp_path, "retrained", TURNED)
    where = ("--model-repository", root)
    version, form = ("2", "onnx") if more[0] == "--version" else ("1", more[1])
    for server in serve(root, tmp_path / "triton.log"):
        load = Load(server, "jpeg_classifier", "red")
        try:
            ran("jpeg_build", again, *more, *where)
            # A reload after the build alone, as another change needs one.
            reloaded(root)
            assert load.labels_from_now(20) == {"robin"}
            ran("jpeg_build", "use", form, "--version", version, "--shadow", "100", *where)
            reloaded(root)
            assert load.labels_from_now(20) == {"robin"}
            # All are compared, and each has another label.
            grown(server, {}, {"jpeg_shadow_same_images_total{router}": 0.0}, "model")
            assert sums(server, "model")["jpeg_shadow_different_images_total{router}"] >= 1
            # Up to here, no request had another answer, while models were loaded, either.
            assert load.labels == {"robin"}
            ran("jpeg_build", "use", form, "--version", version, "--split", "50", *where)
            reloaded(root)
            assert load.labels_from_now(40) == {"robin", "parrot"}
            ran("jpeg_build", "use", form, "--version", version, *where)
            reloaded(root)
            assert load.labels_from_now(20) == {"parrot"}
            assert server.probe().note == ""
            ran("jpeg_build", "use", "onnx", "--version", "1", *where)
            reloaded(root)
            assert load.labels_from_now(20) == {"robin"}
        finally:
            load.stop()
        assert load.failures == []
        assert load.labels == {"robin", "parrot"}
        log = (tmp_path / "triton.log").read_text()
        # The steps around it are those that the server began with.
        assert log.count("successfully loaded 'preprocess'") == log.count("successfully loaded 'postprocess'") == 1


def test_a_candidate_that_does_not_load_leaves_what_serves_under_load(tmp_path):
    root = tmp_path / "model_repository"
    put(root, colour_recipe(tmp_path, "birds", BIRDS), "jpeg_classifier")
    put(root, colour_recipe(tmp_path, "retrained", TURNED), "jpeg_classifier", version=2)
    whole = (root / "classifier_onnx" / "2" / "model.onnx").read_bytes()
    replaced(root / "classifier_onnx" / "2" / "model.onnx", b"no network")
    use(root, FORMS["onnx"], "1")
    for server in serve(root, tmp_path / "triton.log"):
        load = Load(server, "jpeg_classifier", "red")
        try:
            try_beside(root, FORMS["onnx"], "2", Trial("split", 50))
            done = run_module("jpeg_serve", "reload", "--model-repository", root)
            assert done.returncode == 1
            assert "classifier_onnx was not loaded" in done.stderr
            assert load.labels_from_now(20) == {"robin"}
            # Corrected, it is tried.
            replaced(root / "classifier_onnx" / "2" / "model.onnx", whole)
            reloaded(root)
            assert load.labels_from_now(40) == {"robin", "parrot"}
        finally:
            load.stop()
        assert load.failures == []


def replaced(artefact, content):
    """Replace an artefact with its report, as a build does."""
    artefact.unlink()
    artefact.write_bytes(content)
    report = read_report(artefact)
    file = ArtefactFile(file=artefact.name, sha256=artefact_sha256(artefact))
    write_report(msgspec.structs.replace(report, artefact=file), artefact)
