"""Runs one input of a target: `python -m coverage_fuzz.replaying TARGET FILE`; needs no atheris."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from coverage_fuzz import targets
from coverage_fuzz.findings import reason_of, traceback_of


def main(target: str, file: str) -> int:
    """Print what is wrong to stdout, with the traceback on stderr, and return 1; or return 0."""
    warnings.simplefilter("error")
    check_module = targets.load(target)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    data = Path(file).read_bytes()
    with tempfile.TemporaryDirectory(prefix="coverage-fuzz-") as folder:
        try:
            check_module.make_check(Path(folder))(data)
        except Exception as error:
            print(traceback_of(error), file=sys.stderr)
            print(reason_of(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
