"""ModelStreamInfer: none, one or many answers to a request, told apart by id, over streams that stay open and streams
that end."""

from collections.abc import Awaitable, Callable

import h2.events
import pytest

from loadgen import h2 as frames
from loadgen.answers import Answer, place_of_id, read_answer
from loadgen.bodies import grpc_body
from loadgen.grpc_client import EndedStreams, OpenStreams, call
from loadgen.grpc_stream import OpenStreamLink
from loadgen.payload import Tensor
from loadgen.record import Cause, GrpcStatus, Outcome
from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tests.loadgen.peers import Line, serving
from tests.loadgen.test_grpc_client import HEAD, START, TRAILERS, Peer, client_of, peer_of, send
from tests.loadgen.test_run import eventually

REQUEST = frames.message(
    grpc_body("m", "", [(Tensor("x", "FP32", (1,)), [1.0])], 0, as_raw=True, is_stream=True)
)  # fmt: skip


def answer(
    ident: str = "", *, last: bool | None = None, outputs: int = 1, error: str = "", bare: bool = False
) -> bytes:
    told = ModelInferResponse(model_name="m", id=ident, raw_output_contents=[bytes(4)] * outputs)
    for _ in range(outputs):
        told.outputs.add(name="y", datatype="FP32", shape=[1])
    if last is not None:
        told.parameters["triton_final_response"].bool_param = last
    if bare:
        return frames.message(told.SerializeToString())
    wrapped = ModelStreamInferResponse(error_message=error)
    if not error or ident:
        wrapped.infer_response.CopyFrom(told if not error else ModelInferResponse(id=ident))
    return frames.message(wrapped.SerializeToString())


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (answer("a", last=True), Answer("a", "", True, True)),
        (answer("a", last=False), Answer("a", "", False, True)),
        (answer("a", last=True, outputs=0), Answer("a", "", True, False)),
        (answer("a", error="e" * 300), Answer("a", "e" * 300, None, False)),
        (answer(error="bad"), Answer("", "bad", None, False)),
        (answer("a", bare=True), Answer("a", "", None, True)),
        (answer(bare=True), Answer("", "", None, True)),
        (frames.message(b""), Answer("", "", None, False)),
    ],
)
def test_an_answer_is_read_wrapped_and_bare(message: bytes, read: Answer) -> None:
    assert read_answer(message[5:]) == read


def test_a_request_of_a_stream_asks_for_its_last_answer_and_its_id_can_be_replaced() -> None:
    place = place_of_id(REQUEST)
    named = REQUEST[:place] + b"12345678" + REQUEST[place + 8 :]
    request = ModelInferRequest.FromString(named[5:])
    assert (request.id, request.parameters["triton_enable_empty_final_response"].bool_param) == ("12345678", True)
    assert place_of_id(frames.message(grpc_body("m", "", [], 7, as_raw=True))) == -1


def streams(act: Callable[[Peer, int, str], None]) -> Callable[[Line], Awaitable[None]]:
    """A script that opens each stream with a head and calls `act` for each request with its id."""

    async def script(line: Line) -> None:
        peer = Peer(line)
        held: dict[int, bytes] = {}
        async for event in peer.events():
            if isinstance(event, h2.events.RequestReceived):
                peer.h2.send_headers(event.stream_id, START)
            elif isinstance(event, h2.events.DataReceived):
                data = held.pop(event.stream_id, b"") + event.data
                if len(data) == len(REQUEST):
                    act(peer, event.stream_id, ModelInferRequest.FromString(data[5:]).id)
                else:
                    held[event.stream_id] = data

    return script


async def rested(client: OpenStreams) -> None:
    """Wait until the end of the stream at rest has been read."""
    (link,) = client._connections
    assert isinstance(link, OpenStreamLink)
    await eventually(lambda: not link._resting)


async def test_an_open_stream_carries_one_request_after_the_other_up_to_its_last_answer() -> None:
    opened: set[int] = set()
    counts = iter([3, 1, 0, 2])

    def act(peer: Peer, stream: int, ident: str) -> None:
        opened.add(stream)
        data = b"".join(answer(ident, last=False) for _ in range(next(counts))) + answer(ident, last=True, outputs=0)
        for byte in data:  # cut everywhere
            peer.h2.send_data(stream, bytes([byte]))

    async with serving(streams(act)) as peer, client_of(peer.address, kind=OpenStreams) as (client, ends):
        for number in (1, 2, 3, 4):
            send(client, message=REQUEST)
            await ends.wait_for(number)
    assert [(sample.outcome, sample.tokens) for sample in ends.samples] == [(Outcome.OK, n) for n in (3, 1, 0, 2)]
    assert [bool(sample.first_ns) for sample in ends.samples] == [True, True, False, True]
    assert all(sample.first_ns <= sample.done_ns for sample in ends.samples)
    assert opened == {1}


async def test_an_answer_belongs_to_the_request_whose_id_it_bears() -> None:
    idents: list[str] = []

    def act(peer: Peer, stream: int, ident: str) -> None:
        # What comes late for the request before is not this one's: an error, whose mark follows, is such a case.
        late = answer(idents[-1], last=True, outputs=0) if idents else b""
        idents.append(ident)
        ends = answer(ident, error="bad") if len(idents) == 1 else answer(ident, last=True)
        peer.h2.send_data(stream, late + ends)

    async with serving(streams(act)) as peer, client_of(peer.address, kind=OpenStreams) as (client, ends):
        for number in (1, 2):
            send(client, message=REQUEST)
            await ends.wait_for(number)
    first, second = ends.samples
    assert (first.outcome, first.status, first.tokens) == (Outcome.ERROR, GrpcStatus.UNKNOWN, 0)
    assert (second.outcome, second.tokens) == (Outcome.OK, 1)
    assert len(set(idents)) == 2


@pytest.mark.parametrize(("count", "bare"), [(0, True), (1, True), (3, True), (3, False)])
async def test_a_stream_of_its_own_is_answered_until_it_ends(count: int, bare: bool) -> None:
    def act(peer: Peer, stream: int) -> None:
        peer.h2.send_headers(stream, START)
        for _ in range(count):
            peer.h2.send_data(stream, answer("same", bare=bare))
        peer.h2.send_headers(stream, TRAILERS, end_stream=True)

    async with serving(peer_of(act)) as peer, client_of(peer.address, kind=EndedStreams) as (client, ends):
        send(client, 5, REQUEST)
        for sample in await ends.wait_for(5):
            assert (sample.outcome, sample.status, sample.tokens) == (Outcome.OK, 0, count)
            assert bool(sample.first_ns) == bool(count)


async def test_an_error_inside_a_stream_is_one_whatever_its_trailers_say() -> None:
    def act(peer: Peer, stream: int) -> None:
        peer.h2.send_headers(stream, START)
        peer.h2.send_data(stream, answer(error="not today"))
        peer.h2.send_headers(stream, TRAILERS, end_stream=True)

    async with serving(peer_of(act)) as peer:
        async with client_of(peer.address, kind=EndedStreams) as (client, ends):
            send(client, message=REQUEST)
            (sample,) = await ends.wait_for(1)
            assert (sample.outcome, sample.status) == (Outcome.ERROR, GrpcStatus.UNKNOWN)
        probe = await call(peer.address, HEAD, REQUEST, 5.0, is_stream=True)
    assert (probe.outcome, dict(probe.headers)[b"grpc-message"]) == (Outcome.ERROR, b"not today")


async def test_what_is_no_answer_is_an_error() -> None:
    def act(peer: Peer, stream: int, _: str) -> None:
        peer.h2.send_data(stream, frames.message(b"\x12\xff"))

    async with serving(streams(act)) as peer, client_of(peer.address, kind=OpenStreams) as (client, ends):
        send(client, message=REQUEST)
        (sample,) = await ends.wait_for(1)
        assert (sample.outcome, sample.cause) == (Outcome.ERROR, Cause.INVALID)


async def test_an_open_stream_that_the_server_ends_fails_its_request_and_is_replaced() -> None:
    async with (
        serving(peer_of(lambda *_: None)) as peer,
        client_of(peer.address, kind=OpenStreams, timeout_s=0.1) as (client, ends),
    ):
        send(client, message=REQUEST)
        assert (await ends.wait_for(1))[0].outcome is Outcome.TIMEOUT

    async def ending(line: Line) -> None:
        peer = Peer(line)
        async for event in peer.events():
            if isinstance(event, h2.events.DataReceived):
                peer.h2.send_headers(event.stream_id, [*START, ("grpc-status", "14")], end_stream=True)

    async with serving(ending) as peer, client_of(peer.address, kind=OpenStreams) as (client, ends):
        for number in (1, 2):
            send(client, message=REQUEST)
            assert (await ends.wait_for(number))[-1].outcome is Outcome.SHED


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "reset"])
async def test_a_stream_that_ends_at_rest_carries_no_further_request(ends: bool) -> None:
    opened: set[int] = set()

    def act(peer: Peer, stream: int, ident: str) -> None:
        opened.add(stream)
        peer.h2.send_data(stream, answer(ident, last=True))
        if ends:
            peer.h2.send_headers(stream, TRAILERS, end_stream=True)
        else:
            peer.h2.reset_stream(stream, 2)

    async with serving(streams(act)) as peer, client_of(peer.address, kind=OpenStreams, streams=1) as (client, ends_of):
        for number in (1, 2):
            send(client, message=REQUEST)
            assert (await ends_of.wait_for(number))[-1].outcome is Outcome.OK
            await rested(client)
    assert opened == {1, 3}


async def test_a_request_that_is_answered_before_it_has_gone_out_leaves_no_rest_on_its_stream() -> None:
    """A window that is smaller than the message: the server answers, and the rest must not stand before the next."""
    sizes: dict[int, int] = {}
    resets: list[int] = []

    async def script(line: Line) -> None:
        peer = Peer(line)
        async for event in peer.events():
            if isinstance(event, h2.events.RequestReceived):
                peer.h2.send_headers(event.stream_id, START)
                peer.h2.send_data(event.stream_id, answer(error="too large"))
            elif isinstance(event, h2.events.DataReceived):
                sizes[event.stream_id] = sizes.get(event.stream_id, 0) + len(event.data)
            elif isinstance(event, h2.events.StreamReset):
                resets.append(event.stream_id)

    async with serving(script) as peer, client_of(peer.address, kind=OpenStreams) as (client, ends):
        await client.connect(1)
        for number in (1, 2):
            send(client, message=frames.message(bytes(500_000)))
            assert (await ends.wait_for(number))[-1].outcome is Outcome.ERROR
    assert set(sizes) == {1, 3}
    assert resets[:1] == [1]
