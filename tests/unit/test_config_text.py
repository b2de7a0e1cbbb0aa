"""Changes in the text of a config.pbtxt: comments and everything else stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.config_text import Changes, change_text
from jpeg_contract.model_config import parse
from support import ROOT

# An ensemble has neither instances nor batches.
CONFIGS = sorted(
    path for path in (ROOT / "model_repository").glob("*/config.pbtxt") if path.parent.name != "jpeg_classifier"
)

USERS = """\
# Ours. count: 7 in a comment stays.
name: "preprocess"  # a name with { and "
max_batch_size: 64
instance_group [
  # the fast ones
  { count: 2, kind: KIND_CPU },  # two
  { count: 1 }
]
dynamic_batching { preferred_batch_size: [ 4, 8 ] }
parameters: { key: "threads" value: { string_value: '0' } }  # all
parameters < key: 'decoder' value < string_value: "scaled" > >
"""


def test_only_the_values_change():
    changes = Changes(count=5, delay_us=500, parameters={"threads": "3", "decoder": "gpu"}, kind="KIND_GPU")
    changed = change_text(USERS, changes)
    assert parse(changed) == changes.apply(parse(USERS))
    expected = USERS.replace("{ count: 2, kind: KIND_CPU }", "{ count: 5, kind: KIND_GPU }")
    expected = expected.replace("'0'", '"3"').replace('"scaled"', '"gpu"')
    expected = expected.replace(
        "{ preferred_batch_size: [ 4, 8 ] }", "{ max_queue_delay_microseconds: 500 preferred_batch_size: [ 4, 8 ] }"
    )
    assert changed == expected


def test_equal_values_change_nothing():
    assert change_text(USERS, Changes(count=2, parameters={"threads": "0"})) == USERS
    assert change_text(USERS, Changes()) == USERS


def test_missing_fields_are_added():
    text = '# mine\nname: "m"\ninstance_group {\n  kind: KIND_CPU  # kept\n}'
    changed = change_text(text, Changes(count=3, delay_us=100, parameters={"threads": "1"}))
    assert changed.startswith('# mine\nname: "m"\ninstance_group {\n  count: 3\n  kind: KIND_CPU  # kept\n}\ndynamic')
    assert parse(changed) == Changes(count=3, delay_us=100, parameters={"threads": "1"}).apply(parse(text))
    assert parse(change_text("", Changes(count=3))).instance_group[0].count == 3
    assert "count: 2" in change_text("instance_group {}", Changes(count=2))


def test_an_unusual_text_is_written_anew():
    # Adjacent texts are one text.
    text = '# mine\n\nname: "a" "b"  # lost\nparameters { key: "threads" value { string_value: "0" "1" } }\n'
    changed = change_text(text, Changes(parameters={"threads": "2"}))
    assert changed.startswith('# mine\n\nname: "ab"\n')
    assert parse(changed) == Changes(parameters={"threads": "2"}).apply(parse(text))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
@given(
    count=st.none() | st.integers(1, 64),
    kind=st.sampled_from([None, "KIND_CPU", "KIND_GPU"]),
    delay_us=st.none() | st.integers(0, 10_000),
    threads=st.none() | st.integers(0, 64),
)
def test_every_committed_config(path, count, kind, delay_us, threads):
    text = path.read_text()
    changes = Changes(count, kind, delay_us, {} if threads is None else {"threads": str(threads)})
    changed = change_text(text, changes)
    assert parse(changed) == changes.apply(parse(text))
    assert [line for line in changed.splitlines() if "#" in line] == [line for line in text.splitlines() if "#" in line]
    assert change_text(changed, changes) == changed


def test_lines_are_those_of_a_config():
    changes = Changes(2, "KIND_GPU", 500, {"threads": "0"})
    assert parse("\n".join(changes.lines())) == changes.apply(parse(""))
    assert Changes().lines() == []
