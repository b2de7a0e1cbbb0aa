"""Labelled data in its layouts."""

import json
import sys
from types import ModuleType

import pytest
from jpeg_build.errors import BuildError
from jpeg_build.evaluate.dataset import read_dataset
from jpeg_build.evaluate.label_names import SYNSETS, split_labels

LABELS = ("red", "Green Sea", "blue")


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def classes(data, labels=LABELS, head="softmax"):
    return {photo.name: photo.classes for photo in read_dataset(data, labels, head).photos}


def refused(data, labels=LABELS, head="softmax"):
    with pytest.raises(BuildError) as caught:
        read_dataset(data, labels, head)
    return caught.value


def test_class_folders_are_named_by_labels(tmp_path):
    write(tmp_path, "red/b.jpg", "red/deep/a.JPEG", "green_sea/c.png", ".hidden/d.jpg", "blue/notes.txt", "blue/e.jpg")
    found = read_dataset(tmp_path, LABELS, "softmax")
    assert {photo.name: photo.classes for photo in found.photos} == {
        "blue/e.jpg": (2,),
        "green_sea/c.png": (1,),
        "red/b.jpg": (0,),
        "red/deep/a.JPEG": (0,),
    }
    assert [photo.name for photo in found.photos] == sorted(photo.name for photo in found.photos)
    assert any("blue/notes.txt" in note for note in found.notes)


def test_class_folders_are_named_by_indices(tmp_path):
    write(tmp_path, "0/a.jpg", "2/b.jpg")
    assert classes(tmp_path) == {"0/a.jpg": (0,), "2/b.jpg": (2,)}


def test_a_label_that_is_a_number_is_a_label(tmp_path):
    write(tmp_path, "90/a.jpg", "0/b.jpg")
    assert classes(tmp_path, ("90", "0", "180")) == {"0/b.jpg": (1,), "90/a.jpg": (0,)}


def test_one_reading_counts_for_all_names(tmp_path):
    write(tmp_path, "red/a.jpg", "2/b.jpg")
    error = refused(tmp_path)
    assert error.reason == "labels_unknown"
    assert "'2'" in str(error)


def test_unknown_labels_are_all_reported_with_the_nearest(tmp_path):
    write(tmp_path, "redd/a.jpg", "green sae/b.jpg", "blue/c.jpg")
    error = refused(tmp_path)
    assert error.reason == "labels_unknown"
    assert "'redd' (near: red)" in str(error)
    assert "'green sae' (near: Green Sea)" in str(error)
    assert "'blue'" not in str(error)


def test_of_equal_labels_none_is_meant(tmp_path):
    write(tmp_path, "crane/a.jpg")
    assert refused(tmp_path, ("crane", "crane", "blue")).reason == "labels_unknown"
    write(tmp_path / "by_index", "1/a.jpg")
    assert classes(tmp_path / "by_index", ("crane", "crane", "blue")) == {"1/a.jpg": (1,)}


def test_wordnet_ids_are_those_in_the_labels(tmp_path):
    write(tmp_path, "n02085620/a.jpg")
    assert classes(tmp_path, ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")) == {"n02085620/a.jpg": (0,)}


def test_wordnet_ids_are_those_of_the_file_beside_them(tmp_path):
    write(tmp_path / "val", "n00000002/a.jpg")
    (tmp_path / SYNSETS).write_text("n00000003 red\nn00000002 green\nn00000001 blue\n")
    assert classes(tmp_path / "val") == {"n00000002/a.jpg": (1,)}


def test_one_wordnet_id_for_each_label_is_in_their_order(tmp_path):
    write(tmp_path, "n00000002/a.jpg", "n00000001/a.jpg", "n00000003/a.jpg")
    assert classes(tmp_path) == {"n00000001/a.jpg": (0,), "n00000002/a.jpg": (1,), "n00000003/a.jpg": (2,)}
    write(tmp_path / "some", "n00000002/a.jpg")
    error = refused(tmp_path / "some")
    assert error.reason == "labels_unknown"
    assert SYNSETS in str(error)


class Imagenet:
    def label_names(self):
        return [f"n{index + 1000:08d}" for index in range(1000)]

    def label_descriptions(self):
        return [f"thing {index}, another name" for index in range(1000)]


@pytest.mark.parametrize(("shift", "known"), [(0, True), (1, False)])
def test_timms_wordnet_ids_count_where_the_labels_are_imagenets_in_its_order(tmp_path, monkeypatch, shift, known):
    timm = ModuleType("timm.data.imagenet_info")
    monkeypatch.setattr(timm, "ImageNetInfo", Imagenet, raising=False)
    monkeypatch.setitem(sys.modules, timm.__name__, timm)
    write(tmp_path, "n00001007/a.jpg")
    labels = [f"Thing_{(index + shift) % 1000}" for index in range(1000)]
    if known:
        assert classes(tmp_path, labels) == {"n00001007/a.jpg": (7,)}
    else:
        assert refused(tmp_path, labels).reason == "labels_unknown"


def test_a_table_names_files_and_labels(tmp_path):
    write(tmp_path, "some/a.jpg", "b.jpg")
    # Spreadsheets begin with a byte order mark, and some put semicolons between the columns.
    (tmp_path / "photos.csv").write_text("\ufeffFile,label,author\nsome/a.jpg,blue,x\nb.jpg,red,y\n")
    assert classes(tmp_path / "photos.csv") == {"some/a.jpg": (2,), "b.jpg": (0,)}
    (tmp_path / "other.csv").write_text("filename;label\nb.jpg;1\n")
    assert classes(tmp_path / "other.csv") == {"b.jpg": (1,)}


def test_a_table_has_several_labels_for_a_sigmoid(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "photos.csv").write_text('file,label\na.jpg,red;blue\nb.jpg,"[""Green Sea""]"\nc.jpg,\n')
    assert classes(tmp_path / "photos.csv", head="sigmoid") == {"a.jpg": (0, 2), "b.jpg": (1,), "c.jpg": ()}
    assert refused(tmp_path / "photos.csv").reason == "labels_unknown"


@pytest.mark.parametrize(
    ("value", "names"),
    [("a; b", ["a", "b"]), ('["a;b", "c"]', ["a;b", "c"]), (["x"], ["x"]), ("", []), ("[odd", ["[odd"]), (3, ["3"])],
)
def test_labels_of_a_photo_are_split(value, names):
    assert split_labels(value) == names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\nmissing.jpg,red\n", "photos_missing"),
        ("file,label\n../a.jpg,red\n", "path_outside"),
        ("file,label\n/etc/passwd,red\n", "path_outside"),
        ("photo,label\na.jpg,red\n", "invalid_table"),
        ("file,label\na.jpg,red\na.jpg,blue\n", "invalid_table"),
        ("file,label\na.jpg\n", "invalid_table"),
        ("file,label\n", "no_photos"),
        ("", "no_photos"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, reason):
    write(tmp_path, "a.jpg")
    (tmp_path / "photos.csv").write_text(text)
    assert refused(tmp_path / "photos.csv").reason == reason


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "photos.csv").write_bytes(b"\xff\xfe\x00")
    assert refused(tmp_path / "photos.csv").reason == "invalid_table"


def test_imagefolder_prefers_the_photos_that_were_not_trained_on(tmp_path):
    write(tmp_path, "train/red/a.jpg", "validation/red/b.jpg", "test/loose.jpg")
    found = read_dataset(tmp_path, LABELS, "softmax")
    # The folder test has no labels.
    assert [photo.name for photo in found.photos] == ["red/b.jpg"]
    write(tmp_path, "test/blue/c.jpg")
    assert classes(tmp_path) == {"blue/c.jpg": (2,)}


def test_imagefolder_warns_of_photos_of_training(tmp_path):
    write(tmp_path, "train/red/a.jpg")
    assert any("TRAINING" in note for note in read_dataset(tmp_path, LABELS, "softmax").notes)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    write(tmp_path, "test/a.jpg", "other/b.jpg")
    assert classes(tmp_path, ("other", "test")) == {"test/a.jpg": (1,), "other/b.jpg": (0,)}


def test_imagefolder_with_metadata(tmp_path):
    write(tmp_path, "train/a.jpg", "test/images/b.jpg", "test/c.jpg")
    rows = [{"file_name": "images/b.jpg", "label": 2}, {"file_name": "c.jpg", "label": "2"}]
    (tmp_path / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert classes(tmp_path) == {"images/b.jpg": (2,), "c.jpg": (2,)}
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\nc.jpg,blue\n")
    assert classes(tmp_path / "test") == {"c.jpg": (2,)}


@pytest.mark.parametrize("line", ["{", "[1]", "3"])
def test_metadata_that_is_no_json_is_refused(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text(line)
    assert refused(tmp_path).reason == "invalid_table"


def test_a_folder_without_labels_is_refused(tmp_path):
    assert refused(tmp_path / "missing").reason == "no_photos"
    write(tmp_path, "a.jpg")
    assert refused(tmp_path).reason == "no_photos"


def test_a_sample_is_always_the_same_and_stays_in_order(tmp_path):
    write(tmp_path, *(f"red/{index}.jpg" for index in range(50)))
    whole = read_dataset(tmp_path, LABELS, "softmax")
    names = [photo.name for photo in whole.limited(10).photos]
    assert names == [photo.name for photo in whole.limited(10).photos] == sorted(names)
    assert set(names) < {photo.name for photo in whole.limited(11).photos}
    assert whole.limited(50) is whole.limited(None) is whole
