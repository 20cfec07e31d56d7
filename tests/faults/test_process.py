"""The agent as a process: signals, exit codes, the admin port while it drains, and too few descriptors."""

import asyncio
import resource
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.process import AgentProcess, Starter
from tests.net.bed import OK, get, post
from tests.sockets import FakePredictor, IncompleteError, Message, Peer

# A child process needs the loop's child watcher; the agent in it runs on uvloop whatever this test runs on.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


async def answer(_: Message, peer: Peer) -> None:
    await peer.send(OK)


class Model:
    """Answers when it is released. Which connections the agent uses for that is not this test's business."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, request: Message, peer: Peer) -> None:
        await self.released.wait()
        await peer.send(OK)


async def ask(agent: AgentProcess, request: bytes) -> Peer:
    client = await agent.client()
    await client.send(request)
    return client


def opened_by(agent: AgentProcess) -> int:
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))


async def test_sigterm_finishes_what_runs_and_waits(process: Starter) -> None:
    predictor, model = FakePredictor().listen(), Model()
    agent = await process(predictor)
    assert (await agent.admin("/readyz")).status == 200
    async with predictor.serve(model):
        clients = [await ask(agent, post(b"x")) for _ in range(3)]
        idle = await agent.client()
        await agent.until(inflight=1, queued=2)
        agent.signal(signal.SIGTERM)
        await agent.until(state="draining")
        assert (await agent.admin("/readyz")).status == 503
        assert (await agent.admin("/healthz")).status == 200
        assert await idle.rest() == b""
        model.released.set()
        for client in clients:
            reply = await client.response()
            assert (reply.status, reply.values(b"Connection")) == (200, [b"close"])
            assert await client.rest() == b""
    assert await agent.exit_code() == 0
    assert [event["event"] for event in agent.events] == ["predictor reachable", "draining", "ended"]


async def test_it_serves_on_while_endpoints_are_removed(process: Starter) -> None:
    predictor = FakePredictor().listen()
    agent = await process(predictor, drain_delay="10s")
    agent.signal(signal.SIGTERM)
    await agent.until(state="draining")
    client = await ask(agent, post(b"late"))
    peer = await predictor.accept()
    await peer.request()
    await peer.send(OK)
    assert (await client.response()).values(b"Connection") == [b"close"]


async def test_when_the_time_is_over_the_rest_is_told(process: Starter) -> None:
    predictor = FakePredictor().listen()
    agent = await process(predictor, drain_timeout="100ms")
    clients = [await ask(agent, post(b"x")) for _ in range(2)]
    await agent.until(inflight=1, queued=1)
    agent.signal(signal.SIGTERM)
    for each in clients:
        reply = await each.response()
        assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"draining"])
        assert await each.rest() == b""
    assert await agent.exit_code() == 0


@pytest.mark.parametrize("stage", ["delay", "grace", "start"])
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(process: Starter, again: signal.Signals, stage: str) -> None:
    predictor = FakePredictor() if stage == "start" else FakePredictor().listen()
    flags = {"drain_delay": "1h" if stage == "delay" else "0", "drain_timeout": "1h", "deadline": "1h"}
    agent = await process(predictor, **flags)
    client = await ask(agent, post(b"x"))
    await agent.until(inflight=1)
    agent.signal(signal.SIGTERM)
    await agent.until(state="draining")
    assert await listens(agent) is (stage == "delay")
    agent.signal(again)
    assert await agent.exit_code() == 0
    with pytest.raises(IncompleteError):
        await client.more()


async def listens(agent: AgentProcess) -> bool:
    """Whether the data port still takes connections."""
    try:
        (await agent.client()).close()
    except ConnectionError:
        return False
    return True


async def test_the_first_line_of_the_log_says_where_it_listens(process: Starter) -> None:
    """Also where the predictor is there at once; `process` looks at that line."""
    agent = await process(FakePredictor().listen(), ready_when="reachable")
    agent.signal(signal.SIGTERM)
    assert await agent.exit_code() == 0
    assert agent.events[0]["event"] == "predictor reachable"


async def test_it_starts_without_a_predictor_and_says_so(process: Starter) -> None:
    predictor = FakePredictor()
    flags = {"ready_when": "reachable", "startup_timeout": "1h", "deadline": "100ms"}
    agent = await process(predictor, "starting", **flags)
    assert (await agent.admin("/readyz")).status == 503
    assert (await agent.admin("/healthz")).status == 200
    client = await ask(agent, post(b"held"))
    predictor.listen()
    async with predictor.serve(answer):
        assert (await client.response()).raw == OK
        await agent.until(state="serving", waits_for=[])
        assert (await agent.admin("/readyz")).status == 200
        agent.signal(signal.SIGTERM)
        assert await agent.exit_code() == 0
    first = agent.events[0]
    assert (first["event"], first["upstream"]) == ("predictor reachable", predictor.authority.decode())
    assert first["seconds"] > 0


async def test_sigint_leaves_out_the_delay(process: Starter) -> None:
    agent = await process(FakePredictor().listen(), drain_delay="1h")
    agent.signal(signal.SIGINT)
    assert await agent.exit_code() == 0


async def test_wait_for_drain_starts_it_and_answers_at_its_end(process: Starter) -> None:
    predictor = FakePredictor().listen()
    agent = await process(predictor)
    client = await ask(agent, post(b"x"))
    peer = await predictor.accept()
    await peer.request()
    asked = asyncio.ensure_future(agent.admin("/wait-for-drain"))
    await agent.until(state="draining")
    assert not asked.done()
    given_up = asyncio.ensure_future(agent.admin("/wait-for-drain"))
    given_up.cancel()
    await peer.send(OK)
    assert (await client.response()).status == 200
    assert (await asked).status == 200
    await agent.until(state="drained")
    assert (await agent.admin("/wait-for-drain")).status == 200
    assert (await agent.admin("/readyz")).status == 503
    agent.signal(signal.SIGTERM)
    assert await agent.exit_code() == 0


async def test_without_descriptors_it_waits_and_recovers(process: Starter) -> None:
    """Nothing can be accepted and nobody dialled: those inside wait, those outside are closed or wait."""
    predictor = FakePredictor().listen()
    agent = await process(predictor, limit="4")
    inside = [await agent.client() for _ in range(2)]
    await agent.until(connections={"client": 2, "upstream": 0, "upstream_idle": 0})
    opened = opened_by(agent)
    _, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (opened, hard))
    await inside[0].send(post(b"inside"))
    await inside[1].send(get())
    reply = await inside[1].response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"upstream_unavailable"])
    outside = [await agent.client() for _ in range(20)]
    for client in outside:
        await client.send(get())
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (hard, hard))
    async with predictor.serve(answer):
        assert (await inside[0].response()).raw == OK
        fresh = await ask(agent, post(b"fresh"))
        assert (await fresh.response()).raw == OK
        agent.signal(signal.SIGTERM)
        assert await agent.exit_code() == 0
    assert [request.body for request in predictor.requests if request.body] == [b"inside", b"fresh"]


async def test_a_taken_port_is_named_and_ends_it_with_1(process: Starter) -> None:
    predictor = FakePredictor().listen()
    agent = await process(predictor)
    taken = agent.address
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "serve", "--route", f"{taken}={predictor.url}", "--admin", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, log = await second.communicate()
    assert second.returncode == 1
    assert taken.encode() in log
