"""The targets by their names."""

from __future__ import annotations

import importlib

from coverage_fuzz.check import Target

MODULES = {
    "decode": "coverage_fuzz.decoding",
    "formats": "coverage_fuzz.formats",
    "header": "coverage_fuzz.headers",
    "recipe": "coverage_fuzz.recipes",
    "config": "coverage_fuzz.configs",
    "report": "coverage_fuzz.reports",
}
NAMES = tuple(MODULES)
# With faults on purpose: whether the fuzzer sees them.
PLANTED = {"planted": "coverage_fuzz.planted"}


def load(name: str) -> Target:
    """Import a target; whoever instruments it must be the first to import it."""
    module = importlib.import_module({**MODULES, **PLANTED}[name])
    target = module.TARGET
    assert isinstance(target, Target)
    return target
