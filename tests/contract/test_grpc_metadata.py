"""Metadata, statuses and deadlines between grpc.aio clients and a grpc.aio server, with the agent in between."""

import asyncio
from typing import Any

import grpc
import pytest

from .conftest import StartAgent
from .grpccrowd import OPTIONS
from .grpcpayloads import INFER, STREAM, message
from .grpcserver import serving

pytestmark = pytest.mark.contract

BYPASS = "/test.Mirror/Call"
SENT = (
    ("x-one", "1"),
    ("x-many", "a"),
    ("x-many", "b"),
    ("x-raw-bin", bytes(range(256))),
    ("x-raw-bin", b""),
    ("x-empty", ""),
    ("x-text", 'spaces, commas; "quotes" %41 and %'),
    ("x-long", "v" * 4_000),
    ("authorization", "Bearer b"),
    ("mm-model-id", "somebody"),
    ("traceparent", "00-0-0-00"),
    ("x-last", "z"),
)


def client(address: str) -> Any:
    """A channel of grpc.aio."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


def ours(metadata: Any) -> list[tuple[str, Any]]:
    """What is left of metadata without what grpcio itself adds."""
    return [(key, value) for key, value in metadata or () if key != "user-agent"]


@pytest.mark.parametrize("method", [INFER, BYPASS])
async def test_metadata_reaches_the_other_side(start_agent: StartAgent, method: str) -> None:
    """Both ways, with order, duplicates and bytes, before the message and after it."""
    arrived: list[Any] = []

    async def mirror(sent: bytes, context: Any) -> bytes:
        arrived.append(context.invocation_metadata())
        await context.send_initial_metadata([("x-initial", "1"), ("x-initial", "2"), ("x-initial-bin", b"\x00\xff")])
        context.set_trailing_metadata([("x-trailing", "1"), ("x-trailing", "2"), ("x-trailing-bin", b"\xff\x00" * 500)])
        return sent

    seen = []
    async with serving({method: mirror}) as server:
        for address in (server, start_agent(f"h2c://{server}").address):
            async with client(address) as channel:
                call = channel.unary_unary(method)(message(), metadata=SENT, timeout=20)
                seen.append((await call, ours(await call.initial_metadata()), ours(await call.trailing_metadata())))
    assert seen[1] == seen[0]
    assert ("x-trailing-bin", b"\xff\x00" * 500) in seen[0][2]
    direct, through = map(list, arrived)
    assert [pair for pair in direct if pair[0].startswith("x-")] == [pair for pair in SENT if pair[0].startswith("x-")]
    assert through == direct


async def test_every_status_comes_through(start_agent: StartAgent) -> None:
    """With its details, whatever characters they have, and the trailer that carries rich ones."""
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    rich = ("grpc-status-details-bin", b"\x08\x05\x12\x00")

    async def fail(sent: bytes, context: Any) -> bytes:
        code = codes[sent[0]]
        await context.abort(code, _details(code), (rich,))
        return b""

    seen = []
    async with serving({INFER: fail}) as server:
        for address in (server, start_agent(f"h2c://{server}").address):
            async with client(address) as channel:
                for number in range(len(codes)):
                    with pytest.raises(grpc.aio.AioRpcError) as error:
                        await channel.unary_unary(INFER)(bytes([number]), timeout=20)
                    raised = error.value
                    seen.append((raised.code(), raised.details(), ours(raised.trailing_metadata())))
    direct, through = seen[: len(codes)], seen[len(codes) :]
    assert direct == [(code, _details(code), [rich]) for code in codes]
    assert through == direct


def _details(code: grpc.StatusCode) -> str:
    return f"100 % of {code.name}: Grüße, \n\t and \x7f"


async def test_initial_metadata_does_not_wait_for_the_message(start_agent: StartAgent) -> None:
    seen = asyncio.Event()

    async def slow(sent: Any, context: Any) -> Any:
        await context.send_initial_metadata([("x-initial", "1")])
        await seen.wait()
        async for received in sent:
            yield received

    async with serving(streaming={STREAM: slow}) as server, client(start_agent(f"h2c://{server}").address) as channel:
        call = channel.stream_stream(STREAM)(timeout=20)
        assert ("x-initial", "1") in list(await call.initial_metadata())
        seen.set()
        await call.write(message())
        await call.done_writing()
        assert [received async for received in call] == [message()]


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_both_ways(start_agent: StartAgent, algorithm: grpc.Compression) -> None:
    sent = message([0.5] * 500_000)
    encodings = []

    async def mirror(received: bytes, context: Any) -> bytes:
        encodings.append(received == sent)
        context.set_compression(algorithm)
        return received

    async with serving({INFER: mirror}) as server:
        for address in (server, start_agent(f"h2c://{server}").address):
            async with client(address) as channel:
                assert await channel.unary_unary(INFER)(sent, timeout=20, compression=algorithm) == sent
    assert encodings == [True, True]


async def test_what_is_left_of_the_deadline_goes_on(start_agent: StartAgent) -> None:
    """The server sees the client's deadline less what the agent took; a call without one stays without."""
    remaining = []

    async def tell(sent: bytes, context: Any) -> bytes:
        remaining.append(context.time_remaining())
        return sent

    async with serving({INFER: tell}) as server, client(start_agent(f"h2c://{server}").address) as channel:
        await channel.unary_unary(INFER)(message(), timeout=20)
        await channel.unary_unary(INFER)(message())
    # grpcio rounds what it sends up.
    assert 15 < remaining[0] <= 20.2
    assert remaining[1] is None


async def test_the_deadline_shrinks_while_a_call_waits(start_agent: StartAgent) -> None:
    remaining: list[float] = []
    go = asyncio.Event()

    async def hold(sent: bytes, context: Any) -> bytes:
        remaining.append(context.time_remaining())
        await go.wait()
        return sent

    async with serving({INFER: hold}) as server:
        agent = start_agent(f"h2c://{server}", "--limit", "1")
        async with client(agent.address) as channel:
            first = channel.unary_unary(INFER)(message(), timeout=20)
            await asyncio.to_thread(agent.await_state, inflight=1)
            second = channel.unary_unary(INFER)(message(), timeout=20)
            await asyncio.to_thread(agent.await_state, inflight=1, queued=1)
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)
            waited = asyncio.get_running_loop().time() - began
            go.set()
            await asyncio.gather(first, second)
    # grpcio rounds what it sends up, by less than 1 %.
    assert 15 < remaining[1] <= 20.2 - waited


async def test_a_cancelled_call_is_cancelled_at_the_server(start_agent: StartAgent) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def hold(sent: bytes, context: Any) -> bytes:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return sent

    async with serving({INFER: hold}) as server:
        agent = start_agent(f"h2c://{server}")
        async with client(agent.address) as channel:
            call = channel.unary_unary(INFER)(message(), timeout=20)
            await running.wait()
            call.cancel()
            async with asyncio.timeout(10):
                await cancelled.wait()
        await asyncio.to_thread(agent.await_state, inflight=0, queued=0)
        assert agent.metrics().value("headgate_cancelled_total", stage="inflight") == 1


async def test_turn_by_turn(start_agent: StartAgent) -> None:
    """Each message is sent after the answer to the one before: nothing may wait for more."""
    ended = asyncio.Event()

    async def mirror(sent: Any, context: Any) -> Any:
        async for received in sent:
            yield received
        ended.set()

    messages = [message([float(number)] * (30_000 if number % 10 == 0 else 3)) for number in range(50)]
    async with serving(streaming={STREAM: mirror}) as server:
        agent = start_agent(f"h2c://{server}")
        async with client(agent.address) as channel:
            call = channel.stream_stream(STREAM)(timeout=20)
            for sent in messages:
                await call.write(sent)
                assert await call.read() == sent
            assert not ended.is_set()
            assert (await asyncio.to_thread(agent.state))["inflight"] == 1
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    assert ended.is_set()


async def test_a_connection_that_ages_loses_no_call(start_agent: StartAgent) -> None:
    """The server says GOAWAY to every connection twice a second and closes it once its calls have ended; the load never
    pauses until eight have grown old.
    """
    served = 0
    peers = set()

    async def mirror(sent: bytes, context: Any) -> bytes:
        nonlocal served
        served += 1
        peers.add(context.peer())
        await asyncio.sleep(0.02)
        return sent

    ages = (("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 20_000))
    async with serving({INFER: mirror}, options=ages) as server:
        agent = start_agent(f"h2c://{server}")

        async def load(number: int) -> int:
            async with client(agent.address) as channel:
                ask = channel.unary_unary(INFER)
                sent, count = message([float(number)]), 0
                while len(peers) <= 8 or count <= 20:
                    assert await ask(sent, timeout=20) == sent
                    count += 1
                return count

        async with asyncio.timeout(60):
            counts = await asyncio.gather(*(load(number) for number in range(8)))
        state = await asyncio.to_thread(agent.await_state, inflight=0, queued=0)
    assert served == sum(counts) == state["outcomes"]["served"]
