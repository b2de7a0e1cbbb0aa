"""Files, size and digest of an artefact."""

import hashlib

import pytest
from jpeg_contract.artefacts import artefact_bytes, artefact_files, artefact_sha256, file_sha256, report_path


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 10_000  # more than is read at once
    (tmp_path / "model.onnx").write_bytes(data)
    assert artefact_sha256(tmp_path / "model.onnx") == hashlib.sha256(data).hexdigest()
    assert artefact_bytes(tmp_path / "model.onnx") == len(data)


def test_an_openvino_model_has_two_files(tmp_path):
    model, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    model.write_text("x")
    weights.write_text("bb")
    first = artefact_sha256(model)
    lines = f"{file_sha256(weights)}  model.bin\n{file_sha256(model)}  model.xml\n"
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    assert artefact_bytes(model) == 3
    for file in (model, weights):
        before = file.read_text()
        file.write_text("other")
        assert artefact_sha256(model) != first
        file.write_text(before)
    assert artefact_sha256(model) == first


def test_the_digest_of_a_folder_covers_names_and_contents(tmp_path):
    saved = tmp_path / "model.savedmodel"
    (saved / "variables").mkdir(parents=True)
    (saved / "saved_model.pb").write_text("p")
    first = artefact_sha256(saved)
    (saved / "variables" / "data").write_text("d")
    second = artefact_sha256(saved)
    assert artefact_bytes(saved) == 2
    assert [file.name for file in artefact_files(saved)] == ["saved_model.pb", "data"]
    (saved / "variables" / "data").rename(saved / "data")
    assert len({first, second, artefact_sha256(saved)}) == 3


@pytest.mark.parametrize("name", ["model.xml", "model.onnx"])
def test_a_missing_file_has_no_digest(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        artefact_sha256(tmp_path / name)
    assert artefact_bytes(tmp_path / name) == 0


@pytest.mark.parametrize(
    ("artefact", "report"),
    [
        ("model.onnx", "model.json"),
        ("model.xml", "model.json"),
        ("model.savedmodel", "model.json"),
        ("model_sm90.plan", "model_sm90.json"),
    ],
)
def test_a_report_is_named_after_its_artefact(tmp_path, artefact, report):
    assert report_path(tmp_path / artefact) == tmp_path / report
