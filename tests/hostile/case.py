"""What a case is, and the verdict that is the same for all: at most what may reach the predictor has reached it, whole
or visibly cut; the client was told or cut off; nothing after a fault was looked at; and the agent serves on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.errors import REPLIES, Outcome
from tests.hostile.site import Heard, Site, listen
from tests.sockets import Peer

# What follows a case on its connection. It asks for the end, so that every case ends by itself.
TAIL = b"GET /tail HTTP/1.1\r\nHost: tail\r\nConnection: close\r\n\r\n"
# Larger cases are not sent byte by byte: they are about size, and it would take seconds.
_SMALL = 600


class Case:
    """One attack. `play` raises AssertionError where the agent does not withstand it."""

    name: str

    async def play(self, site: Site) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Class:
    """A class of attacks: `source` is where it was described first, or the rule that it breaks."""

    name: str
    source: str
    cases: Sequence[Case]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Play(Case):
    """A case that is more than bytes; what it does ends with nothing under way."""

    name: str
    act: Callable[[Site], Awaitable[None]]

    async def play(self, site: Site) -> None:
        await self.act(site)
        assert not site.recorder.errors, site.recorder.errors
        await site.check()


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, split after each line end, split inside each line end, and byte by byte."""
    yield [data]
    yield data.replace(b"\r\n", b"\r\n\xfe\xfd").split(b"\xfe\xfd")
    if len(data) <= _SMALL:
        yield data.replace(b"\r\n", b"\r\xfe\xfd\n").split(b"\xfe\xfd")
        yield [data[at : at + 1] for at in range(len(data))]


async def deliver(client: Peer, pieces: list[bytes]) -> None:
    """Send each piece when the one before has been read. A connection that the agent ends meanwhile is no failure."""
    try:
        for piece in pieces:
            if piece:
                await client.send(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    except ConnectionError:
        pass


@dataclass(frozen=True, slots=True)
class Http1Case(Case):
    """Bytes of an HTTP/1.1 client."""

    name: str
    data: bytes

    async def play(self, site: Site) -> None:
        for pieces in cuts(self.data):
            client = await site.client()
            await deliver(client, [*pieces, TAIL])
            heard = await listen(client, self.data.split(b" ", 1)[0] if self.data[:4] == b"HEAD" else b"GET")
            client.close()
            await site.settle()
            try:
                assert not site.recorder.errors, site.recorder.errors
                self.judge(site, heard)
            except AssertionError as error:
                error.add_note(f"in {len(pieces)} pieces; heard {heard}; reached {site.recorder.requests}")
                raise
            site.recorder.forget()
        await site.check()

    def judge(self, site: Site, heard: Heard) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Refused(Http1Case):
    """Nothing of it reaches the predictor; the client gets this answer alone, and the end of the connection."""

    outcomes: tuple[Outcome, ...] = (Outcome.BAD_REQUEST,)

    def judge(self, site: Site, heard: Heard) -> None:
        assert not site.recorder.requests
        assert heard.statuses[:1] == [REPLIES[site.bed.faults[-1]].http]
        assert len(heard.answers) == 1
        assert not heard.is_half
        assert site.bed.faults[-1] in self.outcomes
        assert (b"Connection", b"close") in heard.answers[0].fields


@dataclass(frozen=True, slots=True)
class Undone(Http1Case):
    """The request goes wrong in its body: the predictor never sees its end, and nothing of what follows."""

    def judge(self, site: Site, heard: Heard) -> None:
        assert len(site.recorder.requests) <= 1
        assert not any(request.complete for request in site.recorder.requests)
        assert heard.statuses == [400]
        assert not heard.is_half


@dataclass(frozen=True, slots=True)
class Served(Http1Case):
    """Well-formed, however odd: the predictor gets exactly this head and body, and no trailers; `ends` says that
    the connection does then, and nothing that follows is looked at. `head` is None where the case only counts.
    """

    head: bytes | None = None
    body: bytes = b""
    ends: bool = False

    def judge(self, site: Site, heard: Heard) -> None:
        expected = 1 if self.ends else 2
        requests = site.recorder.requests
        assert heard.statuses == [200] * expected
        assert not heard.is_half
        assert len(requests) == expected
        assert all(request.complete for request in requests)
        ours = next(request for request in requests if request.target != b"/tail")
        if self.head is not None:
            assert ours.head == self.head
        assert bytes(ours.body) == self.body
        assert not ours.trailers
        if not self.ends:
            assert [request.head for request in requests if request.target == b"/tail"] == [
                b"GET /tail HTTP/1.1\r\nHost: tail\r\n\r\n"
            ]
