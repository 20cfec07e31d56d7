"""HTTP/1.1 attacks that are more than bytes: endings, pipelines, bodies of requests that are answered here."""

from functools import partial

from tests.hostile.case import TAIL, Case, Class, Play, Served
from tests.hostile.http1 import GET, NEXT, POST
from tests.hostile.recorder import OK, Request, Tape, respond
from tests.hostile.site import GOOD, Site, listen
from tests.sockets import eventually

MIB = 1 << 20
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"
CLOSE = GET + b"Connection: close\r\n\r\n"


def hold(tape: Tape, request: Request, stream: int) -> None:
    """A predictor that does not answer anything but the tail."""
    if request.target == b"/tail":
        tape.respond(stream)


async def cut_short(site: Site, part: bytes, how: str) -> None:
    """The client ends inside its request: the predictor never sees the request's end, the client no success."""
    client = await site.client()
    await client.send(part)
    if b"\r\n\r\n" in part:
        await eventually(lambda: site.recorder.requests)
    getattr(client, how)()
    if how == "half_close":
        heard = await listen(client)
        assert 200 not in heard.statuses
        client.close()
    await site.settle()
    await eventually(lambda: all(tape.ended for tape in site.recorder.tapes if tape.requests))
    assert not any(request.complete for request in site.recorder.requests)


PARTS = {
    "a length": INFER + b"Content-Length: 10\r\n\r\nhello",
    "chunks": INFER + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "the last chunk": INFER + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "a trailer": INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
    "a head": INFER + b"X: y",
}
CUT: list[Case] = [
    Play(f"{how} inside {name}", partial(cut_short, part=part, how=how))
    for name, part in PARTS.items()
    for how in ("half_close", "close", "reset")
]


async def in_order(site: Site) -> None:
    client = await site.client()
    paths = [b"/%d" % number for number in range(50)]
    await client.send(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths) + TAIL)
    heard = await listen(client)
    client.close()
    assert heard.statuses == [200] * 51
    assert [request.target for request in site.recorder.requests] == [*paths, b"/tail"]


async def fault_behind(site: Site, fault: bytes) -> None:
    """What came before is answered, the fault is, and what is behind it is not looked at."""
    client = await site.client()
    await client.send(GET + b"\r\n" + fault + NEXT)
    heard = await listen(client)
    client.close()
    await site.settle()
    assert heard.statuses == [200, 400]
    assert [request.target for request in site.recorder.requests] == [b"/"]


async def read_ahead(site: Site) -> None:
    """Behind a request that runs, a pipeline stays in the client's socket."""
    site.recorder.answer = hold
    client = await site.client()
    await client.send(GET + b"\r\n")
    await eventually(lambda: site.recorder.requests)
    await client.stuff((GET + b"\r\n") * 100, most=16 << 20)
    assert len(site.recorder.requests) == 1
    [connection] = site.bed.server.connections
    assert len(connection._machine.held) < 256 * 1024
    client.reset()
    site.recorder.answer = respond
    site.recorder.busy().write(OK)


PIPELINES: list[Case] = [
    Play("50 requests in a read", in_order),
    Play("a malformed request in the middle", partial(fault_behind, fault=b"GET / HTTP/1.1\r\n\r\n")),
    Play("a smuggled request in the middle", partial(fault_behind, fault=POST + b"Content-Length: 1, 2\r\n\r\n")),
    Served("a request behind close", CLOSE + NEXT, GET + b"\r\n", ends=True),
    Served("a request behind HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n" + NEXT, GET + b"\r\n", ends=True),
    Served("a fault behind close", CLOSE + b"\0\0\0\0\r\n\r\n", GET + b"\r\n", ends=True),
    Play("a pipeline without end", read_ahead),
]


async def answered_here(site: Site, head: bytes, status: int, body: bytes = NEXT) -> None:
    """The answer is the agent's own; the body, which looks like a request, is read as one by nobody."""
    client = await site.client()
    await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body + TAIL)
    heard = await listen(client)
    client.close()
    assert heard.statuses[0] == status
    assert heard.statuses[1:] in ([], [200])
    assert [request.target for request in site.recorder.requests] == [b"/tail"] * (len(heard.statuses) - 1)


async def refused_full(site: Site, framing: bytes, body: bytes) -> None:
    """One request runs and the queue has no room; what is refused has a body that looks like a request."""
    site.recorder.answer = hold
    first = await site.client()
    await first.send(INFER + b"Content-Length: 0\r\n\r\n")
    await eventually(lambda: site.recorder.requests)
    client = await site.client()
    await client.send(INFER + framing + b"\r\n\r\n" + body + TAIL)
    heard = await listen(client, count=1)
    assert heard.statuses[0] == 503
    assert (b"x-headgate-reason", b"queue_full") in heard.answers[0].fields
    [running] = [tape for tape in site.recorder.tapes if tape.requests and tape.requests[-1].target != b"/tail"]
    running.write(OK)
    assert (await listen(first, count=1)).statuses == [200]
    first.close()
    client.close()
    await site.settle()
    targets = [request.target for request in site.recorder.requests]
    assert [target for target in targets if target != b"/tail"] == [b"/v2/models/m/infer"]


PAGE = b"GET /.headgate/load HTTP/1.1\r\nHost: a\r\n"
LOCAL: list[Case] = [
    Play("the load page", partial(answered_here, head=PAGE, status=200)),
    Play("the load page, and a large body", partial(answered_here, head=PAGE, status=200, body=NEXT * 20_000)),
    Play("an expectation", partial(answered_here, head=POST + b"Expect: a-pony\r\n", status=417)),
    Play("queue full", partial(refused_full, framing=b"Content-Length: %d" % len(NEXT), body=NEXT)),
    Play(
        "queue full, in chunks",
        partial(
            refused_full,
            framing=b"Transfer-Encoding: chunked",
            body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(NEXT), NEXT),
        ),
    ),
    Play(
        "queue full, with 100-continue",
        partial(refused_full, framing=b"Expect: 100-continue\r\nContent-Length: 9", body=NEXT),
    ),
]


async def early(site: Site, body: bytes) -> None:
    """The predictor answers at the head: the client gets that, and the rest of its body is nobody's request."""
    site.recorder.early = True
    site.recorder.answer = lambda tape, request, stream: tape.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
    client = await site.client()
    await client.send(INFER + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)
    heard = await listen(client, count=1)
    assert heard.statuses == [413]
    assert (b"Connection", b"close") in heard.answers[0].fields
    await client.send(b"!" + TAIL)
    await listen(client)
    client.close()
    await site.settle()
    await eventually(lambda: all(tape.ended for tape in site.recorder.tapes if tape.requests))
    assert len(site.recorder.requests) == 1


EARLY: list[Case] = [
    Play("with a request in the body", partial(early, body=NEXT)),
    Play("with nothing", partial(early, body=b"")),
]


async def unending(site: Site, data: bytes) -> None:
    """A head that is too large already is answered, and its end is not waited for."""
    client = await site.client()
    await client.send(data)
    heard = await listen(client)
    client.close()
    assert heard.statuses == [431]
    assert not site.recorder.requests


async def upload_to_nobody(site: Site) -> None:
    """A predictor that does not read: the client's bytes stay with the client, and others are served."""
    site.recorder.early = True
    site.recorder.answer = lambda tape, request, stream: tape.transport.pause_reading()
    client = await site.client()
    await client.send(INFER + b"Content-Length: %d\r\n\r\n" % (256 * MIB))
    await eventually(lambda: site.recorder.requests)
    [connection] = site.bed.server.connections
    await client.stuff(b"x" * 100_000, most=48 * MIB, until=lambda: connection._paused)
    site.recorder.answer = respond
    site.recorder.early = False
    other = await site.client()
    await other.send(GOOD)
    assert (await listen(other)).statuses == [200]
    other.close()
    client.reset()
    for tape in site.recorder.tapes:
        if not tape.ended:
            tape.transport.abort()


async def answer_to_nobody(site: Site) -> None:
    """A client that does not read: the predictor's bytes stay with the predictor, and others are served."""
    unsent: list[int] = []

    def answer(tape: Tape, request: Request, stream: int) -> None:
        tape.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + bytes(64 * MIB))

    site.recorder.answer = answer
    client = await site.client()
    await client.send(GET + b"\r\n")
    await eventually(lambda: site.recorder.requests)
    [connection] = site.bed.server.connections
    tape = site.recorder.busy()

    def is_at_rest() -> bool:
        unsent.append(connection.unsent + tape.transport.get_write_buffer_size())
        return len(unsent) > 100 and len(set(unsent[-100:])) == 1

    await eventually(is_at_rest)
    assert connection.unsent < MIB
    assert tape.transport.get_write_buffer_size() > 16 * MIB
    site.recorder.answer = respond
    other = await site.client()
    await other.send(GOOD)
    assert (await listen(other)).statuses == [200]
    other.close()
    client.reset()


UNENDING: list[Case] = [
    Play("in fields", partial(unending, data=GET + b"a:\r\n" * 200)),
    Play("in a line", partial(unending, data=GET + b"X: " + b"y" * 70_000)),
]

CLASSES = [
    Class("heads that do not end", "memory for thirty times the bytes", UNENDING),
    Class(
        "sides that do not read",
        "Shekyan 2011",
        [Play("an upload", upload_to_nobody), Play("an answer", answer_to_nobody)],
    ),
    Class("bodies cut short by their client", "RFC 9112 8", CUT),
    Class("pipelines", "Netty and Node families", PIPELINES),
    Class("bodies of requests that are answered here", "Kettle 2022 (CL.0)", LOCAL, {"limit": "1", "queue": "0"}),
    Class("answers before the body", "Kettle 2025 (0.CL), RFC 9112 9.6", EARLY),
]
