import pytest
from jpeg_contract.labels import LabelFileError, read_labels


def test_line_i_names_class_i(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("cat\n dog \nübung\n", encoding="utf-8")
    assert read_labels(file, 3) == ["cat", "dog", "übung"]
    assert read_labels(file) == ["cat", "dog", "übung"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_not_part_of_the_first_label(tmp_path, end):
    file = tmp_path / "labels.txt"
    file.write_bytes(b"\xef\xbb\xbf" + f"cat{end}dog{end}".encode())
    assert read_labels(file, 2) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\n\ndog\n", r":2: .*empty; line 2 must name class 1"),
        (b"cat\n", "has 1 labels, but there are 3 classes"),
        (b"\xff\xfe", r"not UTF-8 text \(byte 0\)"),
        (b"", "has 0 labels"),
        (b"\xef\xbb\xbf", "has 0 labels"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, content, expected):
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(LabelFileError, match=expected) as caught:
        read_labels(file, 3)
    assert caught.value.reason == "invalid_labels"


def test_an_empty_file_is_refused_for_any_number_of_classes(tmp_path):
    (tmp_path / "labels.txt").touch()
    with pytest.raises(LabelFileError, match="has no labels"):
        read_labels(tmp_path / "labels.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LabelFileError, match=r"gone\.txt: cannot be read"):
        read_labels(tmp_path / "gone.txt")
