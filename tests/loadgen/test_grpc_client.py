"""The gRPC client against grpcio's server, and against raw HTTP/2 peers on the h2 library that do what a test says."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Encoder, NeverIndexedHeaderTuple

from loadgen import h2 as frames
from loadgen.client import Address
from loadgen.grpc_client import GrpcClient, call
from loadgen.grpc_link import CallLink
from loadgen.record import Cause, Outcome, Sample
from tests.loadgen.peers import Line, refused_address, serving
from tests.loadgen.test_http_client import Ends

HEAD = frames.call_head("http", "test", "/s/M", [("x-a", "b")], 5.0)
MESSAGE = frames.message(b"hello")
TRAILERS = [("grpc-status", "0")]
START = [(":status", "200"), ("content-type", "application/grpc")]


@asynccontextmanager
async def client_of(
    address: Address, timeout_s: float = 5.0, kind: type[GrpcClient] = GrpcClient, **settings: object
) -> AsyncIterator[tuple[GrpcClient, Ends]]:
    ends = Ends()
    client = kind(address, ends, timeout_s, head=HEAD, **settings)  # type: ignore[arg-type]
    try:
        yield client, ends
    finally:
        await client.close()


def send(client: GrpcClient, count: int = 1, message: bytes = MESSAGE) -> None:
    for _ in range(count):
        client.send(message, Sample(time.monotonic_ns()))


class Peer:
    """A server of one connection on the h2 library."""

    def __init__(self, line: Line, streams: int | None = None) -> None:
        self.line = line
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        if streams is not None:
            wanted = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: streams}
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=wanted)
        self.h2.initiate_connection()

    async def flush(self) -> None:
        await self.line.send(self.h2.data_to_send())

    async def events(self) -> AsyncIterator[h2.events.Event]:
        await self.flush()
        while data := await self.line.read():
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                yield event
            await self.flush()

    def answer(self, stream: int, status: str = "0", message: bytes = MESSAGE, **more: str) -> None:
        self.h2.send_headers(stream, START)
        for start in range(0, len(message), 10_000):
            self.h2.send_data(stream, message[start : start + 10_000])
        self.h2.send_headers(
            stream, [("grpc-status", status), *((k.replace("_", "-"), v) for k, v in more.items())], end_stream=True
        )


def peer_of(act: Callable[[Peer, int], None], **settings: int) -> Callable[[Line], Awaitable[None]]:
    """A script that calls `act` for each stream whose request is complete."""

    async def script(line: Line) -> None:
        peer = Peer(line, **settings)
        async for event in peer.events():
            if isinstance(event, h2.events.StreamEnded):
                act(peer, event.stream_id)

    return script


async def test_the_head_is_what_a_grpc_server_expects() -> None:
    seen: list[list[tuple[str, str]]] = []

    async def script(line: Line) -> None:
        peer = Peer(line)
        async for event in peer.events():
            if isinstance(event, h2.events.RequestReceived):
                seen.append(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                peer.answer(event.stream_id)

    async with serving(script) as peer:
        sample = await call(peer.address, HEAD, MESSAGE, 5.0)
    assert (sample.outcome, sample.status, sample.body) == (Outcome.OK, 0, MESSAGE)
    assert dict(seen[0]) == {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "test",
        ":path": "/s/M",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "headgate-load",
        "grpc-timeout": "5000m",
        "x-a": "b",
    }


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("0", Outcome.OK), ("14", Outcome.SHED), ("8", Outcome.SHED), ("4", Outcome.TIMEOUT), ("13", Outcome.ERROR)],
)
async def test_trailers_decide_the_outcome(status: str, outcome: Outcome) -> None:
    async with (
        serving(peer_of(lambda peer, stream: peer.answer(stream, status, grpc_retry_pushback_ms="1500"))) as peer,
        client_of(peer.address) as (client, ends),
    ):
        send(client)
        (sample,) = await ends.wait_for(1)
        assert (sample.outcome, sample.status, sample.retry_after_s) == (outcome, int(status), 1.5)


@pytest.mark.parametrize(("pushback", "seconds"), [("-1", -1.0), ("abc", -1.0), ("0", 0.0)])
async def test_trailers_alone_are_an_answer_and_a_pushback_may_forbid_a_retry(pushback: str, seconds: float) -> None:
    def refuse(peer: Peer, stream: int) -> None:
        fields = [*START, ("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)]
        peer.h2.send_headers(stream, fields, end_stream=True)

    async with serving(peer_of(refuse)) as peer, client_of(peer.address) as (client, ends):
        send(client)
        (sample,) = await ends.wait_for(1)
        assert (sample.outcome, sample.retry_after_s) == (Outcome.SHED, seconds)


async def test_an_http_status_without_grpc_is_told_as_such() -> None:
    def refuse(peer: Peer, stream: int) -> None:
        peer.h2.send_headers(stream, [(":status", "503")], end_stream=True)

    async with serving(peer_of(refuse)) as peer, client_of(peer.address) as (client, ends):
        send(client)
        (sample,) = await ends.wait_for(1)
        assert (sample.outcome, sample.status) == (Outcome.SHED, 503)


async def test_streams_share_a_connection_up_to_what_both_sides_allow() -> None:
    held: list[int] = []

    def answer_all_of_four(peer: Peer, stream: int) -> None:
        held.append(stream)
        if len(held) == 4:
            for one in held:
                peer.answer(one)
            held.clear()

    async with (
        serving(peer_of(answer_all_of_four, streams=4)) as peer,
        client_of(peer.address, max_connections=1) as (client, ends),
    ):
        await client.connect(1)
        send(client, 8)
        assert client.backlogged == 4
        samples = await ends.wait_for(8)
        assert {sample.outcome for sample in samples} == {Outcome.OK}
        assert (peer.accepted, client.inflight) == (1, 0)


async def test_more_calls_than_streams_take_more_connections() -> None:
    asked: list[tuple[Peer, int]] = []
    flushes: list[asyncio.Task[None]] = []

    def answer_all_of_six(peer: Peer, stream: int) -> None:
        asked.append((peer, stream))
        for one, number in asked if len(asked) == 6 else ():
            one.answer(number)
            flushes.append(asyncio.ensure_future(one.flush()))

    async with serving(peer_of(answer_all_of_six)) as peer, client_of(peer.address, streams=2) as (client, ends):
        send(client, 6)
        await ends.wait_for(6)
        assert (peer.accepted, client.backlogged) == (3, 0)


async def test_a_large_message_keeps_to_the_servers_windows() -> None:
    body = bytes(range(256)) * 2000
    sizes: list[int] = []

    async def script(line: Line) -> None:
        peer = Peer(line)
        async for event in peer.events():
            if isinstance(event, h2.events.DataReceived):
                sizes.append(len(event.data))
            elif isinstance(event, h2.events.StreamEnded):
                peer.answer(event.stream_id, message=frames.message(body[:50_000]))

    async with serving(script) as peer, client_of(peer.address, keep_bodies=True) as (client, ends):
        send(client, 3, frames.message(body))
        for sample in await ends.wait_for(3):
            assert (sample.outcome, sample.body) == (Outcome.OK, frames.message(body[:50_000]))
    assert sum(sizes) == 3 * (len(body) + 5)


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (lambda peer, stream: peer.h2.reset_stream(stream, 7), Cause.GOAWAY),
        (lambda peer, stream: peer.h2.reset_stream(stream, 2), Cause.RESET),
        (lambda peer, _: peer.h2.close_connection(last_stream_id=0), Cause.GOAWAY),
        (lambda peer, _: peer.line.close(), Cause.CLOSED),
        (lambda peer, stream: peer.h2.send_headers(stream, START) or peer.h2.end_stream(stream), Cause.TRUNCATED),
    ],
    ids=["refused", "reset", "goaway", "closed", "no trailers"],
)
async def test_what_ends_without_a_status_is_an_error_with_its_cause(
    act: Callable[[Peer, int], None], cause: Cause
) -> None:
    async with serving(peer_of(act)) as peer, client_of(peer.address) as (client, ends):
        send(client)
        (sample,) = await ends.wait_for(1)
        assert (sample.outcome, sample.cause) == (Outcome.ERROR, cause)


async def test_after_goaway_calls_take_a_new_connection() -> None:
    def once(peer: Peer, stream: int) -> None:
        peer.answer(stream)
        peer.h2.close_connection(last_stream_id=stream)

    async with serving(peer_of(once)) as peer, client_of(peer.address) as (client, ends):
        for number in range(1, 4):
            send(client)
            assert (await ends.wait_for(number))[-1].outcome is Outcome.OK
        assert peer.accepted == 3


async def test_a_call_out_of_time_is_reset_and_its_neighbour_goes_on() -> None:
    resets: list[int] = []

    async def script(line: Line) -> None:
        peer = Peer(line)
        async for event in peer.events():
            if isinstance(event, h2.events.StreamReset):
                resets.append(event.stream_id)
                peer.answer(3)

    async with serving(script) as peer, client_of(peer.address) as (client, ends):
        await client.connect(1)
        client.send(MESSAGE, Sample(time.monotonic_ns() - 4_950_000_000))
        send(client)
        first, second = await ends.wait_for(2)
        assert (first.outcome, second.outcome) == (Outcome.TIMEOUT, Outcome.OK)
    assert resets == [1]


async def test_what_is_no_http2_is_an_error() -> None:
    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async with serving(script) as peer, client_of(peer.address, timeout_s=1.0) as (client, ends):
        send(client)
        (sample,) = await ends.wait_for(1)
        assert sample.outcome in {Outcome.ERROR, Outcome.TIMEOUT}
    address, held = refused_address()
    with held:
        async with client_of(address) as (client, ends):
            send(client, 2)
            assert {sample.cause for sample in await ends.wait_for(2)} == {Cause.CONNECT}


async def test_grpcios_server_answers_as_it_does_to_its_own_client() -> None:
    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(0)
        return request[::-1]

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"M": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            theirs = await channel.unary_unary("/s/M")(b"abc" * 30_000)
        async with client_of(("127.0.0.1", port), keep_bodies=True) as (client, ends):
            send(client, 50, frames.message(b"abc" * 30_000))
            assert {sample.body for sample in await ends.wait_for(50)} == {frames.message(theirs)}
            assert client.opened == 1
    finally:
        await server.stop(None)


START_BLOCK, END_BLOCK, SHED_BLOCK = (
    Encoder().encode([NeverIndexedHeaderTuple(*field) for field in fields])
    for fields in (START, TRAILERS, [("grpc-status", "14")])
)


def head_frame(stream: int, block: bytes = START_BLOCK, *, end: bool = False) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if end else 0), stream, block)


def data_frame(stream: int, data: bytes, flags: int = 0) -> bytes:
    return frames.frame(frames.DATA, flags, stream, data)


def usual(stream: int, message: bytes = MESSAGE) -> bytes:
    return head_frame(stream) + data_frame(stream, message) + head_frame(stream, END_BLOCK, end=True)


# What comes on streams 5 and 7 after the usual answers to 1 and 3, and how the calls end: (outcome, cause) or None.
WELL, OPEN = (Outcome.OK, None), None
LAYOUTS = {
    "usual": (usual(5) + usual(7), [WELL, WELL]),
    "another size": (usual(5, frames.message(b"x" * 300)) + usual(7, b""), [WELL, WELL]),
    "interleaved": (
        head_frame(5) + head_frame(7) + data_frame(7, MESSAGE) + data_frame(5, MESSAGE)
        + head_frame(7, END_BLOCK, end=True) + head_frame(5, END_BLOCK, end=True),
        [WELL, WELL],
    ),
    "two pieces": (
        head_frame(5) + data_frame(5, MESSAGE[:3]) + data_frame(5, MESSAGE[3:]) + head_frame(5, END_BLOCK, end=True),
        [WELL, OPEN],
    ),
    "padded": (
        head_frame(5) + data_frame(5, b"\2" + MESSAGE + b"\0\0", frames.PADDED) + head_frame(5, END_BLOCK, end=True),
        [WELL, OPEN],
    ),
    "no trailers": (
        head_frame(5) + data_frame(5, MESSAGE, frames.END_STREAM),
        [(Outcome.ERROR, Cause.TRUNCATED), OPEN],
    ),
    "trailers of another": (
        head_frame(5) + data_frame(5, MESSAGE) + head_frame(7, END_BLOCK, end=True),
        [OPEN, WELL],
    ),
    "refused after a message": (
        head_frame(5) + data_frame(5, MESSAGE) + head_frame(5, SHED_BLOCK, end=True) + usual(7),
        [(Outcome.SHED, None), WELL],
    ),
    "refused at once": (head_frame(5, SHED_BLOCK, end=True), [(Outcome.SHED, None), OPEN]),
    "a ping between": (
        head_frame(5) + frames.frame(frames.PING, 0, 0, bytes(8)) + data_frame(5, MESSAGE)
        + head_frame(5, END_BLOCK, end=True),
        [WELL, OPEN],
    ),
}  # fmt: skip


class Owner:
    """A client that only notes how calls end."""

    streams, head, keep_bodies = 64, HEAD, False

    def __init__(self) -> None:
        self.ends: dict[Sample, tuple[Outcome, Cause | None]] = {}

    def on_answered(self, sample: Sample, status: int, outcome: Outcome, read_ns: int) -> None:
        assert sample not in self.ends
        self.ends[sample] = (outcome, None)

    def on_failed(self, sample: Sample, cause: Cause) -> None:
        assert sample not in self.ends
        self.ends[sample] = (Outcome.ERROR, cause)

    def nothing(self, _: CallLink) -> None:
        """Of no interest here."""

    on_connected = on_lost = on_going = on_free = nothing


class Wire(asyncio.Transport):
    """Takes everything."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Away with it."""


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("piece", [1, 7, 50, 1 << 20])
async def test_answers_mean_the_same_in_every_layout_and_cut_anywhere(name: str, piece: int) -> None:
    more, expected = LAYOUTS[name]
    owner = Owner()
    link = CallLink(owner)
    link.connection_made(Wire())
    samples = [Sample(number) for number in range(4)]
    for sample in samples:
        link.send(MESSAGE, sample)
    data = frames.settings({}) + usual(1) + usual(3) + more
    for at in range(0, len(data), piece):
        link.data_received(data[at : at + piece])
    assert [owner.ends.get(sample) for sample in samples] == [WELL, WELL, *expected]
    assert link.room == 64 - expected.count(None)


async def test_a_usual_answer_is_usual_only_as_long_as_its_blocks_mean_the_same() -> None:
    """0x40 puts a field into the table, 0xbe names the newest there (RFC 7541 section 6): first OK, later a refusal."""

    def indexed(value: bytes) -> bytes:
        return b"\x40\x0bgrpc-status" + bytes([len(value)]) + value

    trailers = [indexed(b"0"), b"\xbe", b"\xbe", indexed(b"14"), b"\xbe", b"\xbe"]
    answers = [
        head_frame(stream) + data_frame(stream, MESSAGE) + head_frame(stream, block, end=True)
        for stream, block in zip(range(1, 13, 2), trailers, strict=True)
    ]
    for cut in (1, 3, 6):
        owner = Owner()
        link = CallLink(owner)
        link.connection_made(Wire())
        samples = [Sample(number) for number in range(6)]
        for sample in samples:
            link.send(MESSAGE, sample)
        for at in range(0, 6, cut):
            link.data_received(b"".join(answers[at : at + cut]))
        assert [owner.ends[sample][0] for sample in samples] == [Outcome.OK] * 3 + [Outcome.SHED] * 3


async def test_what_is_given_back_to_the_servers_window_is_what_it_has_sent() -> None:
    given: list[int] = []

    class Noting(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            credit = frames.FRAME_HEAD.pack(0, 4, frames.WINDOW_UPDATE, 0, 0)
            at = bytes(data).find(credit)
            if at >= 0:
                given.append(int.from_bytes(data[at + 9 : at + 13], "big"))

    link = CallLink(Owner())
    link.connection_made(Noting())
    given.clear()  # the greeting's
    sent, size = 0, 16_000
    while not given:
        link.send(MESSAGE, Sample(0))
        link.data_received(usual(2 * sent + 1, bytes(size)))
        sent += 1
    assert given == [sent * size]


def test_a_repeated_block_means_the_same_only_in_an_unchanged_table() -> None:
    # 0x40: literal with indexing "a: b"; 0xbe: the newest entry of the table (RFC 7541 section 6).
    heads = frames.Heads()
    first = heads.read(b"\x40\x01a\x01b")
    assert first is not None
    assert heads.read(b"\xbe").fields == [(b"a", b"b")]  # type: ignore[union-attr]
    assert heads.read(b"\xbe").fields == [(b"a", b"b")]  # type: ignore[union-attr]
    heads.read(b"\x40\x01c\x01d")
    assert heads.read(b"\xbe").fields == [(b"c", b"d")]  # type: ignore[union-attr]
    assert heads.read(b"\xff\xff\xff\xff\xff\xff") is None
