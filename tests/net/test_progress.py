"""When a client is too slow: looks at it in a row, in seconds that pass between them."""

import pytest

from agent.net.progress import Pace, Progress

RATE, GRACE = 100, 10.0
# A look: seconds since the last one, bytes since then, whether the client is waited for.
Look = tuple[float, int, bool]

PACES: dict[str, tuple[list[Look], list[bool]]] = {
    "nothing comes": ([(1.0, 0, True)] * 13, [False] * 11 + [True] * 2),
    "the rate exactly": ([(1.0, 100, True)] * 40, [False] * 40),
    "half the rate": ([(1.0, 50, True)] * 23, [False] * 21 + [True] * 2),
    "byte by byte": ([(1.0, 1, True)] * 13, [False] * 11 + [True] * 2),
    "in bursts that make up for it": ([*[(1.0, 0, True)] * 10, (1.0, 1100, True)] * 4, [False] * 44),
    "a fast start is no licence": ([(1.0, 1 << 30, True), *[(1.0, 0, True)] * 11], [False] * 11 + [True]),
    "somebody else is waited for": ([(60.0, 0, False)] * 5, [False] * 5),
    "only what lies between two looks counts": ([(60.0, 0, True), (60.0, 0, False)] * 3, [False] * 6),
    "what it owes is not forgiven by a wait for others": (
        [*[(1.0, 0, True)] * 10, (60.0, 0, False), *[(1.0, 0, True)] * 3],
        [False] * 13 + [True],
    ),
}


@pytest.mark.parametrize("case", PACES)
def test_a_pace(case: str) -> None:
    looks, expected = PACES[case]
    pace, moved, found = Pace(), 0, []
    for elapsed, size, waits in looks:
        moved += size
        found.append(pace.is_behind("one", moved, elapsed, RATE, GRACE, waits=waits))
    assert found == expected


def test_each_exchange_begins_anew() -> None:
    pace = Pace()
    for of in ("one", "two", "three"):
        assert not any(pace.is_behind(of, 5, 1.0, RATE, GRACE, waits=True) for _ in range(11))


def test_nothing_has_stalled_that_moves_or_waits_for_nobody() -> None:
    progress = Progress()
    assert not progress.has_stalled(1, 0.0, 5.0, waits=True)
    assert not progress.has_stalled(1, 5.0, 5.0, waits=True)
    assert progress.has_stalled(1, 5.1, 5.0, waits=True)
    assert not progress.has_stalled(2, 6.0, 5.0, waits=True)
    assert not progress.has_stalled(2, 60.0, 5.0, waits=False)
    assert not progress.has_stalled(2, 65.0, 5.0, waits=True)
