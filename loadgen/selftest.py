"""`selftest`: what this machine's generator can do: requests per CPU-second and pacing error against a built-in
stub."""

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from loadgen.exits import Exit
from loadgen.level import level_of
from loadgen.prepare import prepare
from loadgen.report import table
from loadgen.run import ClosedLoop, Extras, OpenLoop
from loadgen.schedule import Arrivals, Step, draw
from loadgen.settings import Settings, SettingsError
from loadgen.stub import MODEL
from loadgen.target import allow_many_connections
from loadgen.units import format_latency, format_rate
from loadgen.values import DURATION_S, Protocol, Url, duration_within

_SECONDS = 2.0
_CALLERS = (1, 32)
_RATES = (500.0, 5_000.0, 20_000.0)
_START_S = 15.0


@asynccontextmanager
async def stub() -> AsyncIterator[int]:
    """The port of a stub that runs as a process. Raises TimeoutError."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "loadgen.stub", stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            port = json.loads(await process.stdout.readline())["port"]
        yield int(port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def run_selftest(given: argparse.Namespace) -> Exit:
    """Raises SettingsError."""
    seconds = _SECONDS
    if given.duration is not None:
        try:
            seconds = duration_within(DURATION_S)(given.duration)
        except ValueError:
            problem = f"--duration {given.duration!r}; accepted: a duration from 100ms to 24h"
            raise SettingsError([problem]) from None
    allow_many_connections()
    rows: list[dict[str, Any]] = []
    code = Exit.OK
    try:
        uvloop.run(measure(seconds, rows))
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    if given.format == "json":
        print(json.dumps({"python": platform.python_version(), "host": platform.node(), "rows": rows}, indent=1))
        return code
    shown = [("", "load", "sent", "req/s", "CPU", "req per CPU-s", "late p50", "late p99")]
    for row in rows:
        late = (format_latency(row[key]) if row[key] is not None else "" for key in ("lag_p50_ns", "lag_p99_ns"))
        per_cpu = f"{row['per_cpu_s']:,.0f}"
        shown.append(
            (
                row["protocol"],
                row["load"],
                f"{row['sent']}",
                format_rate(row["rate"]),
                f"{row['cpu']:.0%}",
                per_cpu,
                *late,
            )
        )
    print("\n".join(table(shown)))
    print(
        "stub and generator share this machine; where there are fewer than two free cores, rates are lower than these"
    )
    return code


async def measure(seconds: float, rows: list[dict[str, Any]]) -> None:
    """Add a row for each protocol and load to `rows`."""
    async with stub() as port:
        for scheme, protocol in (("http", Protocol.HTTP), ("grpc", Protocol.GRPC)):
            url = Url("127.0.0.1", port, "", scheme)
            settings = Settings(command="selftest", url=url, protocol=protocol, model=((MODEL, 1.0),))
            target = (await prepare(settings)).target
            for callers in _CALLERS:
                closed = ClosedLoop(target, callers, seconds, extras=Extras(window_s=1.0))
                rows.append(_row(protocol, f"{callers} in flight", await closed.run(), open_loop=False))
            for rate in _RATES if protocol is Protocol.HTTP else ():
                schedule = draw([Step(rate, seconds)], Arrivals.CONSTANT, 0)
                opened = OpenLoop(target, schedule, extras=Extras(window_s=1.0))
                rows.append(_row(protocol, format_rate(rate), await opened.run(), open_loop=True))


def _row(protocol: Protocol, load: str, result: Any, *, open_loop: bool) -> dict[str, Any]:
    level = level_of(result, rate=1.0)
    lag = level.total.lag
    return {
        "protocol": str(protocol),
        "load": load,
        "sent": result.sent,
        "rate": level.throughput,
        "cpu": result.cpu_s / max(result.elapsed_s, 1e-9),
        "per_cpu_s": level.answers.count / max(result.cpu_s, 1e-9),
        "lag_p50_ns": lag.percentile(0.5) if open_loop and lag.count else None,
        "lag_p99_ns": lag.percentile(0.99) if open_loop and lag.count else None,
    }
