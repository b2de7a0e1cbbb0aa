"""Run `jpeg-classify` as `python -m jpeg_client`."""

import sys

from jpeg_client.cli import main

sys.exit(main())
