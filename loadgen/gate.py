"""A Headgate with the settings that are to be proved, started as a process in front of the predictor."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadgen.client import Address
from loadgen.settings import Settings

_START_S = 15.0
_STOP_S = 10.0


class GateError(Exception):
    """It cannot be started; the text says why."""


def command() -> list[str] | None:
    """How to run `headgate` here; None where it is not installed."""
    beside = Path(sys.executable).parent / "headgate"
    found = str(beside) if beside.exists() else shutil.which("headgate")
    return [found] if found else None


def can_gate(settings: Settings) -> bool:
    """Whether a Headgate can stand in front of this target: one is installed, and the target speaks in the clear."""
    return command() is not None and not settings.url.is_tls


@asynccontextmanager
async def running(settings: Settings, predictor: Address, flags: str) -> AsyncIterator[tuple[Address, Address]]:
    """Where it listens, and its admin port. Raises GateError."""
    program = command()
    if program is None:
        raise GateError("headgate is not installed")
    host = f"[{predictor[0]}]" if ":" in predictor[0] else predictor[0]
    route = f"127.0.0.1:0={'h2c' if settings.is_grpc else 'http'}://{host}:{predictor[1]}"
    arguments = ["serve", "--route", route, "--admin", "127.0.0.1:0", "--access-log", "off", *flags.split()]
    arguments += ["--drain-delay", "0s", "--drain-timeout", "1s", "--unknown-route", "admit"]
    process = await asyncio.create_subprocess_exec(
        *program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        try:
            async with asyncio.timeout(_START_S):
                data, admin = await _listening(process.stderr)
        except TimeoutError:
            raise GateError("it did not begin to listen") from None
        drain = asyncio.create_task(_drained(process.stderr))
        yield data, admin
        drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(log: asyncio.StreamReader) -> tuple[Address, Address]:
    lines = []
    while line := await log.readline():
        lines.append(line.decode(errors="replace").strip())
        try:
            told = json.loads(line)
            if told.get("event") == "listening":
                return _address(told["listen"][0]), _address(told["admin"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            continue
    raise GateError(f"it ended: {' '.join(lines[-3:])}")


def _address(text: str) -> Address:
    host, _, port = str(text).rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


async def _drained(log: asyncio.StreamReader) -> None:
    """Read on, or the pipe fills and the process stops."""
    while await log.readline():
        pass
