"""The `headgate-load` command.

Exit codes: 0 measured; 1 the result could not be written; 3 the target cannot be reached or its inputs are unknown;
5 measured, but the numbers tell of the generator; 64 bad settings; 130 interrupted (the partial result is printed).
"""

import argparse
import asyncio
import contextlib
import gc
import json
import math
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import uvloop

from loadgen.http_client import Address, fetch, resolve
from loadgen.payload import PayloadError, Tensor, encode_request, infer_bodies, model_path, pool_size, resolve_tensors
from loadgen.record import Result
from loadgen.report import render_json, render_text
from loadgen.run import ClosedLoop, OpenLoop, Target, allow_many_connections
from loadgen.schedule import draw
from loadgen.settings import FLAGS, REPEATABLE, Settings, SettingsError, read_settings

EXIT_UNWRITTEN = 1
EXIT_UNREACHABLE = 3
EXIT_GENERATOR = 5
EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

_PROGRESS_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        settings = _parse(argv)
    except SettingsError as error:
        for problem in error.problems:
            print(f"headgate-load: {problem}", file=sys.stderr)
        return EXIT_USAGE
    allow_many_connections()
    try:
        return uvloop.run(_run(settings))
    except PayloadError as error:
        print(f"headgate-load: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    except _UnreachableError as error:
        print(f"headgate-load: {settings.url} cannot be reached: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _UnreachableError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([f"{message} (see {self.prog} --help)"])


def _parse(argv: Sequence[str] | None) -> Settings:
    parser = _Parser(prog="headgate-load", description="Load for V2 inference, measured from the intended send time.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="one load against one URL", allow_abbrev=False)
    run.add_argument("url", metavar="URL", nargs="?", help="http://HOST[:PORT][/PREFIX]")
    for flag, short, metavar, text in FLAGS:
        names = [short, flag] if short else [flag]
        run.add_argument(*names, metavar=metavar, help=text, action="append" if flag in REPEATABLE else "store")
    given, unknown = parser.parse_known_args(argv)
    try:
        settings = read_settings(given)
    except SettingsError as error:
        raise SettingsError([*_unknown(unknown), *error.problems]) from None
    if unknown:
        raise SettingsError(_unknown(unknown))
    return settings


def _unknown(words: Sequence[str]) -> list[str]:
    return [f"{word} is not a flag of `run` (see headgate-load run --help)" for word in words]


async def _run(settings: Settings) -> int:
    try:
        address = await resolve(settings.url.host, settings.url.port)
        tensors = await _find_tensors(settings, address)
        bodies = infer_bodies(tensors, pool_size(tensors), settings.seed)
        load = _make_load(settings, address, bodies)
        result = await _drive(load)
    except OSError as error:
        raise _UnreachableError(error.strerror or type(error).__name__) from error
    print(render_text(settings, tensors, bodies, result))
    if settings.json is not None:
        document = render_json(settings, tensors, bodies, result, _version())
        try:
            settings.json.write_text(json.dumps(document) + "\n")
        except OSError as error:
            print(f"headgate-load: --json {settings.json}: {error.strerror}", file=sys.stderr)
            return EXIT_UNWRITTEN
    if load.is_stopped:
        return EXIT_INTERRUPTED
    return EXIT_GENERATOR if result.generator_limit else 0


def _version() -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version("headgate")
    return None


async def _find_tensors(settings: Settings, address: Address) -> list[Tensor]:
    path = model_path(settings.url.prefix, settings.model)
    request = encode_request("GET", settings.url.authority, path, settings.headers)
    answer = await fetch(address, request, settings.timeout_s)
    if answer.cause is not None and not settings.shapes:
        raise _UnreachableError(f"{answer.cause} (GET {path})")
    metadata = None
    if answer.status == 200:
        with contextlib.suppress(ValueError):
            metadata = json.loads(answer.body)
    try:
        return resolve_tensors(metadata, settings.shapes)
    except PayloadError as error:
        raise PayloadError(f"GET {path} answered {answer.status}: {error}") from None


def _make_load(settings: Settings, address: Address, bodies: Sequence[bytes]) -> OpenLoop | ClosedLoop:
    path = f"{model_path(settings.url.prefix, settings.model)}/infer"
    requests = [encode_request("POST", settings.url.authority, path, settings.headers, body) for body in bodies]
    target = Target(address, requests, settings.timeout_s)
    if not settings.steps:
        return ClosedLoop(target, settings.concurrency, settings.duration_s, settings.limit)
    limit = sys.maxsize if math.isinf(settings.limit) else int(settings.limit)
    return OpenLoop(target, draw(settings.steps, settings.arrivals, settings.seed, limit))


async def _drive(load: OpenLoop | ClosedLoop) -> Result:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.stop)
    # Bodies and schedule never become garbage during the run; without this each full collection walks them.
    gc.collect()
    gc.freeze()
    progress = asyncio.create_task(_show_progress(load)) if sys.stderr.isatty() else None
    try:
        return await load.run()
    finally:
        if progress is not None:
            progress.cancel()
            print("\r\x1b[K", end="", file=sys.stderr)


async def _show_progress(load: OpenLoop | ClosedLoop) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_S)
        counts = ", ".join(f"{outcome} {count}" for outcome, count in load.outcomes().items() if count)
        print(f"\r\x1b[K{load.sent} sent: {counts}", end="", file=sys.stderr, flush=True)
