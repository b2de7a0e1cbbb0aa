"""model.json: written, read again, and refused with a reason."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.artefacts import report_path
from jpeg_contract.report import (
    SCHEMA_VERSION,
    ArtefactFile,
    ConfigSettings,
    KnownClass,
    ParityResult,
    Report,
    ReportError,
    Requirements,
    Tolerance,
    WeightsSource,
    find_report,
    read_report,
    to_json,
    write_report,
)

TEXT = st.text(max_size=8)
NUMBER = st.floats(0, 1e6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)

REPORTS = st.builds(
    Report,
    schema_version=st.just(SCHEMA_VERSION),
    recipe=TEXT,
    recipe_sha256=TEXT,
    form=TEXT,
    precision=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
    classes=st.integers(1, 10**6),
    input=st.lists(st.integers(1, 999), min_size=3, max_size=3),
    artefact=st.builds(ArtefactFile, file=TEXT, sha256=TEXT, bytes=st.integers(0, 2**50)),
    requires=st.builds(Requirements, compute_capability=TEXT, version_compatible=st.booleans(), tensorrt=TEXT),
    details=st.dictionaries(TEXT, JSON, max_size=3),
    config=st.builds(
        ConfigSettings,
        on_gpu=st.booleans(),
        max_batch=st.none() | st.integers(1, 999),
        parameters=st.dictionaries(TEXT, TEXT, max_size=2),
        engines=st.dictionaries(TEXT, TEXT, max_size=2),
    ),
    weights=st.builds(WeightsSource, source=TEXT, sha256=st.none() | TEXT),
    parity=st.builds(
        ParityResult,
        photos=st.integers(0, 99),
        random_images=st.integers(0, 99),
        batches=st.lists(st.integers(1, 64), max_size=4),
        **dict.fromkeys(
            (
                "largest_logit",
                "max_abs_difference",
                "mean_abs_difference",
                "relative_difference",
                "mean_difference",
                "top1_agreement",
                "top5_overlap",
                "neighbour_difference",
            ),
            NUMBER,
        ),
    ),
    tolerance=st.builds(
        Tolerance,
        noise=st.booleans(),
        **dict.fromkeys(("relative_difference", "mean_difference", "top1_agreement", "top5_overlap", "tie"), NUMBER),
    ),
    probe=st.lists(st.builds(KnownClass, index=st.integers(0, 999), label=TEXT, score=st.floats(0, 1)), max_size=3),
    versions=st.dictionaries(TEXT, TEXT, max_size=2),
    requested=st.dictionaries(TEXT, JSON, max_size=3),
    images_per_second=st.none() | st.dictionaries(TEXT, st.none() | NUMBER, max_size=3),
)


@pytest.fixture
def artefact(tmp_path):
    return tmp_path / "model.onnx"


@pytest.fixture
def report(artefact):
    """A report, beside its artefact."""
    made = Report(
        schema_version=SCHEMA_VERSION,
        recipe="mine",
        recipe_sha256="abc",
        form="onnx",
        precision="fp32",
        classes=3,
        input=[32, 32, 3],
        artefact=ArtefactFile(file="model.onnx", sha256="def", bytes=9),
        weights=WeightsSource(source="random, seed 0"),
        parity=ParityResult(
            photos=1,
            random_images=1,
            largest_logit=1.0,
            max_abs_difference=0.0,
            mean_abs_difference=0.0,
            relative_difference=0.0,
            mean_difference=0.0,
            top1_agreement=1.0,
            top5_overlap=1.0,
        ),
        tolerance=Tolerance(
            relative_difference=0.1, mean_difference=0.1, top1_agreement=1.0, top5_overlap=1.0, tie=0.1
        ),
    )
    write_report(made, artefact)
    return made


def change(artefact, **fields):
    """Change fields of a written report; None removes one."""
    plain = json.loads(report_path(artefact).read_text())
    plain.update(fields)
    report_path(artefact).write_text(json.dumps({name: value for name, value in plain.items() if value is not None}))


@given(report=REPORTS)
def test_a_report_survives_as_json(tmp_path_factory, report):
    artefact = tmp_path_factory.getbasetemp() / "model.plan"
    write_report(report, artefact)
    assert read_report(artefact) == report
    assert find_report(artefact) == report
    assert msgspec.convert(to_json(report), Report) == report
    assert json.loads(report_path(artefact).read_text()) == to_json(report)


def test_a_report_lies_beside_its_artefact_and_ends_with_a_newline(report, artefact):
    assert report_path(artefact).name == "model.json"
    text = report_path(artefact).read_text()
    assert text.startswith('{\n  "schema_version": 2,\n')
    assert text.endswith("}\n")


def test_equal_builds_have_equal_reports(report, artefact):
    first = report_path(artefact).read_bytes()
    write_report(read_report(artefact), artefact)
    assert report_path(artefact).read_bytes() == first


def test_requirements_that_do_not_matter_are_left_out(report):
    assert to_json(report)["requires"] == {}
    engine = msgspec.structs.replace(report, requires=Requirements(tensorrt="10.3.0", compute_capability="9.0"))
    assert to_json(engine)["requires"] == {"compute_capability": "9.0", "tensorrt": "10.3.0"}


def test_fields_of_a_later_minor_version_are_left_alone(report, artefact):
    change(artefact, carbon={"grams": 3})
    assert read_report(artefact) == report


def refusal(artefact):
    assert find_report(artefact) is None
    with pytest.raises(ReportError) as caught:
        read_report(artefact)
    # A sentence without its subject, on one line.
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_missing_report_is_refused(artefact):
    assert refusal(artefact) == "report_missing"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "report_newer"),
        # Version 0.1 called its schema version `format`.
        ({"schema_version": None, "format": 1}, "report_outdated"),
        ({"schema_version": None}, "report_unreadable"),
        ({"schema_version": 0}, "report_unreadable"),
        ({"schema_version": "two"}, "report_unreadable"),
        ({"classes": None}, "report_unreadable"),
        ({"classes": "many"}, "report_unreadable"),
        ({"parity": {}}, "report_unreadable"),
    ],
)
def test_a_report_of_another_format_is_refused(report, artefact, fields, reason):
    change(artefact, **fields)
    assert refusal(artefact) == reason


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"recipe": "a"}'])
def test_other_content_is_unreadable(artefact, content):
    report_path(artefact).write_bytes(content)
    assert refusal(artefact) == "report_unreadable"


def test_a_report_that_cannot_be_opened_is_unreadable(artefact):
    report_path(artefact).mkdir()
    assert refusal(artefact) == "report_unreadable"


@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_random_content_is_never_a_report(tmp_path_factory, content):
    artefact = tmp_path_factory.getbasetemp() / "any.onnx"
    report_path(artefact).write_bytes(content)
    with pytest.raises(ReportError):
        read_report(artefact)
