"""`run --workers N`: the same load in N processes, here or on other hosts, and their results as one.

Every worker joins over TCP (`worker.py`) and says when it is ready; then all begin together, each with every N-th
request of the whole schedule, which all of them draw alike: constant arrivals stay evenly spaced, and any others are
those that one process would have sent. Histograms are added count by count.

Messages of a worker: {"token"}, {"ready"}, {"result": document} or {"failed": text}; of this side: {"given": settings
as texts, "share": [number, of]}, {"begin": seconds from now}, {"stop"}.
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from loadgen.commands import conclude
from loadgen.document import read_levels
from loadgen.exits import Exit
from loadgen.level import Level
from loadgen.merging import merge_levels
from loadgen.messages import MAX_MEMBER, MAX_STRANGER, read_message, write_message
from loadgen.prepare import UnreachableError, prepare
from loadgen.session import Session
from loadgen.settings import Settings, SettingsError
from loadgen.view import make_view

TOKEN = "HEADGATE_LOAD_TOKEN"
_HELLO_S = 5.0
# Between "begin" and the first request: as long as any message takes to arrive.
_LEAD_S = 0.25


class Member:
    """One worker that has joined."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def tell(self, **message: object) -> None:
        """Send a message; to one that is gone too."""
        write_message(self._writer, message)

    async def hear(self, name: str, most: int = MAX_MEMBER) -> Any:
        """What the next message says under `name`. Raises UnreachableError where it says something else."""
        message = await read_message(self._reader, most) or {"failed": "it has gone"}
        if name not in message:
            raise UnreachableError(f"a worker has failed: {message.get('failed', message)}")
        return message[name]

    def close(self) -> None:
        """Let it go."""
        self._writer.close()


class Crew:
    """Waits for as many workers as are wanted; whoever comes late or without the token is sent away."""

    def __init__(self, wanted: int, token: str) -> None:
        self._wanted, self._token = wanted, token
        self._members: list[Member] = []
        self.whole: asyncio.Future[list[Member]] = asyncio.get_running_loop().create_future()

    async def on_joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection to the port that workers join at."""
        member = Member(reader, writer)
        try:
            async with asyncio.timeout(_HELLO_S):
                given = str(await member.hear("token", MAX_STRANGER))
        except (TimeoutError, UnreachableError):
            given = ""
        if self.whole.done() or not hmac.compare_digest(given.encode(), self._token.encode()):
            member.tell(failed="the token is wrong, or all places are taken")
            member.close()
            return
        self._members.append(member)
        if len(self._members) == self._wanted:
            self.whole.set_result(self._members)

    async def watch(self, child: asyncio.subprocess.Process) -> None:
        """A process that should join; one that ends before all have is told of."""
        code = await child.wait()
        if not self.whole.done():
            self.whole.set_exception(UnreachableError(f"a worker ended with {code}"))


async def run_workers(settings: Settings, given: Mapping[str, Any]) -> Exit:
    """`given` is what `settings` were read from, by field. Raises UnreachableError, PayloadError, SettingsError,
    OSError."""
    _check(settings)
    token = os.environ.get(TOKEN, "") if settings.listen else secrets.token_hex()
    if not token:
        raise SettingsError([f"--listen: set {TOKEN} here and for the workers, that nobody else may join"])
    prepared = await prepare(settings)
    view = make_view(settings)
    session = Session(settings, prepared, view)
    session.listen()
    crew = Crew(settings.workers, token)
    host, port = settings.listen or ("127.0.0.1", 0)
    server = await asyncio.start_server(crew.on_joined, host, port)
    children = (
        []
        if settings.listen
        else [await _spawn(server.sockets[0].getsockname()[1], token) for _ in range(settings.workers)]
    )
    parts: list[Level] = []
    watching = [asyncio.ensure_future(crew.watch(child)) for child in children]
    try:
        with view:
            view.plan(f"run: {settings.workers} workers", settings.duration)
            if settings.listen:
                at = f"{host}:{server.sockets[0].getsockname()[1]}"
                view.say(f"waiting for {settings.workers} workers: headgate-load worker --join {at}")
            parts = await _levels(session, crew, {**given, "seed": str(settings.seed)})
    finally:
        server.close()
        if not parts:
            _end(children)
        await asyncio.gather(*map(_ended, children))
        await asyncio.gather(*watching)
    if not parts:
        print("headgate-load: interrupted before anything was sent", file=sys.stderr)
        return Exit.INTERRUPTED
    return await conclude(session, merge_levels(parts))


def _check(settings: Settings) -> None:
    problems = []
    if not settings.steps and settings.arrivals.file is None and settings.concurrency[0] < settings.workers:
        problems.append(f"--workers {settings.workers}: at most one for each of {settings.concurrency[0]} callers")
    if settings.requests < settings.workers:
        problems.append(f"--workers {settings.workers}: at most one for each of {settings.requests:.0f} requests")
    if problems:
        raise SettingsError(problems)


async def _levels(session: Session, crew: Crew, given: Mapping[str, Any]) -> list[Level]:
    """What each worker has measured; nothing where they were interrupted before they began."""
    members = await _or_stopped(session, crew.whole)
    if members is None:
        return []
    for number, member in enumerate(members):
        member.tell(given=dict(given), share=[number, len(members)])
    try:
        if await _or_stopped(session, asyncio.gather(*(member.hear("ready") for member in members))) is None:
            return []
        begin_s = (session.settings.start_at or 0.0) - time.time()
        for member in members:
            member.tell(begin=max(_LEAD_S, begin_s))
        results = asyncio.gather(*(member.hear("result") for member in members))
        if await _or_stopped(session, asyncio.shield(results)) is None:
            for member in members:
                member.tell(stop=True)
        return [read_levels(part)[0] for part in await results]
    finally:
        for member in members:
            member.close()


async def _or_stopped(session: Session, awaited: "asyncio.Future[Any]") -> Any:
    """What is awaited; None where the session is stopped before."""
    stopped = asyncio.ensure_future(session.stopped())
    try:
        await asyncio.wait([awaited, stopped], return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return awaited.result()
        awaited.cancel()
        return None
    finally:
        stopped.cancel()


async def _spawn(port: int, token: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadgen", "worker", "--join", f"127.0.0.1:{port}"),
        env={**os.environ, TOKEN: token},
        start_new_session=True,  # a Ctrl-C on the terminal reaches it through its parent alone
    )


def _end(children: Iterable[asyncio.subprocess.Process]) -> None:
    """They have nothing more to tell."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()


async def _ended(child: asyncio.subprocess.Process) -> None:
    """It goes when its connection does; one that does not is ended."""
    with contextlib.suppress(TimeoutError, ProcessLookupError):
        async with asyncio.timeout(_HELLO_S):
            await child.wait()
            return
    child.send_signal(signal.SIGKILL)
    await child.wait()
