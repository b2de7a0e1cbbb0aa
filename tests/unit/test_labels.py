import pytest
from jpeg_preprocess import LabelFileError, read_labels


def test_line_i_names_class_i(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("cat\n dog \nübung\n", encoding="utf-8")
    assert read_labels(file, 3) == ["cat", "dog", "übung"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cat\n\ndog\n", ":2: the line is empty; line 2 must name class 1"),
        (b"cat\n", "has 1 labels, but there are 3 classes"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "has 0 labels"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, content, said):
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(LabelFileError, match=said):
        read_labels(file, 3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LabelFileError, match=r"gone\.txt: cannot be read"):
        read_labels(tmp_path / "gone.txt")
