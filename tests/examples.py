"""How many examples a test draws. `HEADGATE_EXAMPLES` is how many times as many, and other ones on every run."""

import os

FACTOR = int(os.environ.get("HEADGATE_EXAMPLES", "1"))


def examples(count: int) -> int:
    """For Hypothesis's `max_examples`."""
    return count * FACTOR
