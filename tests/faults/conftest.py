"""Every asynchronous test here runs on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.faults.pair import pair
from tests.faults.process import process
from tests.net.bed import bed
from tests.net.http2_bed import h2bed
from tests.net.tls_bed import papers, tls_agent, tls_bed, tls_h2bed

__all__ = ["bed", "h2bed", "pair", "papers", "process", "tls_agent", "tls_bed", "tls_h2bed"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
