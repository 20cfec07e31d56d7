"""What an input may cost: 50 ms of CPU and a megabyte for each 64 KiB that have begun, and a few times its own size."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time

CPU_S = 0.050
MEMORY = 1 << 20
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
    def bounded(self, size: int, *, memory: int = MEMORY) -> Iterator[None]:
        """Measures the code under test alone, while it reads `size` bytes. Raises ExcessError.

        Memory is measured while tracemalloc traces, and includes what is left behind.
        """
        steps = 1 + size // _STEP
        tracing = tracemalloc.is_tracing()
        if tracing:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
        start = thread_time()
        yield
        spent = (thread_time() - start) / self.slowdown
        if tracing:
            held = tracemalloc.get_traced_memory()[1] - before
            self.held = max(self.held, held)
            if held > steps * memory + 4 * size:
                raise ExcessError(f"{held} bytes of memory for {size} bytes")
            return  # allocations cost several times as much while they are traced
        self.spent = max(self.spent, spent)
        if spent > steps * CPU_S:
            raise ExcessError(f"{spent * 1000:.0f} ms for {size} bytes")


allowance = Allowance()
bounded = allowance.bounded
