"""What an input may cost: 50 ms of CPU and four megabytes for each 64 KiB that have begun."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time

CPU_S = 0.050
MEMORY = 4 << 20
# Other readers are far slower: they read inputs of this size, and so many of the messages in one.
SMALL = 8 * 1024
COMPARED = 20
_STEP = 64 * 1024


class ExcessError(AssertionError):
    """The input cost more than it may."""


class Allowance:
    """`slowdown` is how many times slower instrumented code may be; `spent` and `held` are the highest seen so far."""

    def __init__(self) -> None:
        self.slowdown = 1.0
        self.spent = 0.0
        self.held = 0

    @contextmanager
    def bounded(self, size: int) -> Iterator[None]:
        """Measures the code under test alone, while it reads `size` bytes. Raises ExcessError.

        Memory is measured while tracemalloc traces, and includes what is left behind. No garbage is collected
        meanwhile: that costs what the whole process has in memory.
        """
        steps = 1 + size // _STEP
        tracing = tracemalloc.is_tracing()
        if tracing:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
        gc.disable()
        start = thread_time()
        try:
            yield
        finally:
            spent = (thread_time() - start) / self.slowdown
            gc.enable()
        if tracing:
            held = tracemalloc.get_traced_memory()[1] - before
            self.held = max(self.held, held)
            if held > steps * MEMORY:
                raise ExcessError(f"{held} bytes of memory for {size} bytes")
            return  # allocations cost several times as much while they are traced
        self.spent = max(self.spent, spent)
        if spent > steps * CPU_S:
            raise ExcessError(f"{spent * 1000:.0f} ms for {size} bytes")


def reads(data: bytes) -> int:
    """How many other ways to cut an input are tried."""
    return 3 if len(data) <= SMALL else 1


def large(start: bytes, *units: bytes, size: int = _STEP // 2) -> Iterator[bytes]:
    """Inputs of this size that say the same thing over and over, as work that grows with its square needs them."""
    for unit in units:
        yield start + unit * ((size - len(start)) // len(unit))


allowance = Allowance()
bounded = allowance.bounded
