"""`python -m jpeg_build` is `jpeg-build`."""

import sys

from jpeg_build.cli import main

sys.exit(main())
