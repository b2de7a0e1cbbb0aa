"""`python -m jpeg_serve` is `jpeg-serve`."""

import sys

from jpeg_serve.cli import main

sys.exit(main())
