"""Gates of an evaluation."""

import msgspec
import numpy as np
import pytest
from jpeg_build.errors import CallError
from jpeg_build.evaluate.answers import Answers
from jpeg_build.evaluate.candidates import Candidate
from jpeg_build.evaluate.gate import check_gate, count, describe, read_gate
from jpeg_build.evaluate.results import Outcome, RunResult, Speed, fp32_of, share
from jpeg_build.evaluate.runs import FRAMEWORK, Run
from jpeg_contract.forms import FORMS
from jpeg_contract.report import ArtefactFile, ParityResult, Report, Tolerance, WeightsSource

PHOTOS = 100

REPORT = Report(
    schema_version=2,
    recipe="any",
    recipe_sha256="",
    form="any",
    precision="fp32",
    classes=2,
    input=[32, 32, 3],
    artefact=ArtefactFile(file="", sha256=""),
    weights=WeightsSource(source=""),
    parity=ParityResult(
        photos=0,
        random_images=0,
        largest_logit=0,
        max_abs_difference=0,
        mean_abs_difference=0,
        relative_difference=0,
        mean_difference=0,
        top1_agreement=0,
        top5_overlap=0,
    ),
    tolerance=Tolerance(relative_difference=0, mean_difference=0, top1_agreement=0, top5_overlap=0, tie=0),
)


def outcome(form, right, *, precision="fp32", decoder="full", version=1, served=True, ece=0.02, first_wrong=True):
    """A run that has `right` of 100 photos right: the last ones, or the first ones."""
    flags = np.arange(PHOTOS) >= PHOTOS - right if first_wrong else np.arange(PHOTOS) < right
    name = FRAMEWORK if form == FRAMEWORK else f"{form}.{precision}/{decoder}"
    candidate = None
    if form != FRAMEWORK:
        candidate = Candidate(
            FORMS[form], version, served, msgspec.structs.replace(REPORT, precision=precision), {}, 1, "", name
        )
    result = RunResult(
        name=name,
        form=form,
        precision=precision,
        version=version,
        served=served,
        in_use=False,
        decoder=decoder,
        artefact_sha256=None,
        same_weights=True,
        accuracy=share(flags),
        top_k=share(np.ones(PHOTOS, bool)),
        k=5,
        no_answer=0,
        below_threshold=0,
        macro_f1=0.5,
        micro_f1=0.6,
        mean_average_precision=None,
        ece=ece,
        bins=[],
        classes=[],
        confusion=[],
        speed=Speed(decode=None, classify=None, images=0),
    )
    # One class, and an answer for each photo.
    ranked = np.where(flags, 0, 1)[:, None]
    answers = Answers(ranked=ranked, confidence=np.ones(PHOTOS), scores=None)
    return Outcome(Run(name, decoder, candidate), result, flags, np.ones(PHOTOS, bool), None, answers)


def runs(*outcomes):
    return {each.run.name: each for each in (outcome(FRAMEWORK, 90), *outcomes)}


def results(text, *outcomes, head="softmax"):
    return check_gate(read_gate(text, head), runs(*outcomes))


def refused(text, head="softmax", *outcomes):
    with pytest.raises(CallError) as caught:
        check_gate(read_gate(text, head), runs(*outcomes))
    assert caught.value.reason == "invalid_gate"
    assert text in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1 >= 0.9", ("", "top1", ">=", None, 0.9)),
        ("top1>=90%", ("", "top1", ">=", None, 0.9)),
        ("ECE <= 5 %", ("", "ece", "<=", None, 0.05)),
        ("top5 > .5", ("", "top5", ">", None, 0.5)),
        ("top1 >= fp32 - 0.5%", ("", "top1", ">=", "fp32", -0.005)),
        ("top1 >= framework", ("", "top1", ">=", "framework", 0.0)),
        ("macro-f1 < framework + 1%", ("", "macro_f1", "<", "framework", 0.01)),
        ("openvino.int8: top1 >= fp32-1%", ("openvino.int8", "top1", ">=", "fp32", -0.01)),
        ("onnx.fp32@2/scaled : agreement >= 99%", ("onnx.fp32@2/scaled", "agreement", ">=", None, 0.99)),
    ],
)
def test_a_gate_is_read(text, expected):
    gate = read_gate(text, "softmax")
    assert (gate.scope, gate.measure, gate.relation, gate.reference) == expected[:4]
    assert gate.number == pytest.approx(expected[4])
    assert gate.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "top1",
        "top1 = 0.9",
        "top1 >= ",
        "top1 >= int8 - 1%",
        "top1 >= fp32 * 2",
        "top1 >= -1",
        "top1 >= 95",
        "ece <= 5",
        "top1 >= fp32 - 2",
        "top1 >= 101%",
        "speed >= 3",
        "map >= 0.5",
        "exact_match >= 0.5",
        "agreement >= framework",
        "open vino: top1 >= 0.5",
        "a: b: top1 >= 0.5",
        "tensorrt: top1 >= 0.5",
        "onnx.int8: top1 >= 0.5",
        "onnx/gpu: top1 >= 0.5",
        "onnxx: top1 >= 0.5",
    ],
)
def test_what_is_no_gate_is_refused(text):
    refused(text, "softmax", outcome("onnx", 90))


def test_a_bound_that_every_value_meets_is_refused():
    assert "write 5%" in refused("ece <= 5", "softmax", outcome("onnx", 90))
    assert "at most 100%" in refused("top1 >= 101%", "softmax", outcome("onnx", 90))


def test_a_sigmoid_has_measures_of_its_own():
    assert read_gate("map >= 0.5", "sigmoid").measure == "map"
    assert "exact_match" in refused("top1 >= 0.5", "sigmoid")


def test_without_a_form_a_gate_has_nothing_to_check():
    refused("top1 >= 0.5")
    assert results("framework: top1 >= 0.5")[0].passed


@pytest.mark.parametrize(
    ("text", "right", "passed", "decided"),
    [
        ("top1 >= 0.5", 90, True, True),
        ("top1 >= 0.9", 90, True, False),
        ("top1 > 0.9", 90, False, False),
        ("top1 <= 0.5", 90, False, True),
        ("top1 < 0.95", 90, True, True),
        # 90 - 1 is not exact in floating point.
        ("top1 >= framework - 1%", 89, True, False),
        ("top1 >= framework - 0.5%", 89, False, False),
        ("top1 >= framework - 10%", 89, True, True),
        ("top1 >= framework - 5%", 60, False, True),
        ("top5 >= 0.9", 0, True, True),
        ("agreement >= 50%", 89, True, True),
        ("ece <= 5%", 89, True, None),
        ("ece <= 1%", 89, False, None),
        ("macro_f1 >= framework", 89, True, None),
    ],
)
def test_a_gate_holds_or_not_and_the_photos_decide_it_or_not(text, right, passed, decided):
    (found,) = results(text, outcome("onnx", right))
    assert (found.passed, found.decided) == (passed, decided)
    assert ("too few" in describe(found)) == (decided is False)
    assert ("FAILED" in describe(found)) != passed


def test_a_scope_chooses_runs():
    there = [
        outcome("onnx", 90),
        outcome("onnx", 90, decoder="scaled"),
        outcome("onnx", 80, precision="int8"),
        outcome("openvino", 80, precision="int8", version=2),
    ]

    def names(scope):
        return [each.run for each in results(f"{scope}: top1 >= 0.5", *there)]

    assert len(results("top1 >= 0.5", *there)) == 4
    assert names("onnx") == ["onnx.fp32/full", "onnx.fp32/scaled", "onnx.int8/full"]
    assert names("onnx.int8") == ["onnx.int8/full"]
    assert names("onnx/scaled") == ["onnx.fp32/scaled"]
    assert names("openvino@2") == ["openvino.int8/full"]


def test_fp32_is_that_of_the_same_form_and_decoder():
    there = runs(
        outcome("onnx", 85),
        outcome("onnx", 84, decoder="scaled"),
        outcome("onnx", 80, precision="int8", decoder="scaled"),
        outcome("openvino", 80, precision="int8"),
    )
    assert fp32_of(there["onnx.int8/scaled"], there).run.name == "onnx.fp32/scaled"
    # Without one, and for fp32 itself, it is the framework.
    assert fp32_of(there["openvino.int8/full"], there).run.name == FRAMEWORK
    assert fp32_of(there["onnx.fp32/full"], there).run.name == FRAMEWORK
    found = {each.run: each for each in check_gate(read_gate("top1 >= fp32 - 4.5%", "softmax"), there)}
    assert found["onnx.int8/scaled"].passed
    assert found["onnx.int8/scaled"].bound == pytest.approx(0.795)
    assert not found["openvino.int8/full"].passed
    assert not found["onnx.fp32/full"].passed


def test_photos_on_which_both_are_wrong_do_not_help_to_decide():
    # Equal accuracy, but on different photos.
    (same,) = results("top1 >= framework - 3%", outcome("onnx", 90))
    (other,) = results("top1 >= framework - 3%", outcome("onnx", 90, first_wrong=False))
    assert same.passed
    assert other.passed
    assert same.value == other.value
    assert (same.decided, other.decided) == (True, False)


def test_gates_are_counted():
    there = (outcome("onnx", 90), outcome("openvino", 60))
    assert count(results("ece <= 5%", *there)) == "2 passed, 0 failed"
    found = [*results("top1 >= 0.9", *there), *results("top1 >= 0.5", *there)]
    assert [each.passed for each in found] == [True, False, True, True]
    assert count(found).startswith("3 passed, 1 failed; ")
    assert " 1 of them" in count(found)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("top1 >= 0.5", None),
        ("framework: top1 >= 0.5", None),
        ("/full: top1 >= 0.5", "refused"),
        ("tensorrt.int8@2/gpu: top1 >= 0.5", "tensorrt"),
    ],
)
def test_a_gate_names_the_form_that_it_needs(text, form):
    if form == "refused":
        refused(text)
    else:
        assert read_gate(text, "softmax").form == form


def test_a_number_that_nothing_defines_fails():
    (found,) = results("ece <= 5%", outcome("onnx", 90, ece=float("nan")))
    assert not found.passed
