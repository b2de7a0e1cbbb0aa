"""`python -m jpeg_bench` runs `jpeg-bench`."""

import sys

from jpeg_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
