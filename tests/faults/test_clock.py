"""A wall clock that jumps while requests run and wait changes time stamps, and nothing else."""

import asyncio
import json
import os
import re
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.pair import LIMIT, WAITING, Pair
from tests.soak.plan import SERVED, Deed, plain
from tests.sockets import PATIENCE_S

# A child process needs the loop's child watcher; the agent in it runs on uvloop whatever this test runs on.
pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.parametrize("protocol", ["http", "grpc"])]

HOUR_S = 3600.0
INTEGRAL = re.compile(r"^headgate_(?:inflight|queued|busy)_seconds_total(?:\{.*\})? (\S+)$", re.MULTILINE)


class Clock:
    """What the agent's process takes for the wall clock: the system's, and so many seconds more."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.jump(0.0)
        # Found by name in the loader's own folders, whatever the architecture.
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if shutil.which("faketime") is None or not libraries:
            if os.environ.get("CI") == "true":
                pytest.fail("faketime is not installed")
            pytest.skip("faketime is not installed")
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: float) -> None:
        """From now on. The name is replaced, so that the process reads one or the other."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def last_logged(pair: Pair) -> float:
    """Unix time of the last line of its log."""
    stamp = json.loads(pair.agent.log()[-1])["ts"]
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("jump", [HOUR_S, -24 * HOUR_S])
async def test_nobody_expires_of_a_jump(pair: Pair, clock: Clock, protocol: str, jump: float) -> None:
    await pair.start("--policy", "deadline", "--deadline", "30s", environment=clock.environment)
    pair.predictor.signal(signal.SIGSTOP)
    await pair.fill(protocol, plain())
    clock.jump(jump)
    for _ in range(3):  # the demand is read, time-outs are looked at, and integrals go on
        seconds = [float(value) for value in INTEGRAL.findall(await pair.agent.get("/metrics"))]
        assert seconds
        assert all(0 <= value < 600 for value in seconds), seconds
    pair.predictor.signal(signal.SIGCONT)
    assert await pair.answered() == {SERVED: LIMIT + WAITING}
    pair.agent.adopt("limit=3\n")
    await pair.until(limit=3)
    # The system's clock is this test's, too.
    assert abs(last_logged(pair) - datetime.now(UTC).timestamp() - jump) < 600, "the clock was not faked"
    pair.agent.adopt(f"limit={LIMIT}\n")
    await pair.until(limit=LIMIT)
    await pair.check_afterwards(protocol)


async def test_a_deadline_comes_when_it_should(pair: Pair, clock: Clock, protocol: str) -> None:
    await pair.start("--deadline", "600ms", environment=clock.environment)
    for _ in range(LIMIT):
        pair.ask(protocol, plain(Deed.NEVER))
    await pair.until(inflight=LIMIT)
    for _ in range(WAITING):
        pair.ask(protocol, plain())
    async with asyncio.timeout(PATIENCE_S):
        while await come_to_wait(pair) < WAITING:
            pass
    clock.jump(-24 * HOUR_S)
    await pair.until(queued=0)
    pair.predictor.signal(signal.SIGKILL)
    await pair.predictor.wait()
    await pair.predictor.start()
    assert await pair.answered() == {"expired": WAITING, "upstream_closed": LIMIT}
    assert min(seconds_of(pair, "expired")) > 0.6
    await pair.check_afterwards(protocol)


async def come_to_wait(pair: Pair) -> int:
    """How many have begun to wait, those whose time is over already with them."""
    state = await pair.agent.state()
    return int(state["queued"] + state["outcomes"].get("expired", 0))


async def test_a_time_out_comes_when_it_should(pair: Pair, clock: Clock, protocol: str) -> None:
    await pair.start("--timeout", "2s", environment=clock.environment)
    for _ in range(LIMIT):
        pair.ask(protocol, plain(Deed.NEVER))
    await pair.until_executed(LIMIT)
    clock.jump(-24 * HOUR_S)
    assert await pair.answered() == {"timeout": LIMIT}
    assert min(seconds_of(pair, "timeout")) > 2.0
    await pair.check_afterwards(protocol)


def seconds_of(pair: Pair, end: str) -> list[float]:
    """How long those took that ended so, by the test's own clock."""
    entries = [pair.ledger.entry(number) for number in range(1, len(pair.ledger) + 1)]
    return [entry.ended - entry.asked for entry in entries if entry.end == end]
