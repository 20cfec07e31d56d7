"""Admission as gRPC clients see it: who waits and for what, what a refusal says, and what deadlines do."""

import json

import pytest

from agent.errors import Outcome
from tests.net.bed import INFER as V2_INFER
from tests.net.bed import OK, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import (
    GRPC_OK,
    INFER,
    LIVE,
    STREAM_INFER,
    Half,
    framed,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import FakePredictor, eventually
from tests.wire import frames_by_hand as raw

SERVING = b"/tensorflow.serving.PredictionService/"
TORCH = b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
BYPASSING = [
    LIVE,
    b"/inference.GRPCInferenceService/ModelMetadata",
    b"/inference.GRPCInferenceService/RepositoryModelLoad",
    b"/grpc.health.v1.Health/Check",
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    SERVING + b"GetModelMetadata",
    TORCH + b"Ping",
    b"/somebody.Elses/Method",
]
ADMITTED = [
    INFER,
    STREAM_INFER,
    *(SERVING + name for name in (b"Predict", b"Classify", b"Regress", b"MultiInference")),
    *(TORCH + name for name in (b"Predictions", b"StreamPredictions")),
]


def check_refusal(half: Half, status: int, reason: bytes, *, retry: bool) -> None:
    """Trailers alone, in one frame."""
    assert half.fields[:3] == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % status),
    ]
    assert (half.trailers, half.body, half.reason) == (None, b"", reason)
    assert half.value(b"grpc-message")
    pushback = half.value(b"grpc-retry-pushback-ms")
    assert (pushback is not None and int(pushback) >= 100) if retry else pushback is None


@pytest.mark.parametrize("path", BYPASSING)
async def test_calls_that_are_no_inference_pass_a_full_queue(h2bed: Http2Opener, path: bytes) -> None:
    agent = await h2bed(limit="1", queue="1")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    [queued] = await agent.queue_calls(client, 1)
    half = await client.send(grpc_head(path), end=False)  # nor do they wait for their message
    assert (await server.head()).value(b":path") == path
    assert (agent.admission.inflight, agent.admission.queued) == (1, 1)
    await client.send_data(half, framed(b""), end=True)
    await server.until(lambda: server.requests[-1].is_complete)
    await server.respond(server.requests[-1])
    await client.answer(half)
    await server.respond(request)
    await server.respond(await server.request())
    for each in (running, queued):
        assert (await client.answer(each)).grpc_status == 0


@pytest.mark.parametrize("path", ADMITTED)
async def test_calls_that_are_inference_wait(h2bed: Http2Opener, path: bytes) -> None:
    agent = await h2bed(limit="1", queue="1")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.call(path=path)
    await eventually(lambda: agent.admission.queued)
    assert len(server.requests) == 2
    await server.respond(request)
    admitted = await server.request()
    assert admitted.value(b":path") == path
    await server.respond(admitted)
    for each in (running, half):
        await client.answer(each)


async def test_the_queue_is_first_in_first_out_over_connections(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="2")
    client, server = await agent.pair()
    other = await agent.caller()
    begun = [await agent.occupy_slot(client, server), await agent.occupy_slot(other, server)]
    waiting = []
    for index in range(6):
        caller = (client, other)[index % 2]
        waiting.append((caller, await caller.call(b"%d" % index)))
        await eventually(lambda: agent.admission.queued > index)  # noqa: B023 - looked at in this turn only
    assert (agent.admission.inflight, agent.admission.queued) == (2, 6)
    running = [request for _, request in begun]
    for index in range(6):
        await server.respond(running.pop(0))
        request = await server.request()
        assert bytes(request.body) == infer(b"%d" % index)
        running.append(request)
        assert agent.admission.inflight == 2
    for request in running:
        await server.respond(request)
    for caller, half in waiting:
        assert (await caller.answer(half)).grpc_status == 0


async def test_both_protocols_wait_in_one_queue(h2bed: Http2Opener) -> None:
    other = FakePredictor().listen()
    agent = await h2bed(limit="1", other=other)
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    plain = await agent.client()
    await plain.send(post(b"x"))
    await eventually(lambda: agent.admission.queued == 1)
    half = await client.call(b"behind")
    await eventually(lambda: agent.admission.queued == 2)
    await server.respond(request)
    peer = await other.accept()
    assert (await peer.request()).target == V2_INFER
    assert agent.admission.queued == 1
    await peer.send(OK)
    assert (await plain.response()).raw == OK
    request = await server.request()
    assert bytes(request.body) == infer(b"behind")
    await server.respond(request)
    for each in (running, half):
        await client.answer(each)


async def test_what_waits_gets_no_window_until_it_is_dispatched(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", queued_body="64KiB")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    body = infer(bytes(range(256)) * 4000)
    half = await client.send(grpc_head(), end=False)
    sent = await client.stuff(half, body)
    assert 65_535 <= sent <= 65_536
    for _ in range(3):
        await client.settled()
    assert (half.credits, agent.admission.queued) == ([], 1)
    assert agent.admission.queued_bytes == sent
    await server.respond(request)
    await client.answer(running)
    agent.start(client.send_data(half, body[sent:], end=True))
    request = await server.request()
    assert bytes(request.body) == body
    assert half.credits
    assert agent.admission.queued_bytes == 0
    await agent.sent()
    await server.respond(request)
    await client.answer(half)


async def test_many_waiting_uploads_hold_their_windows_and_no_more(h2bed: Http2Opener) -> None:
    """All on one connection; a call that need not wait still goes through."""
    count = 300
    agent = await h2bed(limit="1", queue=str(count), queued_body="64KiB")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    halves = []
    for _ in range(count):
        half = await client.send(grpc_head(), end=False)
        await client.send_data(half, infer(b"x" * 100_000)[:65_535])
        halves.append(half)
    await client.settled()
    assert agent.admission.queued == count
    assert agent.admission.queued_bytes <= count * 65_536
    probe = await client.send(grpc_head(LIVE))
    await server.respond(await server.request())
    assert (await client.answer(probe)).grpc_status == 0
    for half in halves:
        await client.reset(half)
    await client.settled()
    assert (agent.admission.queued, agent.admission.queued_bytes) == (0, 0)
    await server.respond(request)
    await client.answer(running)
    assert len(server.requests) == 3


async def test_the_bytes_of_the_queue_are_bounded(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", queue="100", queue_bytes="64KiB", queued_body="32KiB")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    waiting = [await client.call(b"x" * (32 * 1024 - len(infer(b"x" * 20_000)) + 20_000)) for _ in range(2)]
    await eventually(lambda: agent.admission.queued_bytes == 64 * 1024)
    half = await client.answer(await client.call())
    check_refusal(half, 14, b"queue_full", retry=True)
    for each in (running, *waiting):
        await server.respond(request)
        await client.answer(each)
        if each is not waiting[-1]:
            request = await server.request()
    assert agent.outcomes == [Outcome.QUEUE_FULL, *[Outcome.SERVED] * 3]


async def test_a_queued_call_that_is_cancelled_leaves_at_once(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    first, second = await agent.queue_calls(client, 2)
    await client.reset(first)
    await client.settled()
    assert (agent.admission.queued, agent.outcomes, agent.codes) == (1, [Outcome.CLIENT_GONE], [1])
    await server.respond(request)
    request = await server.request()
    assert bytes(request.body) == infer(b"queued 1")
    await server.respond(request)
    for half in (running, second):
        assert (await client.answer(half)).grpc_status == 0
    await server.settled()
    assert len(server.requests) == 3


# Refusals


@pytest.mark.parametrize(("overload", "status"), [("503", 14), ("429", 8)])
@pytest.mark.parametrize("path", ADMITTED)
async def test_a_refusal_is_trailers_alone(h2bed: Http2Opener, path: bytes, overload: str, status: int) -> None:
    agent = await h2bed(limit="1", queue="0", overload_status=overload)
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    for _ in range(2):
        half = await client.answer(await client.call(path=path))
        check_refusal(half, status, b"queue_full", retry=True)
        assert half.reset is None
    assert agent.codes == [status] * 2
    await server.respond(request)
    assert (await client.answer(running)).grpc_status == 0
    await server.settled()
    assert len(server.requests) == 2


async def test_a_refusal_while_the_upload_goes_on(h2bed: Http2Opener) -> None:
    """The answer comes whole, and then the client is told to stop (RFC 9113 section 8.1)."""
    agent = await h2bed(limit="1", queue="0")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.call(b"begun", end=False)
    await client.until(lambda: half.reset is not None)
    check_refusal(half, 14, b"queue_full", retry=True)
    assert (half.is_complete, half.reset) == (True, raw.NO_ERROR)
    await server.respond(request)
    await client.answer(running)


@pytest.mark.parametrize(("overload", "status"), [("503", 503), ("429", 429)])
async def test_others_than_grpc_are_refused_in_json(h2bed: Http2Opener, overload: str, status: int) -> None:
    agent = await h2bed(limit="1", queue="0", overload_status=overload)
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.answer(await client.send(plain_head(), b"{}"))
    assert half.status == status
    assert half.reason == b"queue_full"
    assert half.value(b"content-type") == b"application/json"
    assert int(half.value(b"content-length") or 0) == len(half.body)
    assert int(half.value(b"retry-after") or 0) >= 1
    assert list(json.loads(half.body)) == ["error"]
    await server.respond(request)
    await client.answer(running)
    assert agent.statuses == [status, 200]


# Deadlines


@pytest.mark.parametrize(
    ("deadline", "own"), [("100ms", None), ("100ms", b"60S"), ("60s", b"100m"), ("60s", b"100000u")]
)
async def test_the_earlier_deadline_ends_the_wait(h2bed: Http2Opener, deadline: str, own: bytes | None) -> None:
    agent = await h2bed(limit="1", deadline=deadline)
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.call(b"late", *([(b"grpc-timeout", own)] if own else []))
    check_refusal(await client.answer(half), 4, b"expired", retry=False)
    assert (agent.outcomes, agent.codes) == ([Outcome.EXPIRED], [4])
    await server.respond(request)
    await client.answer(running)
    await server.settled()
    assert len(server.requests) == 2


async def test_a_deadline_of_no_time_is_over_before_it_waits(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.call(b"", (b"grpc-timeout", b"0n"))
    assert (await client.answer(half)).grpc_status == 4
    await server.respond(request)
    await client.answer(running)


@pytest.mark.parametrize("given", [b"5S", b"5000000u", b"99999999H", b"not one", b"5"])
async def test_a_deadline_is_forwarded_as_it_came_when_nothing_waited(
    h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch, given: bytes
) -> None:
    monkeypatch.setattr("agent.wire.fields._SAME_TIME_S", 60.0)  # a busy machine may take a millisecond
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call(b"", (b"x-a", b"1"), (b"grpc-timeout", given), (b"x-b", b"2"))
    request = await server.request()
    assert request.fields == grpc_head(INFER, (b"x-a", b"1"), (b"grpc-timeout", given), (b"x-b", b"2"))
    await server.respond(request)
    await client.answer(half)


async def test_a_deadline_is_forwarded_less_the_wait(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    half = await client.call(b"", (b"x-a", b"1"), (b"grpc-timeout", b"30S"), (b"x-b", b"2"))
    await eventually(lambda: agent.admission.queued)
    [ticket] = agent.admission.waiting()
    ticket.owner.began -= 10.0  # it has waited for so long
    await server.respond(request)
    request = await server.request()
    assert [name for name, _ in request.fields] == [
        name for name, _ in grpc_head(INFER, (b"x-a", b""), (b"grpc-timeout", b""), (b"x-b", b""))
    ]
    left = request.value(b"grpc-timeout")
    assert left is not None
    assert left.endswith(b"u")
    assert 15e6 < int(left[:-1]) <= 20e6
    await server.respond(request)
    for each in (running, half):
        await client.answer(each)


# Names


PIECES = {
    "head and message apart": [0],
    "the prefix alone": [5],
    "inside the prefix": [3],
    "inside the name": [10],
    "byte by byte": list(range(1, 14)),
}


@pytest.mark.parametrize("cuts", PIECES.values(), ids=list(PIECES))
async def test_the_name_of_the_model_may_come_in_pieces(h2bed: Http2Opener, cuts: list[int]) -> None:
    agent = await h2bed(limit="4", model_limits="resnet=1")
    client, server = await agent.pair()
    body = infer(b"tail", b"resnet")
    half = await client.send(grpc_head(), end=False)
    await client.settled()
    assert agent.gate.active == 1
    begin = 0
    for cut in cuts:
        await client.send_data(half, body[begin:cut])
        await client.settled()
        begin = cut
    assert agent.admission.inflight == (13 in cuts)
    await client.send_data(half, body[begin:], end=True)
    request = await server.request()
    assert bytes(request.body) == body
    [usage] = [each for each in agent.server.usages["grpc"].rows(0.0) if each.name == "resnet"]
    assert usage.inflight == 1
    await server.respond(request)
    await client.answer(half)


async def test_a_name_that_does_not_come_is_not_waited_for(h2bed: Http2Opener) -> None:
    """A stream may want an answer before it sends a message."""
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(STREAM_INFER), end=False)
    await client.settled()
    assert agent.admission.inflight == 0
    agent.later(2)
    request = await server.head()
    assert agent.admission.inflight == 1
    await client.send_data(half, infer(b"x"), end=True)
    await server.until(lambda: request.is_complete)
    await server.respond(request)
    await client.answer(half)


@pytest.mark.parametrize(
    ("path", "body"),
    [(INFER, b""), (INFER, b"\0\0"), (INFER, framed(b"")), (INFER, b"\1\0\0\0\3abc"), (STREAM_INFER, b"")],
)
async def test_calls_that_name_no_model_count_all_the_same(h2bed: Http2Opener, path: bytes, body: bytes) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    half = await client.send(grpc_head(path), body)
    request = await server.request()
    assert (bytes(request.body), agent.admission.inflight) == (body, 1)
    await server.respond(request, trailers=[(b"grpc-status", b"3")])
    assert (await client.answer(half)).grpc_status == 3


async def test_metadata_names_the_model_before_the_message(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    for path in (INFER, b"/some.Predictors/Own", b"/grpc.health.v1.Health/Check"):
        half = await client.send(grpc_head(path, (b"mm-model-id", b"mesh")), end=False)
        request = await server.head()
        assert agent.admission.inflight == (path != b"/grpc.health.v1.Health/Check")
        await client.send_data(half, framed(b""), end=True)
        await server.until(lambda: request.is_complete)  # noqa: B023 - waited for in this turn
        await server.respond(request)
        await client.answer(half)
    assert [usage.name for usage in agent.server.usages["grpc"].rows(0.0)] == ["mesh", "_other"]


async def test_a_model_at_its_limit_holds_up_nobody_else(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="3", model_limits="big=1")
    client, server = await agent.pair()
    big = [await client.send(grpc_head(), infer(b"%d" % n, b"big")) for n in range(2)]
    first = await server.request()
    await eventually(lambda: agent.admission.queued)
    running, request = await agent.occupy_slot(client, server)
    await server.respond(request)
    await client.answer(running)
    assert agent.admission.queued == 1
    await server.respond(first)
    request = await server.request()
    assert bytes(request.body) == infer(b"1", b"big")
    await server.respond(request)
    for half in big:
        await client.answer(half)


# What is booked


@pytest.mark.parametrize("code", [0, 3, 5, 16])
async def test_labels_are_learnt_from_ok_alone(h2bed: Http2Opener, code: int) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call()
    await server.respond(await server.request(), b"x", trailers=[(b"grpc-status", b"%d" % code)])
    await client.answer(half)
    names = [usage.name for usage in agent.server.usages["grpc"].rows(0.0)]
    assert names == (["m", "_other"] if code == 0 else ["_other"])
    assert (agent.codes, agent.statuses) == ([code], [200])
    assert [usage.name for usage in agent.server.usages["http"].rows(0.0)] == ["_other"]


async def test_the_metrics_tell_grpc_apart(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", queue="0")
    client, server = await agent.pair()
    for code in (0, 5):
        half = await client.call()
        await server.respond(await server.request(), trailers=[(b"grpc-status", b"%d" % code)])
        await client.answer(half)
    running, request = await agent.occupy_slot(client, server)
    refused = await client.call()
    await client.answer(refused)
    await server.respond(request)
    await client.answer(running)
    page = await agent.page(b"/metrics")
    for line in (
        b'headgate_requests_total{code="0",model="m",outcome="served",protocol="grpc"} 2.0',
        b'headgate_requests_total{code="5",model="m",outcome="served",protocol="grpc"} 1.0',
        b'headgate_requests_total{code="14",model="m",outcome="queue_full",protocol="grpc"} 1.0',
        b'headgate_requests_inflight{model="m",protocol="grpc"} 0.0',
    ):
        assert line in page.splitlines(), page.decode()


async def test_the_messages_of_a_stream_are_counted(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="4")
    client, server = await agent.pair()
    outstanding = agent.server.usages["grpc"].other
    half = await client.send(grpc_head(STREAM_INFER), end=False)
    await client.send_data(half, infer(b"1"))
    request = await server.head()
    assert (outstanding.outstanding, agent.admission.inflight) == (1, 1)
    await client.send_data(half, infer(b"2") + infer(b"3")[:4])
    await client.settled()
    assert outstanding.outstanding == 2
    await client.send_data(half, infer(b"3")[4:])
    await client.settled()
    assert (outstanding.outstanding, agent.admission.inflight) == (3, 1)
    await server.send_head(request, [(b":status", b"200"), (b"content-type", b"application/grpc")])
    await server.send_data(request, framed(b"answer 1") + framed(b"answer 2")[:9])
    await server.settled()
    assert outstanding.outstanding == 2
    await server.send_data(request, framed(b"answer 2")[9:])
    await server.settled()
    assert outstanding.outstanding == 1
    await client.send_data(half, b"", end=True)
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_OK, end=True)
    await client.answer(half)
    assert (outstanding.outstanding, agent.admission.inflight) == (0, 0)
    assert outstanding.service_s == 0.0  # how long a stream stays open says nothing of the model
