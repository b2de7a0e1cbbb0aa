"""`python -m coverage_fuzz`."""

import sys

from coverage_fuzz.cli import main

if __name__ == "__main__":
    sys.exit(main())
