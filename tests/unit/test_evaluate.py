"""`jpeg-build evaluate` from photos to the report, with networks that tell colours apart."""

import base64
import io
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from colours import RGB, colour_recipe
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.cli import main
from jpeg_build.errors import BuildError
from jpeg_build.evaluate import runs
from jpeg_build.evaluate.answers import AnswerFile
from jpeg_build.evaluate.document import summary_lines
from jpeg_build.evaluate.evaluation import PREDICTIONS, EvaluationRequest, evaluate, to_json
from jpeg_build.evaluate.runs import BATCH, FRAMEWORK
from jpeg_build.recipe.recipe import load_recipe
from jpeg_build.repository.use import Trial, try_beside, use
from jpeg_contract.forms import ONNX, OPENVINO
from PIL import Image
from support import edit, encode

LABELS = {name: RGB[name] for name in ("red", "green", "blue", "white")}
SWAPPED = {**LABELS, "red": RGB["green"], "green": RGB["red"]}
EACH = 10
NAMES = ("framework", "onnx.fp32@1/full", "onnx.fp32@1/scaled", "onnx.fp32@2/full", "onnx.fp32@2/scaled")
ODD = '"><script>alert(1)<!script>.jpg'


def silent(message):
    pass


def noted(messages):
    return messages.append


def photos(folder, labels=LABELS, each=EACH):
    """Write photos of each colour, a little different each, of which the network knows the colour."""
    random = np.random.default_rng(3)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(each):
            colour = np.clip(np.array(RGB[label]) + random.integers(-15, 16, 3), 0, 255)
            image = Image.new("RGB", (90 + number, 60), tuple(int(value) for value in colour))
            (folder / label / f"{number}.jpg").write_bytes(encode(image))
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(colour_recipe(tmp_path_factory.mktemp("recipe"), "colours", LABELS))


@pytest.fixture(scope="module")
def built(tmp_path_factory, recipe):
    """A repository with the network, and a second version of it that takes red for green."""
    repository = tmp_path_factory.mktemp("built") / "model_repository"
    swapped = load_recipe(colour_recipe(tmp_path_factory.mktemp("swapped"), "colours", SWAPPED))
    build(Request(recipe, repository, version=1), silent)
    build(Request(swapped, repository, version=2), silent)
    use(repository, ONNX, "2")
    build(Request(recipe, repository, backend="openvino"), silent)
    return repository


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data"))


@pytest.fixture
def request_of(recipe, built, data, tmp_path):
    def made(**changes):
        values = {"recipe": recipe, "data": data, "repository": built, "results": tmp_path / "results", **changes}
        return EvaluationRequest(**values)

    return made


@pytest.fixture(scope="module")
def whole(recipe, built, data, tmp_path_factory):
    """An evaluation of everything, with a broken photo and one of an odd name, and its folder."""
    copy, results = tmp_path_factory.mktemp("copy") / "data", tmp_path_factory.mktemp("whole")
    shutil.copytree(data, copy)
    (copy / "red" / "broken.jpg").write_bytes((data / "red" / "0.jpg").read_bytes()[:300])
    (copy / "red" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (copy / "green" / ODD).write_bytes(encode(Image.new("RGB", (50, 50), (31, 199, 44))))
    return evaluate(EvaluationRequest(recipe, copy, built, results), silent).evaluation, results


def by_name(evaluation):
    return {run.name: run for run in evaluation.runs}


def answer_rows(results, run="onnx.fp32@1.full"):
    (path,) = (results / PREDICTIONS).glob(f"{run}-*.jsonl")
    return [row for line in path.read_text().splitlines() if (row := json.loads(line))["row"] == "answer"]


def test_every_form_version_and_decoder_is_measured(whole):
    runs = by_name(whole[0])
    assert set(runs) == {*NAMES, "openvino.fp32/full", "openvino.fp32/scaled"}
    count = len(LABELS) * EACH + 1
    for name, run in runs.items():
        assert run.accuracy.of == count
        right = count if "@2" not in name else count - 2 * EACH - 1
        assert run.accuracy.photos == right
        assert run.top_k.photos == count
        assert run.k == len(LABELS)
        assert run.accuracy.low < run.accuracy.value <= run.accuracy.high
        assert run.speed.images == count
        assert run.speed.classify > 0
        assert run.speed.decode > 0
        assert run.same_weights == ("@2" not in name)
        assert sum(each.answers for each in run.bins) == count
    assert [name for name, run in runs.items() if run.served] == [
        name for name in runs if name.startswith("onnx.fp32@2") or name.startswith("openvino")
    ]


def test_the_wrong_version_is_found_out(whole):
    evaluation, _ = whole
    wrong = by_name(evaluation)["onnx.fp32@2/full"]
    assert sorted(wrong.confusion) == [(0, 1, EACH), (1, 0, EACH + 1), (2, 2, EACH), (3, 3, EACH)]
    red = wrong.classes[0]
    assert (red.label, red.photos, red.recall, red.f1) == ("red", EACH, 0, 0)
    pairs = {(each.first, each.second): each for each in evaluation.comparisons}
    found = pairs["onnx.fp32@2/full", FRAMEWORK]
    assert (found.only_first, found.only_second) == (0, 2 * EACH + 1)
    assert found.p == 2 / 2**21
    assert found.high < 0
    assert pairs["onnx.fp32@2/full", "onnx.fp32@1/full"].p == found.p
    equal = pairs["openvino.fp32/scaled", "openvino.fp32/full"]
    assert (equal.only_first, equal.only_second, equal.p, equal.agreement.value) == (0, 0, 1, 1)
    assert evaluation.disagreeing == 2 * EACH + 1
    one = evaluation.disagreements[0]
    assert one.truth in (["red"], ["green"])
    right, wrong_group = sorted(one.answers, key=lambda group: not group.right)
    assert right.labels == one.truth
    assert wrong_group.runs == ["onnx.fp32@2/full", "onnx.fp32@2/scaled"]


def test_photos_that_the_server_refuses_are_listed_and_left_out(whole):
    found = {each.photo: each.reason for each in whole[0].unreadable}
    assert found == {"red/broken.jpg": "truncated", "red/picture.png": "not_jpeg"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a page has."""

    VOID = ("meta", "img")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_its_pictures_and_runs_nothing(whole):
    evaluation, results = whole
    text = (results / "evaluation.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert "script" not in page.tags
    assert f"green/{ODD}" in page.text
    assert "http:" not in text
    assert "https:" not in text
    assert len(page.images) == len(evaluation.disagreements)
    for image in page.images:
        assert image["alt"]
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (32, 32)


def test_the_report_is_also_markdown_and_json(whole):
    evaluation, results = whole
    text = (results / "evaluation.md").read_text()
    assert "<script" not in text.replace("\\<", "")
    assert all(run.name in text for run in evaluation.runs)
    found = json.loads((results / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert found["schema_version"] == 1
    assert [run["name"] for run in found["runs"]] == [run.name for run in evaluation.runs]
    assert set(found["machine"]) == {"cpu", "cores", "gpus"}


def test_an_interrupted_evaluation_goes_on_where_it_stopped(request_of, tmp_path):
    def interrupted(message):
        messages.append(message)
        if "openvino" in message:
            raise KeyboardInterrupt

    messages = []
    wanted = request_of(backends=["onnx", "openvino"], decoders=["full"])
    with pytest.raises(KeyboardInterrupt):
        evaluate(wanted, interrupted)
    assert len(answer_rows(wanted.results)) == BATCH
    assert not (wanted.results / "evaluation.json").exists()
    # As a killed process leaves it.
    (path,) = (wanted.results / PREDICTIONS).glob("onnx.fp32@1.full-*.jsonl")
    path.write_bytes(path.read_bytes()[:-300])
    first = evaluate(wanted, silent).evaluation
    assert len(answer_rows(wanted.results)) == first.photos == len(LABELS) * EACH
    again: list[str] = []
    second = evaluate(wanted, noted(again)).evaluation
    assert not any("opening" in message for message in again)
    assert to_json(second) == to_json(first)


def test_a_changed_photo_is_answered_again_and_nothing_else(request_of, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    wanted = request_of(data=copy, backends=["onnx"], decoders=["full"])
    evaluate(wanted, silent)
    (copy / "red" / "0.jpg").write_bytes(encode(Image.new("RGB", (80, 80), RGB["blue"])))
    found = evaluate(wanted, silent).evaluation
    assert len(answer_rows(wanted.results)) == len(LABELS) * EACH + 1
    assert by_name(found)["onnx.fp32@1/full"].confusion[0] == (0, 0, EACH - 1)
    evaluate(replace(wanted, fresh=True), silent)
    assert len(answer_rows(wanted.results)) == len(LABELS) * EACH


def test_a_changed_artefact_is_run_again(request_of, built, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(built, repository)
    wanted = request_of(repository=repository, backends=["onnx"], decoders=["full"], limit=4)
    evaluate(wanted, silent)
    shutil.copy(repository / "classifier_onnx" / "2" / "model.onnx", repository / "classifier_onnx" / "1")
    messages: list[str] = []
    evaluate(wanted, noted(messages))
    assert [each for each in messages if "opening" in each] == ["opening onnx.fp32@1"]


def test_without_a_build_the_network_itself_is_measured(request_of, tmp_path):
    found = evaluate(request_of(repository=tmp_path / "none", limit=7), silent).evaluation
    assert [run.name for run in found.runs] == [FRAMEWORK]
    assert found.photos == 7
    assert any("sample" in note for note in found.notes)


def test_a_form_that_is_named_must_be_there(request_of):
    with pytest.raises(BuildError) as caught:
        evaluate(request_of(backends=["tensorrt"]), silent)
    assert caught.value.reason == "not_built"


def test_what_does_not_run_here_is_left_out_unless_it_is_named(request_of, built, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(built, repository)
    artefact = repository / "classifier_openvino" / "1" / "model.xml"
    artefact.write_text("no network")
    found = evaluate(request_of(repository=repository, limit=4), silent).evaluation
    assert set(by_name(found)) == set(NAMES)
    assert any(note.startswith("openvino.fp32/full") for note in found.notes)
    with pytest.raises(BuildError):
        evaluate(request_of(repository=repository, limit=4, backends=["openvino"]), silent)


def test_opening_a_form_is_no_part_of_its_speed(monkeypatch, tmp_path):
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    steps: list[str] = []

    def opened():
        steps.append("open")
        return lambda pixels: np.full((len(pixels), 2), pixels.max(), np.float32)

    run = runs.Run("onnx.fp32/full", "full")
    runner = runs._Runner(run, AnswerFile(tmp_path / "answers.jsonl"), opened)
    first, second = (runner(np.full((3, 4, 4, 3), value, np.uint8)) for value in (1, 2))
    assert (first[0].max(), second[0].max()) == (1, 2)
    assert (first[1], second[1], steps) == (2.0, 3.0, ["open"])


def test_photos_of_none_of_the_formats_are_an_error(request_of, tmp_path):
    (tmp_path / "odd" / "red").mkdir(parents=True)
    (tmp_path / "odd" / "red" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(BuildError) as caught:
        evaluate(request_of(data=tmp_path / "odd"), silent)
    assert caught.value.reason == "no_photos"


def test_labels_of_a_sigmoid_are_decided_each_by_itself(tmp_path):
    made = colour_recipe(
        tmp_path / "recipe", "several", {"red": RGB["red"], "blue": RGB["blue"]}, more='output = "sigmoid"\n'
    )
    recipe = load_recipe(made)
    build(Request(recipe, tmp_path / "repository"), silent)
    folder = tmp_path / "data"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        (folder / f"{name}.jpg").write_bytes(encode(Image.new("RGB", (64, 64), RGB[colour])))
    (folder / "photos.csv").write_text('file,label\na.jpg,red\nb.jpg,"[""blue""]"\nc.jpg,red;blue\n')
    request = EvaluationRequest(recipe, folder / "photos.csv", tmp_path / "repository", tmp_path / "results")
    found = evaluate(replace(request, gates=["map >= 0.1", "exact_match >= 1%"]), silent).evaluation
    run = by_name(found)["onnx.fp32/full"]
    assert run.top_k is None
    assert 0 < run.mean_average_precision <= 1
    assert run.classes[0].average_precision == pytest.approx(1)
    assert sum(each.answers for each in run.bins) == 3 * 2
    assert run.accuracy.of == 3
    assert found.gates[0].passed
    assert (tmp_path / "results" / "evaluation.html").exists()


def command(recipe, built, data, results, *options):
    paths = ["--data", str(data), "--model-repository", str(built), "--results", str(results)]
    return main(["evaluate", str(recipe.path), *paths, "--backend", "onnx", "--decoder", "scaled", *options])


def test_the_command_fails_with_a_gate_and_names_every_one(recipe, built, data, tmp_path, capsys):
    gates = ["--gate", "onnx@1: top1 >= framework - 1%", "--gate", "top1 >= 0.9"]
    assert command(recipe, built, data, tmp_path / "results", *gates) == 1
    printed = capsys.readouterr()
    assert "[gate_failed]" in printed.err
    assert "onnx.fp32@2/scaled: top1 >= 0.9" in printed.err
    assert "onnx.fp32@1/scaled" not in printed.err
    assert "gates: 2 passed, 1 failed" in printed.out
    assert "onnx.fp32@2/scaled: 'top1 >= 0.9' FAILED" in printed.out
    assert "onnx.fp32@1/scaled: 'onnx@1: top1 >= framework - 1%' passed" in printed.out
    assert command(recipe, built, data, tmp_path / "results", *gates[:2]) == 0
    assert "gates: 1 passed, 0 failed" in capsys.readouterr().out
    assert command(recipe, built, data, tmp_path / "results", *gates[:2], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [gate["passed"] for gate in found["gates"]] == [True]
    assert command(recipe, built, data, tmp_path / "results", "--gate", "speed > 3") == 2
    assert "[invalid_gate]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("backends", "gate", "reason"),
    [
        ((), "tensorrt: top1 >= 0.5", "not_built"),
        (("onnx",), "openvino: top1 >= 0.5", "invalid_gate"),
        ((), "openvino.int8: top1 >= 0.5", "invalid_gate"),
    ],
)
def test_a_gate_for_what_is_not_there_is_refused_before_anything_runs(request_of, backends, gate, reason):
    messages: list[str] = []
    wanted = request_of(backends=backends, gates=[gate])
    with pytest.raises(BuildError, match=gate.replace(".", r"\.")) as caught:
        evaluate(wanted, noted(messages))
    assert caught.value.reason == reason
    assert not any("running" in message for message in messages)


def test_a_form_with_a_gate_must_run_here(request_of, built, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(built, repository)
    (repository / "classifier_openvino" / "1" / "model.xml").write_text("no network")
    with pytest.raises(BuildError, match=r"^openvino\.fp32"):
        evaluate(request_of(repository=repository, limit=4, gates=["openvino: top1 >= 0.5"]), silent)


def test_what_answers_the_requests_is_marked(request_of, built, tmp_path):
    def in_use():
        found = evaluate(request_of(repository=repository, limit=4), silent).evaluation
        assert sum("in use" in line for line in summary_lines(found)) == sum(run.in_use for run in found.runs)
        return [run.name for run in found.runs if run.in_use]

    repository = tmp_path / "repository"
    shutil.copytree(built, repository)
    assert in_use() == ["onnx.fp32@2/scaled"]
    try_beside(repository, OPENVINO, None, Trial("shadow", 10))
    assert in_use() == ["onnx.fp32@2/scaled"]
    try_beside(repository, OPENVINO, None, Trial("split", 10))
    assert in_use() == ["onnx.fp32@2/scaled", "openvino.fp32/scaled"]
    use(repository, ONNX, "1")
    edit(repository / "preprocess" / "config.pbtxt", 'string_value: "scaled"', 'string_value: "full"')
    assert in_use() == ["onnx.fp32@1/full"]


def test_the_command_refuses_labels_that_the_recipe_does_not_have(recipe, built, tmp_path, capsys):
    photos(tmp_path / "data", ["red"], each=1)
    (tmp_path / "data" / "red").rename(tmp_path / "data" / "rad")
    assert command(recipe, built, tmp_path / "data", tmp_path / "results") == 1
    printed = capsys.readouterr().err
    assert "[labels_unknown]" in printed
    assert "near: red" in printed


def test_two_evaluations_do_not_share_a_folder(request_of, tmp_path):
    wanted = request_of(backends=["onnx"], decoders=["full"], limit=4)

    def second(message):
        if message.startswith("opening"):
            with pytest.raises(BuildError) as caught:
                evaluate(wanted, silent)
            assert caught.value.reason == "results_busy"
            seen.append(message)

    seen: list[str] = []
    evaluate(wanted, second)
    assert seen
