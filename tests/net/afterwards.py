"""What must hold after a test on sockets, whatever it did: nothing of the agent is left, open or in memory."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

from agent.net.account import Account
from agent.net.connection import Connection
from agent.policy.admission import Ticket
from agent.wire.stream import Stream
from tests.sockets import eventually

# What comes and goes with requests and connections.
_PASSING = (Account, Connection, Stream)
# What is closed is let go by callbacks and tasks of the loop, a turn or two later.
_TURNS = 50


def _sockets() -> int:
    """How many are open. Loops have descriptors of other kinds, which they open when they first need them."""
    count = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - without a Path for each
        with suppress(OSError):  # the folder itself was one
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")  # noqa: PTH115
    return count


def _left() -> list[object]:
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, _PASSING)]
    return [each for each in left if not _is_remembered(each, left)]


def _is_remembered(each: object, left: list[object]) -> bool:
    """Whether only a ticket knows it, which a line forgets when it comes to it."""
    known = [by for by in gc.get_referrers(each) if not (by is left or isinstance(by, FrameType))]
    return bool(known) and all(isinstance(by, Ticket) for by in known)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Around all that a test starts and stops: no socket stays open, no exchange, connection or stream alive."""
    sockets = _sockets()
    gc.freeze()  # so that a collection looks at what is new, which takes a millisecond and not a hundred
    try:
        yield
        await eventually(lambda: _sockets() <= sockets, "sockets are left open")
        left = _left()
        for _ in range(_TURNS):
            if not left:
                break
            left.clear()  # or it would hold what it has found
            await asyncio.sleep(0)
            left = _left()
        assert not left, left
    finally:
        gc.unfreeze()
