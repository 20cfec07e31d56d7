"""`python -m agent`: the same as the command `headgate`."""

import sys

from agent.cli import main

sys.exit(main())
