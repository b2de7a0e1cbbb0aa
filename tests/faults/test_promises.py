"""docs/reliability.md: each promise names tests that exist."""

import re

import pytest
from support import ROOT

PAGE = ROOT / "docs" / "reliability.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows():
    """The rows of the tables of promises, below their heads."""
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line == "| promise | how | test |":
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            yield line


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_promise_is_held_by_tests_that_exist(row):
    named = TEST.findall(row)
    assert named
    for file, name in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file}::{name}"


def test_the_page_has_all_tests_of_faults():
    """A test without a promise would be a promise that nobody reads."""
    page = PAGE.read_text(encoding="utf-8")
    for file in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        if file.name == "test_promises.py":
            continue
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"tests/faults/{file.name}::{name}`" in page, name
