"""`python -m m3video`: the command line."""

import sys

from m3video.cli import main

sys.exit(main())
