"""The kept corpus through each target, without the engine."""

from __future__ import annotations

import random

import pytest
from corpus.generated import baseline, progressive
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Limits
from jpeg_preprocess.decode import open_jpeg

from coverage_fuzz import jpeg_mutator, kept, targets, text_mutator
from coverage_fuzz.decoding import GEOMETRY

pytestmark = [
    # Pillow's own, about EXIF data for example.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
MOST_KEPT_BYTES = 500_000


@pytest.mark.parametrize("name", targets.NAMES)
def test_the_kept_corpus_breaks_no_rule(name, tmp_path):
    check = targets.load(name).make_check(tmp_path)
    inputs = kept.inputs(name)
    assert inputs
    for each in inputs:
        check(each)


@pytest.mark.parametrize(
    ("name", "regression"),
    [pytest.param(name, each, id=f"{name}-{each}") for name in targets.NAMES for each in kept.regressions(name)],
)
def test_what_once_broke_a_rule_does_not(name, regression, tmp_path):
    targets.load(name).make_check(tmp_path)(kept.regressions(name)[regression])


@pytest.mark.parametrize("name", targets.NAMES)
def test_the_seeds_break_no_rule_and_are_the_same_each_time(name, tmp_path):
    target = targets.load(name)
    check = target.make_check(tmp_path)
    seeds = list(target.seeds())
    assert seeds == list(target.seeds())
    for each in seeds:
        check(each)


def test_the_kept_corpus_is_small_and_written_the_same_each_time(tmp_path, monkeypatch):
    sizes = {name: kept.archive(name).stat().st_size for name in targets.NAMES}
    assert sum(sizes.values()) < MOST_KEPT_BYTES
    before = {name: kept.archive(name).read_bytes() for name in targets.NAMES}
    inputs = {name: kept.inputs(name) for name in targets.NAMES}
    monkeypatch.setattr(kept, "_FOLDER", tmp_path)
    for name in targets.NAMES:
        kept.write(name, reversed(inputs[name]))
        assert kept.inputs(name) == inputs[name]
        # The compressed bytes depend on the zlib of this Python.
        assert abs(kept.archive(name).stat().st_size - len(before[name])) < 0.1 * len(before[name])


def plain_mutation(data: bytes, most: int) -> bytes:
    """Stand in for libFuzzer's mutations."""
    return data[: most - 1] + b"\0"


@pytest.mark.parametrize("data", [baseline(), progressive(), b"", b"\xff", b"\xff\xd8\xff", bytes(40)])
def test_a_jpeg_mutator_takes_any_bytes_and_depends_on_its_seed_only(data):
    assert b"".join(jpeg_mutator.pieces(data)) == data
    for seed in range(300):
        first, again = (jpeg_mutator.mutate(data, random.Random(seed), plain_mutation) for _ in range(2))
        assert first == again
        jpeg_mutator.cross(data, first, random.Random(seed))


def test_mutated_jpegs_reach_the_decoder_and_each_kind_of_refusal():
    found: dict[str, int] = {}
    for seed in range(600):
        data = jpeg_mutator.mutate((baseline(), progressive())[seed % 2], random.Random(seed), plain_mutation)
        try:
            open_jpeg(data, geometry=GEOMETRY, decoder="full", limits=Limits(), exif_orientation=True).decode()
            kind = "decoded"
        except ImageError as error:
            kind = error.reason
        found[kind] = found.get(kind, 0) + 1
    assert found["decoded"] > 100
    assert {"truncated", "corrupt", "unsupported", "not_jpeg"} <= found.keys()


def test_a_text_mutator_takes_any_bytes_and_depends_on_its_seed_only():
    mutate = text_mutator.mutator((b"word",))
    for data in (b"", b"\xff\n\n", b'a = "b"\n[c]\nd = 1\n'):
        for seed in range(300):
            first, again = (mutate(data, random.Random(seed), plain_mutation) for _ in range(2))
            assert first == again
