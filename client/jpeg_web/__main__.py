"""Run `jpeg-web` as `python -m jpeg_web`."""

import sys

from jpeg_web.cli import main

sys.exit(main())
