"""`python -m loadgen`: the same as the `headgate-load` command."""

import sys

from loadgen.cli import main

sys.exit(main())
