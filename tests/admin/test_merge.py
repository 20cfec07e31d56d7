"""Pages that are merged, over real sockets: whatever they do, the scrape comes in time and with our own metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic

import pytest

from agent.admin import merge
from agent.admin.merge import Merged, Merger, PageState
from agent.values import Page, page
from tests.sockets import FakePredictor, Message, Peer, eventually

Answer = Callable[[Message, Peer], Awaitable[None]]
GOOD = b"# TYPE nv_inference_count counter\nnv_inference_count 3\n"


def answer(body: bytes, status: bytes = b"200 OK", *fields: bytes) -> Answer:
    """Answers everything with this."""

    async def send(_: Message, peer: Peer) -> None:
        head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", b""]
        await peer.send(b"\r\n".join(head) + body)

    return send


@contextlib.asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[tuple[Merger, list[FakePredictor]]]:
    """A predictor for each answer, and who merges their pages."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = []
        for each in answers:
            predictor = FakePredictor().listen()
            stack.callback(predictor.close)
            await stack.enter_async_context(predictor.serve(each))
            predictors.append(predictor)
        merger = Merger([page(f"{predictor.url}/metrics") for predictor in predictors])
        stack.push_async_callback(merger.close)
        yield merger, predictors


async def merged(*answers: Answer) -> Merged:
    async with serving(*answers) as (merger, _):
        return await merger.merged()


async def test_a_page_is_fetched_and_told() -> None:
    async with serving(answer(GOOD)) as (merger, [predictor]):
        for _ in range(2):
            result = await merger.merged()
            assert "\n".join(result.lines) + "\n" == GOOD.decode()
            assert result.pages == [PageState(f"{predictor.url}/metrics", True, 0)]
        assert predictor.requests[0].target == b"/metrics"
        assert predictor.requests[0].values(b"x-headgate-merging") == [b"1"]
        assert len(predictor.requests) == 2


async def stall(_: Message, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na 1\n")


async def truncate(_: Message, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na 1\n")
    peer.half_close()


async def hang(_: Message, peer: Peer) -> None:
    """Takes the request and says nothing."""


async def nonsense(_: Message, peer: Peer) -> None:
    await peer.send(b"\x00\x00\x12\x04" * 20)
    peer.half_close()


async def endless(_: Message, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            await peer.send(b"10000\r\n" + b'a{x="1"} 1234567\n' * 0x1000 + b"\r\n")


DOWN = {
    "a status": answer(GOOD, b"503 Service Unavailable"),
    "a redirect": answer(b"", b"302 Found", b"Location: /other"),
    "a stall": stall,
    "silence": hang,
    "a truncated body": truncate,
    "no HTTP": nonsense,
    "no end": endless,
    "no metrics": answer(b"<html>hello</html>\n" * 10),
    "protobuf": answer(b"\x0a\x07headg\x12\x00" * 10, b"200 OK", b"Content-Type: application/vnd.google.protobuf"),
}


@pytest.mark.parametrize("case", DOWN)
async def test_a_page_that_cannot_be_read_is_down_and_holds_up_nobody(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "TIMEOUT_S", 0.2)
    begun = monotonic()
    good, bad = (await merged(answer(GOOD), DOWN[case])).pages
    assert (good.is_up, bad.is_up) == (True, False)
    assert monotonic() - begun < 5.0


async def test_nobody_listens() -> None:
    predictor = FakePredictor()
    merger = Merger([page(f"{predictor.url}/metrics")])
    try:
        assert await merger.merged() == Merged([], [PageState(f"{predictor.url}/metrics", False, 0)])
        predictor.listen()
        async with predictor.serve(answer(GOOD)):
            assert (await merger.merged()).pages[0].is_up
    finally:
        await merger.close()
        predictor.close()


async def test_bad_lines_are_counted_and_the_rest_is_told() -> None:
    result = await merged(answer(b'a 1\r\nb one\r\n\xff\xfe\r\nc{x="\xff"} 2\r\n'))
    assert result.pages[0][1:] == (True, 2)
    assert "\n".join(result.lines) == '# TYPE a untyped\na 1\n# TYPE c untyped\nc{x="\ufffd"} 2'


async def test_an_empty_page_is_up() -> None:
    assert (await merged(answer(b""))).pages[0][1:] == (True, 0)


async def test_the_largest_page_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_BYTES", 64 * 1024)
    for size, is_up in ((64 * 1024, True), (64 * 1024 + 1, False)):
        body = b"a 1\n#".ljust(size, b"x")
        assert (await merged(answer(body))).pages[0].is_up is is_up


async def test_all_who_ask_meanwhile_get_the_same() -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def when_told(request: Message, peer: Peer) -> None:
        asked.set()
        await told.wait()
        await answer(GOOD)(request, peer)

    async with serving(when_told) as (merger, [predictor]):
        askers = [asyncio.ensure_future(merger.merged()) for _ in range(5)]
        await asked.wait()
        askers[0].cancel()  # one that leaves takes nothing from the others
        told.set()
        results = await asyncio.gather(*askers[1:])
        assert all(result is results[0] for result in results)
        assert len(predictor.requests) == 1


async def test_closing_gives_up_what_is_under_way() -> None:
    async with serving(hang) as (merger, [predictor]):
        asker = asyncio.ensure_future(merger.merged())
        await eventually(lambda: predictor.requests)
        await merger.close()
        assert isinstance((await asyncio.gather(asker, return_exceptions=True))[0], asyncio.CancelledError)


def test_without_pages_there_is_nothing_to_merge() -> None:
    assert not Merger([]).has_pages
    assert Merger([Page(page("http://127.0.0.1:1/m").address, "/m")]).has_pages
