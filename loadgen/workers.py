"""`run --workers N`: the same command in N processes, each with its share of the load, and their results as one.

A Poisson process is the sum of independent ones, and callers are independent anyway, so the shares need not talk to
each other. Constant arrivals come in N combs that are not aligned.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from loadgen.commands import conclude
from loadgen.document import read_levels
from loadgen.exits import Exit
from loadgen.merging import merge_levels
from loadgen.prepare import UnreachableError, prepare
from loadgen.session import WORKER, Session
from loadgen.settings import Settings, SettingsError
from loadgen.values import describe_steps
from loadgen.view import make_view


async def run_workers(settings: Settings, argv: Sequence[str]) -> Exit:
    """`argv` is the command line that `settings` were read from. Raises UnreachableError, PayloadError,
    SettingsError."""
    shares = [_share(settings, number) for number in range(settings.workers)]
    prepared = await prepare(settings)
    view = make_view(settings)
    session = Session(settings, prepared, view)
    children: list[asyncio.subprocess.Process] = []
    loop = asyncio.get_running_loop()

    def stop() -> None:
        session.stop()
        for child in children:
            if child.returncode is None:
                child.send_signal(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    for share in shares:
        children.append(await _spawn(argv, share))  # noqa: PERF401 (`stop` must see those that are there already)
    with view:
        view.plan(f"run: {settings.workers} workers", settings.duration)
        ended = await asyncio.gather(*(child.communicate() for child in children))
    parts = [
        _part(out, err, child.returncode)
        for (out, err), child in zip(ended, children, strict=True)
        if out or not session.is_stopped  # one that was interrupted before its load has nothing to tell
    ]
    if not parts:
        print("headgate-load: interrupted before anything was sent", file=sys.stderr)
        return Exit.INTERRUPTED
    return await conclude(session, merge_levels([read_levels(part)[0] for part in parts]))


def _share(settings: Settings, number: int) -> list[str]:
    """What a worker's command line says otherwise than the whole's."""
    workers = settings.workers
    share = ["--workers", "1", "--seed", f"{(settings.seed + number) % 2**32}", "--fail-on", "none"]
    if settings.arrivals.file is not None:
        raise SettingsError(["--workers: arrivals from a file are played by one process"])
    if settings.rate:
        share += ["--rate", f"{settings.rate[0] / workers:.9g}"]
    elif settings.steps:
        parts = [
            step._replace(rate=step.rate / workers, end_rate=None if step.end_rate is None else step.end_rate / workers)
            for step in settings.steps
        ]
        share += ["--steps", describe_steps(parts)]
    else:
        callers = settings.concurrency[0]
        if callers < workers:
            raise SettingsError([f"--workers {workers}: at most one for each of {callers} callers"])
        share += ["--concurrency", f"{callers // workers + (number < callers % workers)}"]
    if settings.requests < float("inf"):
        total = int(settings.requests)
        if total < workers:
            raise SettingsError([f"--workers {workers}: at most one for each of {total} requests"])
        share += ["--requests", f"{total // workers + (number < total % workers)}"]
    return share


async def _spawn(argv: Sequence[str], share: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadgen",
        *argv,
        *share,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, WORKER: "1"},
        start_new_session=True,  # a Ctrl-C on the terminal reaches them through the parent alone
    )


def _part(out: bytes, err: bytes, code: int | None) -> dict[str, Any]:
    try:
        part: dict[str, Any] = json.loads(out)
    except ValueError:
        said = err.decode(errors="replace").strip().splitlines()
        raise UnreachableError(f"a worker ended with {code}: {said[-1] if said else 'no result'}") from None
    return part
