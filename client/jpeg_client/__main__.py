"""`python -m jpeg_client` is `jpeg-classify`."""

import sys

from jpeg_client.cli import main

sys.exit(main())
