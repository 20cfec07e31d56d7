"""One target under atheris, in a process of its own: instrumentation and libFuzzer's exit are for nobody else.

Called by `tests.fuzz.runner` as `python -m tests.fuzz.child TARGET FLAGS...`; the flags are libFuzzer's.
"""

import sys
import tracemalloc

import atheris

# What reads bytes; the rest would only take longer to start.
_READERS = [
    "agent.wire",
    "agent.policy",
    "agent.admin.foreign",
    "agent.scale.page",
    "agent.settings",
    "agent.values",
    "hpack",
]
# Memory is measured for one input in so many: tracing costs several times the time.
_TRACED = 97
# Instrumented code is up to so many times slower; the runner tries what is too slow again without it.
_SLOWDOWN = 8.0


def main() -> None:
    with atheris.instrument_imports(include=_READERS):
        from tests.fuzz import bounds, targets  # noqa: PLC0415

        target = targets.load(sys.argv[1])
    bounds.allowance.slowdown = _SLOWDOWN
    count = 0

    def judge(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % _TRACED:
            target.check(data)
            return
        tracemalloc.start()
        try:
            target.check(data)
        finally:
            tracemalloc.stop()

    atheris.Setup([sys.argv[0], *sys.argv[2:]], judge)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
