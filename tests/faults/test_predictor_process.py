"""A predictor that is a process, killed and stopped: who was queued is answered by the next one, who ran is told.

Over both protocols, with an agent that is a process too.
"""

import signal

import pytest

from tests.faults.pair import LIMIT, WAITING, Pair
from tests.soak.plan import SERVED, Deed, plain

# A child process needs the loop's child watcher; the agent in it runs on uvloop whatever this test runs on.
pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.parametrize("protocol", ["http", "grpc"])]


@pytest.mark.parametrize("stopped", [False, True])
async def test_it_is_killed(pair: Pair, protocol: str, *, stopped: bool) -> None:
    """Also when it stood still before, so that what it had lay in its socket."""
    await pair.start()
    if stopped:
        pair.predictor.signal(signal.SIGSTOP)
    await pair.fill(protocol, plain(Deed.NEVER))
    if not stopped:
        await pair.until_executed(LIMIT)
    pair.predictor.signal(signal.SIGKILL)
    await pair.predictor.wait()
    await pair.until(inflight=LIMIT, queued=WAITING - LIMIT)
    await pair.predictor.start()
    assert await pair.answered() == {"upstream_closed": LIMIT, SERVED: WAITING}
    assert pair.executed() == [not stopped] * LIMIT + [1] * WAITING
    await pair.check_afterwards(protocol)


async def test_it_stands_still_and_goes_on(pair: Pair, protocol: str) -> None:
    await pair.start()
    pair.predictor.signal(signal.SIGSTOP)
    await pair.fill(protocol, plain())
    pair.predictor.signal(signal.SIGCONT)
    assert await pair.answered() == {SERVED: LIMIT + WAITING}
    assert pair.executed() == [1] * (LIMIT + WAITING)
    await pair.check_afterwards(protocol)


async def test_it_stands_still_for_too_long(pair: Pair, protocol: str) -> None:
    """`--timeout` frees the slots. What had been sent is not sent again when it goes on."""
    await pair.start("--timeout", "2s")  # and those that come afterwards are to be in time
    pair.predictor.signal(signal.SIGSTOP)
    for _ in range(LIMIT):
        pair.ask(protocol, plain())
    assert await pair.answered() == {"timeout": LIMIT}
    await pair.until(inflight=0)
    pair.predictor.signal(signal.SIGCONT)
    await pair.check_afterwards(protocol)
    assert max(pair.executed()) == 1


async def test_it_is_ended_with_sigterm(pair: Pair, protocol: str) -> None:
    """It finishes what it has; over HTTP/2 it says that it goes. Nobody notices."""
    await pair.start()
    pair.predictor.signal(signal.SIGSTOP)  # or those that run may end while others come to wait
    await pair.fill(protocol, plain(delay_s=0.5))
    pair.predictor.signal(signal.SIGCONT)
    await pair.until_executed(LIMIT)
    pair.predictor.signal(signal.SIGTERM)
    await pair.predictor.wait()
    await pair.predictor.start()
    assert await pair.answered() == {SERVED: LIMIT + WAITING}
    assert pair.executed() == [1] * (LIMIT + WAITING)
    await pair.check_afterwards(protocol)
