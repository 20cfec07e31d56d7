"""The same bytes through the agent, HAProxy and Envoy, each before a recording predictor of its own: who refuses what.

Each case is sent once, as a whole. Nobody tells when a proxy has said all it will, so a connection on which nothing
comes for a while is left; that makes it unfit for tests, and good for a table.
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import peers
from tests.bench.process import BenchError, Cores, accepts, poll_until
from tests.hostile.case import TAIL, Case, Http1Case
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.http2_case import TAIL as TAIL_FRAMES
from tests.hostile.http2_case import TAIL_STREAM, Frames, Http2Case
from tests.hostile.reasons import REASONS
from tests.hostile.recorder import Recorder
from tests.hostile.site import read
from tests.net.http2_peers import HELLO, FrameReader
from tests.sockets import IncompleteError, dial

# Longer than a proxy on a busy machine takes to answer over loopback.
QUIET_S = 0.4
_MAX_SENT = 200_000


@dataclass(frozen=True, slots=True)
class Sight:
    """What one proxy did: `heads` are the requests that the predictor got whole, but for the tail; `cut` how many it
    got in part; `strange` is why they could not be read; `told` what the client got.
    """

    heads: tuple[bytes, ...]
    cut: int
    strange: str
    told: str

    @property
    def verdict(self) -> str:
        if self.strange:
            return "garbled"
        if len(self.heads) > 1:
            return f"{len(self.heads)} requests"
        return "served" if self.heads else "refused"

    def __str__(self) -> str:
        return f"{self.verdict} ({self.told})"


class Through:
    """One proxy and its predictor."""

    def __init__(self, name: str, port: int, recorder: Recorder) -> None:
        self.name = name
        self.port = port
        self.recorder = recorder

    async def see(self, case: Case) -> Sight:
        self.recorder.forget()
        if isinstance(case, Http1Case):
            told = await self._http1(case.data)
        else:
            assert isinstance(case, Http2Case)
            told = await self._http2(case.data)
        requests = [request for request in self.recorder.requests if request.target != b"/tail"]
        whole = tuple(request.head or repr(request.fields).encode() for request in requests if request.complete)
        return Sight(whole, len(requests) - len(whole), "; ".join(self.recorder.errors), told)

    async def _http1(self, data: bytes) -> str:
        client = await dial("127.0.0.1", self.port)
        ended = ""
        try:
            async with asyncio.timeout(QUIET_S):
                await client.send(data + TAIL)
            while True:
                async with asyncio.timeout(QUIET_S):
                    await client.more()
        except (IncompleteError, ConnectionError):
            ended = "end"
        except TimeoutError:
            ended = "waits"
        client.close()
        statuses = read(bytes(client.received), b"GET", eof=True).statuses
        return " ".join([*map(str, statuses), ended])

    async def _http2(self, data: bytes) -> str:
        reader = FrameReader(await dial("127.0.0.1", self.port))
        frames = Frames(reader.seen, was_cut=False)
        ended = ""
        try:
            async with asyncio.timeout(QUIET_S):
                await reader.peer.send(HELLO + data + TAIL_FRAMES)
            while not frames.has_ended(TAIL_STREAM):
                async with asyncio.timeout(QUIET_S):
                    await reader.next()
        except (IncompleteError, ConnectionError):
            ended = "end"
        except TimeoutError:
            ended = "waits"
        reader.peer.close()
        told = [f"rst {code}" for code in frames.codes(1)]
        if frames.goaway is not None:
            told.append(f"goaway {frames.goaway}")
        with contextlib.suppress(Exception):  # Huffman and tables of theirs are of no interest
            told.append(str(frames.status(1) or ""))
        return " ".join([*filter(None, told), ended])


@contextlib.asynccontextmanager
async def everybody(*, h2c: bool) -> AsyncIterator[list[Through]]:
    """The agent, HAProxy and Envoy, all up. Raises BenchError where one cannot be had."""
    found, left_out = peers.discover()
    wanted = [peer for peer in found if peer.name in {"agent", "haproxy", "envoy"}]
    for name in ("haproxy", "envoy"):
        if name in left_out:
            raise BenchError(f"{name}: {left_out[name]}")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxies = []
        for peer in wanted:
            recorder = await Recorder().start()
            stack.callback(recorder.close)
            proxy = peers.spawn(peer, recorder.port, Cores.split(), directory, h2c=h2c)
            stack.enter_context(proxy.child)
            deadline = time.monotonic() + 10
            while not accepts(proxy.ports.data):
                poll_until(deadline, proxy.child)
            proxies.append(Through(peer.name, proxy.ports.data, recorder))
        yield proxies


def of(kind: type[Case]) -> Iterator[tuple[str, Case]]:
    """The cases that are bytes."""
    for attacks in CATALOGUE:
        for case in attacks.cases:
            if isinstance(case, kind) and len(case.data) < _MAX_SENT:  # type: ignore[attr-defined]
                yield attacks.name, case


def verdict(name: str, case: str, sights: list[Sight]) -> str:
    """What there is to say about a case: nothing where all do the same."""
    ours, *others = sights
    if ours.verdict not in {"served", "refused"}:
        return "BROKEN HERE"
    if ours.verdict == "refused":
        return "" if all(sight.verdict == "refused" for sight in others) else "stricter"
    if any(sight.verdict == "refused" for sight in others):
        return REASONS.get((name, case)) or "NO REASON GIVEN"
    return ""


async def compare(only: str, *, every: bool) -> int:
    """Print the cases that are treated differently. Returns how many the agent accepts without a reason."""
    counts: Counter[str] = Counter()
    for kind, h2c in ((Http1Case, False), (Http2Case, True)):
        async with everybody(h2c=h2c) as proxies:
            print(f"\n{'HTTP/2' if h2c else 'HTTP/1.1'}: {', '.join(proxy.name for proxy in proxies)}")
            for name, case in of(kind):
                if only not in name:
                    continue
                sights = list(await asyncio.gather(*[proxy.see(case) for proxy in proxies]))
                said = verdict(name, case.name, sights)
                counts["cases"] += 1
                counts[said if said in {"", "stricter", "NO REASON GIVEN", "BROKEN HERE"} else "with a reason"] += 1
                if every or said:
                    print(f"{name} / {case.name}: {' | '.join(map(str, sights))}  {said}", flush=True)
    alone = counts["NO REASON GIVEN"] + counts["BROKEN HERE"]
    print(f"\n{counts['cases']} cases: {counts['']} alike, {counts['stricter']} refused here and served by another,")
    print(f"{counts['with a reason']} served here and refused by another for a reason that is given, {alone} without")
    return alone
