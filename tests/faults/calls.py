"""Many gRPC calls through an agent whose clients cancel and whose predictor is killed and restarted all the time.

    python -m tests.faults.calls --calls 100000

Every call must be answered with its own message, or fail with a gRPC status; what the agent shows at the end is nothing
in flight. Prints how the calls ended. Exits with 1 if anything was lost, misrouted or left.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, cast

import h2.events as on
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError

from tests.faults.process import AgentProcess
from tests.net.http2_peers import grpc_head, infer
from tests.sockets import FakePredictor
from tests.wire.frames_by_hand import CANCEL

CONNECTIONS = 6
CALLS_A_CONNECTION = 24
# No call takes longer than this, whatever happens to the predictor.
PATIENCE_S = 30.0
# What a client waits after a refusal; without it, most calls would be refused while the predictor is down.
REFUSED_S = 0.1
CANCELLED, LEFT = "cancelled", "connection dropped"


@dataclass(slots=True, eq=False)
class Call:
    """A call under way. `ended` becomes its gRPC status, or what its client did to it."""

    id: bytes
    body: bytes
    ended: "asyncio.Future[str]"
    unsent: bytes = b""
    answer: bytearray = field(default_factory=bytearray)
    fields: dict[bytes, bytes] = field(default_factory=dict)

    def end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)


class Caller(asyncio.Protocol):
    """One client connection. `problems` collects what must not happen."""

    def __init__(self, problems: list[str]) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.calls: dict[int, Call] = {}
        self.is_lost = False
        self._problems = problems
        self._dropped = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._dropped:
            self._problems.append(f"the agent ended a connection: {exc}")
        for call in self.calls.values():
            call.end(LEFT)

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._act(event)
        self._flush()

    def begin(self, call: Call, first: int) -> int:
        """Send the head and the first bytes; the rest follows as the agent gives window. Returns the stream."""
        stream = self.h2.get_next_available_stream_id()
        self.calls[stream] = call
        self.h2.send_headers(stream, [*grpc_head(), (b"x-id", call.id)])
        self.h2.send_data(stream, call.body[:first])
        call.unsent = call.body[first:]
        self._flush()
        return stream

    def go_on(self, stream: int) -> None:
        """Send what the window allows of the rest."""
        call = self.calls.get(stream)
        while call is not None and call.unsent:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                return
            piece, call.unsent = call.unsent[:room], call.unsent[room:]
            try:
                self.h2.send_data(stream, piece, end_stream=not call.unsent)
            except StreamClosedError:  # it was answered before it was sent; the event is still to come
                return
            self._flush()

    def cancel(self, stream: int) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            self.h2.reset_stream(stream, CANCEL)
            self._flush()
            call.end(CANCELLED)

    def drop(self) -> None:
        """Reset the connection with all that it carries."""
        self._dropped = True
        self._transport.abort()

    def _act(self, event: Any) -> None:
        if isinstance(event, on.ConnectionTerminated):
            self._problems.append(f"GOAWAY {event.error_code}")
        elif isinstance(event, on.WindowUpdated):
            for stream in [event.stream_id] if event.stream_id else list(self.calls):
                self.go_on(stream)
        elif isinstance(event, on.DataReceived) and event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        call = self.calls.get(getattr(event, "stream_id", 0) or 0)
        if call is None:
            return
        if isinstance(event, on.DataReceived):
            call.answer += event.data
        elif isinstance(event, on.ResponseReceived | on.TrailersReceived):
            call.fields.update(event.headers)
        elif isinstance(event, on.StreamEnded):
            self._check(self.calls.pop(event.stream_id))
        elif isinstance(event, on.StreamReset):
            del self.calls[event.stream_id]
            self._problems.append(f"call {call.id!r} was reset with {event.error_code} and got no status")
            call.end("reset")

    def _check(self, call: Call) -> None:
        status = call.fields.get(b"grpc-status", b"none").decode()
        if call.fields.get(b"x-id", call.id) != call.id:
            self._problems.append(f"call {call.id!r} got the head of {call.fields[b'x-id']!r}")
        if not call.body.startswith(call.answer) or (status == "0" and call.answer != call.body):
            self._problems.append(f"call {call.id!r} got a body that is not its own")
        if not status.isdigit():
            self._problems.append(f"call {call.id!r} has no status")
        call.end(f"status {status} {call.fields.get(b'x-headgate-reason', b'').decode()}".strip())

    def _flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self._transport.write(data)


class Run:
    """`calls` calls through the agent at `host`:`port`. `ends` counts how they ended."""

    def __init__(self, host: str, port: int, calls: int, rng: random.Random) -> None:
        self.ends: Counter[str] = Counter()
        self.problems: list[str] = []
        self._address = (host, port)
        self._left = calls
        self._next = 0
        self._rng = rng
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until all calls have ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._keep_calling())

    async def _keep_calling(self) -> None:
        while self._left > 0:
            _, caller = await self._loop.create_connection(lambda: Caller(self.problems), *self._address)
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLS_A_CONNECTION):
                    group.create_task(self._call_on(caller))
            caller.drop()

    async def _call_on(self, caller: Caller) -> None:
        while self._left > 0 and not caller.is_lost:
            self._left -= 1
            call, stream = self._begin(caller)
            await self._meddle(caller, call, stream)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    end = await call.ended
                    self.ends[end] += 1
                    if end.endswith("queue_full"):
                        await asyncio.sleep(REFUSED_S)
            except TimeoutError:
                self.problems.append(f"call {call.id!r} never ended")
                self.ends["hung"] += 1

    def _begin(self, caller: Caller) -> tuple[Call, int]:
        rng = self._rng
        self._next += 1
        number = b"%d" % self._next
        size = rng.choice([0, 10, 10, 100, 100, 1000, 1000, 20_000 if rng.random() < 0.3 else 5])
        size = 150_000 if rng.random() < 0.003 else size
        call = Call(number, infer(number + b"x" * size), self._loop.create_future())
        return call, caller.begin(call, min(3, len(call.body) - 1))

    async def _meddle(self, caller: Caller, call: Call, stream: int) -> None:
        """Go on at once or later, cancel now or later, or drop the connection with everything on it."""
        lot = self._rng.random()
        if lot < 0.0001:
            caller.drop()
        elif lot < 0.01:
            caller.cancel(stream)
        elif lot < 0.03:
            caller.go_on(stream)
            self._loop.call_later(self._rng.random() * 0.02, self._cancel_later, caller, stream)
        elif lot < 0.06:
            await asyncio.sleep(self._rng.random() * 0.01)
            if not caller.is_lost:
                caller.go_on(stream)
        else:
            caller.go_on(stream)

    @staticmethod
    def _cancel_later(caller: Caller, stream: int) -> None:
        if not caller.is_lost:
            caller.cancel(stream)


class Mortal(FakePredictor):
    """The predictor's port, and the process behind it, which dies every `every` seconds."""

    def __init__(self, every: float, seed: int) -> None:
        super().__init__()
        self.kills = 0
        self._every = every
        self._seed = seed

    @property
    def url(self) -> str:
        return super().url.replace("http", "h2c", 1)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Live and die, over and over."""
        task = asyncio.create_task(self._live())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.close()

    async def _live(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.calls_predictor", str(self._port), str(self._seed + self.kills)),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert process.stdout is not None
                await process.stdout.readline()
                await asyncio.sleep(self._every)
            finally:
                process.kill()
                await process.wait()
            self.kills += 1


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `problems` is empty where everything held."""

    ends: dict[str, int]
    kills: int
    problems: list[str]
    state: dict[str, Any]
    seconds: float

    def __str__(self) -> str:
        lines = [f"{count:>8} {end}" for end, count in sorted(self.ends.items(), key=lambda item: -item[1])]
        lines.append(f"{sum(self.ends.values()):>8} calls in {self.seconds:.1f} s, {self.kills} kills")
        levels = {name: self.state[name] for name in ("inflight", "queued", "active")}
        lines.append(f"at the end: {levels}, problems: {len(self.problems)}")
        return "\n".join([*lines, *self.problems[:20]])


async def run(calls: int, *, seed: int, kill_every: float) -> Report:
    """Start everything, make the calls, and look at what is left."""
    predictor = Mortal(kill_every, seed)
    begun = monotonic()
    async with predictor.alive():
        flags = {"limit": "48", "queue": "90", "deadline": "5s"}
        agent = await AgentProcess.start(predictor, flags)
        try:
            host, _, port = agent.address.rpartition(":")
            work = Run(host, int(port), calls, random.Random(seed))
            await work.run()
            try:
                await agent.until(inflight=0, queued=0, active=0)
            except TimeoutError:
                work.problems.append("something is left in the agent")
            return Report(dict(work.ends), predictor.kills, work.problems, await agent.state(), monotonic() - begun)
        finally:
            await agent.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.calls", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=3.0, metavar="SECONDS")
    arguments = parser.parse_args()
    report = uvloop.run(run(arguments.calls, seed=arguments.seed, kill_every=arguments.kill_every))
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
