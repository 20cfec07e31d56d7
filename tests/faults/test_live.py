"""Settings that change while the agent serves: on SIGHUP, and when their file changes."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.process import AgentProcess, Starter
from tests.net.bed import OK, post
from tests.sockets import FakePredictor, Message, Peer

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


class Model:
    """Answers when it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, request: Message, peer: Peer) -> None:
        await self.released.wait()
        await peer.send(OK)


async def test_a_changed_file_lets_those_run_that_wait(process: Starter, tmp_path: Path) -> None:
    """As a mounted ConfigMap changes: the name is a link into a folder that is replaced."""
    link = tmp_path / "live"
    replace(link, tmp_path / "one", "limit=1\n")
    predictor, model = FakePredictor().listen(), Model()
    agent = await process(predictor, live_settings=str(link))
    async with predictor.serve(model):
        clients = [await ask(agent) for _ in range(3)]
        await agent.until(inflight=1, queued=2, limit=1)
        replace(link, tmp_path / "two", "limit=2\nqueue=5\n")
        await agent.until(inflight=2, queued=1, limit=2, queue_limit=5)
        replace(link, tmp_path / "three", "limit=x\nqueue=6\n")
        agent.signal(signal.SIGHUP)
        replace(link, tmp_path / "four", "limit=3\n")
        agent.signal(signal.SIGHUP)
        await agent.until(inflight=3, queued=0, limit=3)
        model.released.set()
        assert [(await client.response()).status for client in clients] == [200] * 3
    await agent.until(inflight=0, queued=0)


async def test_what_is_not_accepted_changes_nothing(process: Starter, tmp_path: Path) -> None:
    file = tmp_path / "live"
    file.write_text("limit=2\n")
    predictor = FakePredictor().listen()
    agent = await process(predictor, live_settings=str(file))
    file.write_text("limit=0\n")
    agent.signal(signal.SIGHUP)
    file.unlink()
    agent.signal(signal.SIGHUP)
    assert (await agent.state())["limit"] == 2
    file.write_text("queue=3\n")
    await agent.until(queue_limit=3)


async def test_sighup_without_a_file_ends_nothing(process: Starter) -> None:
    predictor = FakePredictor().listen()
    agent = await process(predictor)
    agent.signal(signal.SIGHUP)
    assert (await agent.state())["state"] == "serving"


def replace(link: Path, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "live").write_text(text)
    new = link.with_name("new")
    new.symlink_to(folder / "live")
    new.rename(link)


async def ask(agent: AgentProcess) -> Peer:
    client = await agent.client()
    await client.send(post(b"x"))
    return client
