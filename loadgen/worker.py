"""`worker --join HOST:PORT`: one part of a load whose other parts are elsewhere (see `workers.py`).

It measures what it is told to, and writes nothing here.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from dataclasses import replace
from typing import Any

import uvloop

from loadgen.commands import measured
from loadgen.document import make_document
from loadgen.exits import Exit
from loadgen.messages import MAX_MEMBER, read_message, write_message
from loadgen.payload import PayloadError
from loadgen.prepare import UnreachableError, prepare
from loadgen.session import Session
from loadgen.settings import Settings, SettingsError, read_settings
from loadgen.shm import REGIONS
from loadgen.target import allow_many_connections
from loadgen.units import NS_PER_S
from loadgen.values import parse_address
from loadgen.view import QuietView
from loadgen.workers import TOKEN

# What is for where the result is told, and may name files there.
_ELSEWHERE = frozenset(
    {"command", "file", "format", "history", "json", "listen", "name", "output", "scrape", "start_at"}
)
_JOIN_S = 60.0
_RETRY_S = 0.2


async def join(host: str, port: int) -> Exit:
    """Raises OSError where nobody is there to join."""
    reader, writer = await _connected(host, port)
    write_message(writer, {"token": os.environ.get(TOKEN, "")})
    try:
        told = await read_message(reader, MAX_MEMBER)
        if told is None or "given" not in told:
            print(f"headgate-load: {(told or {}).get('failed', 'nobody has work')}", file=sys.stderr)
            return Exit.UNREACHABLE
        try:
            document = await _work(told["given"], told["share"], reader, writer)
        except (OSError, UnreachableError, PayloadError, SettingsError) as error:
            document, failed = None, str(error)
        write_message(writer, {"result": document} if document else {"failed": failed})
        await writer.drain()
        return Exit.OK if document else Exit.UNREACHABLE
    finally:
        writer.close()


async def _connected(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Pods start in any order: who is to be joined may come later."""
    until_s = time.monotonic() + _JOIN_S
    while True:
        try:
            return await asyncio.open_connection(host, port)
        except OSError:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(_RETRY_S)


async def _work(
    given: dict[str, Any], share: list[int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> dict[str, Any]:
    settings = settings_of(given, share[0], share[1])
    prepared = await prepare(settings)
    session = Session(settings, prepared, QuietView())
    session.listen()
    watching: list[asyncio.Future[None]] = []

    async def begin() -> int:
        write_message(writer, {"ready": True})
        told = await read_message(reader, MAX_MEMBER)
        if told is None or "begin" not in told:
            session.stop()
            return time.monotonic_ns()
        watching.append(asyncio.ensure_future(_stopped(reader, session)))
        return time.monotonic_ns() + round(float(told["begin"]) * NS_PER_S)

    try:
        level = await measured(session, begin)
    finally:
        await REGIONS.release()
        for task in watching:
            task.cancel()
    return make_document(settings, session.facts, [level], [])


async def _stopped(reader: asyncio.StreamReader, session: Session) -> None:
    """Told to stop, or left alone."""
    await read_message(reader, MAX_MEMBER)
    session.stop()


def settings_of(given: dict[str, Any], number: int, of: int) -> Settings:
    """The part of the load that is number `number` of `of`. Raises SettingsError."""
    given = {name: value for name, value in given.items() if name not in _ELSEWHERE}
    whole = read_settings("run", argparse.Namespace(**given))
    callers, requests = whole.concurrency, whole.requests
    return replace(
        whole,
        share=(number, of),
        workers=1,
        concurrency=tuple(count // of + (number < count % of) for count in callers),
        # Of a schedule that is drawn whole each worker takes its part anyway.
        requests=requests if whole.steps or requests == float("inf") else requests // of + (number < requests % of),
        max_in_flight=max(1, whole.max_in_flight // of),
        connections=whole.connections and max(1, whole.connections // of),
    )


def run_worker(given: argparse.Namespace) -> Exit:
    """Raises SettingsError."""
    try:
        host, port = parse_address(given.join or "")
    except ValueError:
        raise SettingsError([f"--join {given.join!r}; accepted: HOST:PORT"]) from None
    allow_many_connections()
    with contextlib.suppress(OSError):
        return uvloop.run(join(host, port))
    print(f"headgate-load: nobody is at {given.join}", file=sys.stderr)
    return Exit.UNREACHABLE
