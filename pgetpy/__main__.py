"""`python -m pgetpy` is the command line."""

import sys

from pgetpy.cli import main

sys.exit(main())
