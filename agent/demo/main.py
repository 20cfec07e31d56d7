"""`headgate demo`: runs everything in one command on this machine, with no cluster and no model."""

import argparse
import asyncio
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import uvloop

from agent.demo.callers import Callers
from agent.demo.children import Child, ChildError
from agent.demo.story import NO_GATE, PHASES, Script
from agent.demo.summary import Chapter
from agent.demo.view import PlainView, View
from agent.demo.watch import Watch
from loadgen.http_client import Address
from loadgen.payload import Tensor, encode_request, infer_bodies, model_path
from loadgen.record import Result
from loadgen.run import OpenLoop, Target, allow_many_connections
from loadgen.schedule import Schedule
from loadgen.units import NS_PER_S, format_duration, parse_duration

EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MODEL = "synthetic"
_INPUT = Tensor("input-0", "FP32", (1, 16))
_BODIES = 64
# Service times of real models spread; without it the queue would hardly be needed below capacity.
_SPREAD = 0.2
_STOP_S = 1.0

_DURATION_S = (2.0, 600.0)
_SLOTS = (1, 256)
# The embedded predictor spends some 0.1 ms of CPU per request, and the flood offers three times its capacity.
_MAX_CAPACITY = 1000.0
# A phase must be long against a caller's patience, else the flood without the gate is over before it shows.
_SERVICES = 75


class _Model(NamedTuple):
    """Where the predictor listens for each protocol."""

    http: Address
    grpc: Address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's flags; `run` reads and checks them."""
    parser.add_argument("--duration", metavar="DUR", default="20s", help="how long the load lasts (default 20s)")
    parser.add_argument(
        "--slots", metavar="N", default="16", help="how many requests the model runs at once (default 16)"
    )
    parser.add_argument(
        "--service-time", metavar="DUR", default="50ms", help="how long it takes for one (default 50ms)"
    )
    parser.add_argument("--seed", metavar="N", default="1", help="the arrivals and service times to draw (default 1)")
    parser.add_argument("--plain", action="store_true", help="plain lines instead of the live page")


def run(args: argparse.Namespace) -> int:
    """Play the demo. 0 when everything worked, 1 when a part failed, 64 for bad settings, 130 after Ctrl-C."""
    script, problems = read_script(args)
    for problem in problems:
        print(f"headgate demo: {problem}", file=sys.stderr)
    if problems:
        return EXIT_USAGE
    allow_many_connections()
    try:
        return uvloop.run(_main(script, _choose_view(script, plain=args.plain)))
    except BrokenPipeError:
        # `headgate demo | head`: nobody reads on, and Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def read_script(args: argparse.Namespace) -> tuple[Script, list[str]]:
    """The script that the flags describe, and one sentence for each flag that is not accepted."""
    problems: list[str] = []

    def read(flag: str, text: str, parse: Callable[[str], float], low: float, high: float, accepted: str) -> float:
        try:
            value = parse(text)
        except ValueError:
            value = low - 1
        if low <= value <= high:
            return value
        problems.append(f"{flag} {text!r}; accepted: {accepted}")
        return high

    duration_s = read("--duration", args.duration, parse_duration, *_DURATION_S, "2s to 10m")
    slots = int(read("--slots", args.slots, int, *_SLOTS, f"a whole number from 1 to {_SLOTS[1]}"))
    longest_s = math.floor(duration_s / _SERVICES * 1000) / 1000
    service_s = read(
        "--service-time",
        args.service_time,
        parse_duration,
        0.001,
        longest_s,
        f"1ms to {format_duration(longest_s)}, a {_SERVICES}th of the duration",
    )
    seed = int(read("--seed", args.seed, int, 0, 2**32 - 1, f"a whole number from 0 to {2**32 - 1}"))
    if not problems and slots / service_s > _MAX_CAPACITY:
        problems.append(
            f"--slots {slots} with --service-time {args.service_time} makes {slots / service_s:.0f} answers/s; "
            f"accepted: at most {_MAX_CAPACITY:.0f}, what the built-in predictor can give"
        )
    return Script(duration_s, slots, service_s, seed), problems


def _choose_view(script: Script, *, plain: bool) -> View:
    if plain or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return PlainView(script)
    if importlib.util.find_spec("rich") is None:
        print("For the live page: pip install 'headgate[demo]'", file=sys.stderr)
        return PlainView(script)
    from agent.demo.live import LiveView  # noqa: PLC0415 (rich is an extra)

    return LiveView(script)


async def _main(script: Script, view: View) -> int:
    loop = asyncio.get_running_loop()
    play = asyncio.create_task(_play(script, view))

    def interrupt() -> None:
        # From here on the demo only ends its children, and a second Ctrl-C must not come between.
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        play.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        await play
    except ChildError as error:
        print(f"headgate demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


async def _play(script: Script, view: View) -> None:
    async with AsyncExitStack() as stack:
        predictor, model = await _start_predictor(script, stack)
        agent, data, admin = await _start_agent(script, model, stack)
        callers = await _connect(Callers(script, data, _MODEL), stack)
        with view:
            watch = Watch(script, admin, model.http, view.show, callers.counts)

            def check() -> None:
                predictor.check()
                agent.check()

            gated, bare = script.schedules()
            callers.start()
            through = await _load(script, watch, check, data, gated, 0)
            await callers.finish()
            await watch.settle()
            rejected = watch.gate.rejected
            straight = await _load(script, watch, check, model.http, bare, NO_GATE)
    accounts = zip(PHASES, script.steps, [*through.steps, *straight.steps], callers.recorders, strict=True)
    view.finish([Chapter(*account, *watch.means(number)) for number, account in enumerate(accounts)], rejected)


async def _connect(callers: Callers, stack: AsyncExitStack) -> Callers:
    try:
        return await stack.enter_async_context(callers)
    except ConnectionError as error:
        raise ChildError(f"{error}") from error


async def _load(
    script: Script, watch: Watch, check: Callable[[], None], address: Address, schedule: Schedule, first_phase: int
) -> Result:
    """Play one schedule against `address`. Raises ChildError when a child ends meanwhile or answers nothing."""
    path = f"{model_path('', _MODEL)}/infer"
    authority = f"{address[0]}:{address[1]}"
    bodies = infer_bodies([_INPUT], _BODIES, script.seed)
    requests = [encode_request("POST", authority, path, (), body) for body in bodies]
    start_ns = script.start_s(first_phase) * NS_PER_S
    load = OpenLoop(
        Target(address, requests, script.patience_s),
        schedule,
        lambda sample: watch.add(sample, start_ns + sample.intended_ns - load.started_ns),
    )
    follower = asyncio.create_task(watch.follow(load, first_phase, check))
    # A follower ends by itself only when a child is gone.
    follower.add_done_callback(lambda _: load.stop())
    try:
        result = await load.run()
    except OSError as error:
        raise ChildError(f"no connection to {authority}: {error}") from error
    finally:
        follower.cancel()
        with suppress(asyncio.CancelledError, ChildError):
            await follower
    if not follower.cancelled():
        follower.result()
    return result


async def _start_predictor(script: Script, stack: AsyncExitStack) -> tuple[Child, _Model]:
    command = [sys.executable, "-m", "agent.demo.predictor", "--port", "0", "--grpc-port", "0", "--model", _MODEL]
    command += ["--slots", f"{script.slots}", "--service-time", f"{script.service_s * 1000:g}ms"]
    command += ["--cv", f"{_SPREAD}", "--seed", f"{script.seed}"]
    predictor = await Child.start("the predictor", command)
    stack.push_async_callback(predictor.stop)
    http, grpc = (("127.0.0.1", _port(predictor.listening.get(name))) for name in ("port", "grpc_port"))
    return predictor, _Model(http, grpc)


async def _start_agent(script: Script, model: _Model, stack: AsyncExitStack) -> tuple[Child, Address, Address]:
    command = [sys.executable, "-m", "agent", "serve"]
    upstreams = ",".join(
        f"{scheme}://{host}:{port}" for scheme, (host, port) in (("http", model.http), ("h2c", model.grpc))
    )
    command += ["--route", f"127.0.0.1:0={upstreams}", "--admin", "127.0.0.1:0"]
    command += ["--limit", f"{script.slots}", "--queue", f"{script.queue}"]
    command += ["--deadline", f"{script.patience_s:g}s", "--access-log", "off"]
    command += ["--drain-delay", "0s", "--drain-timeout", "1s"]
    agent = await Child.start("the agent", command)
    stack.push_async_callback(agent.stop, _STOP_S)
    listen = agent.listening.get("listen")
    first = listen[0] if isinstance(listen, list) and listen else None
    return agent, ("127.0.0.1", _port(first)), ("127.0.0.1", _port(agent.listening.get("admin")))


def _port(listening: object) -> int:
    """The port of `40001` or `"127.0.0.1:40001"`. Raises ChildError for anything else."""
    port = f"{listening}".rpartition(":")[2]
    if not port.isdecimal():
        raise ChildError(f"it does not say where it listens: {listening!r}")
    return int(port)
