"""The small version of `python -m tests.contract.idle_gaps`."""

import asyncio
import random
from pathlib import Path

import pytest

from . import idle_gaps
from .conftest import Pair
from .processes import running_agent

pytestmark = pytest.mark.contract


async def test_idle_connections_cost_no_request(mlserver_pair: Pair, tmp_path: Path) -> None:
    """The same load without the agent shows that it does meet closed connections."""
    url, address = mlserver_pair.server.url, mlserver_pair.server.address
    with running_agent(tmp_path, [url] * idle_gaps.LANES, "--limit", "none") as agent:
        through, direct = await asyncio.gather(
            *(
                idle_gaps.drive(addresses, requests=300, gaps=2, rng=random.Random(1))
                for addresses in (agent.addresses, [address] * idle_gaps.LANES)
            )
        )
    assert not through.failures, through.verdict
    assert through.served == 300
    beyond = [gap for gap in direct.gaps if gap > idle_gaps.NARROW_S[1]]
    assert len(beyond) > 4
    assert direct.failures.total() >= idle_gaps.CLIENTS * len(beyond), direct.verdict
