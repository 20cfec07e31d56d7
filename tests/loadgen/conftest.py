"""Every asyncio test here runs on both loops; those that only talk to a child process on one."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from loadgen.places import ENVIRONMENT

ON_ONE = {
    "test_cli.py",
    "test_interrupt.py",
    "test_journal.py",
    "test_tune.py",
    "test_protocols.py",
    "test_view.py",
    "test_workers.py",
}


@pytest.fixture(autouse=True)
def _no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test runs is kept in the history of whoever runs it."""
    monkeypatch.setenv(ENVIRONMENT, "off")


@pytest.fixture
def own_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For tests of the history: it is in a file of the test's own."""
    monkeypatch.setenv(ENVIRONMENT, f"sqlite:///{tmp_path / 'history.sqlite'}")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in ON_ONE:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
