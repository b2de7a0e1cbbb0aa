"""docs/threat-model.md: each promise names tests that exist, and the first safe release is that of the code."""

import re

import pytest
from jpeg_serve.exposure import SAFE_VERSION
from support import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
PROMISES = PAGE.partition("## Promises")[2].partition("##")[0]
ROWS = [line for line in PROMISES.splitlines() if line.startswith("|")][2:]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_promise_is_held_by_tests_that_exist(row):
    named = TEST.findall(row)
    assert named
    for file, name in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file}::{name}"


def test_the_release_that_may_be_open_has_no_known_fault():
    releases = re.findall(r"^\| (\d\d)\.(\d\d) \|", PAGE, re.MULTILINE)
    assert len(releases) > 10
    year, month = max((int(year), int(month)) for year, month in releases)
    # A release each month; 25.08 is 2.60.
    assert (2, 60 + (year - 25) * 12 + month - 8) == SAFE_VERSION
