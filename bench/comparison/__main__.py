"""`python -m comparison`."""

import sys

from comparison.cli import main

if __name__ == "__main__":
    sys.exit(main())
