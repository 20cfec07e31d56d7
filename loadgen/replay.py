"""`replay`: a trace, at its own times or faster, with latency from the times it had."""

from dataclasses import replace

from loadgen.client import resolve
from loadgen.commands import begin_at, conclude, driven
from loadgen.exits import Exit
from loadgen.level import level_of
from loadgen.measure import extras_of
from loadgen.payload import GivenError
from loadgen.prepare import Prepared, Server, UnreachableError, make_tls, most_connections
from loadgen.run import OpenLoop
from loadgen.schedule import given
from loadgen.session import Session
from loadgen.settings import Settings
from loadgen.target import Target
from loadgen.trace import Arrival, TraceError, read_trace
from loadgen.view import make_view


async def replay(settings: Settings) -> Exit:
    """Raises OSError, UnreachableError, PayloadError."""
    assert settings.trace is not None
    try:
        arrivals = read_trace(settings.trace.read_text())
        schedule = given([arrival.at_s / settings.speed for arrival in arrivals])
    except (TraceError, ValueError, OSError) as error:
        raise GivenError(f"{settings.trace}: {error}") from None
    prepared = await _prepared(settings, arrivals)
    view = make_view(settings)
    session = Session(settings, prepared, view)
    session.listen()
    with view:
        view.plan("replay", schedule.steps[0].duration_s)
        result, _ = await driven(
            session,
            begin_at(session),
            lambda target, on_sample: OpenLoop(target, schedule, on_sample, extras_of(settings)),
        )
    return await conclude(session, level_of(result, rate=schedule.steps[0].rate))


async def _prepared(settings: Settings, arrivals: list[Arrival]) -> Prepared:
    """A request for each arrival, in their order: equal ones share their bytes."""
    try:
        address = await resolve(settings.url.host, settings.url.port)
    except OSError as error:
        raise UnreachableError(f"{settings.url.host}: {error.strerror}") from None
    server = Server(settings, address, make_tls(settings))
    default = settings.models[0] if settings.models else ""
    pools: dict[tuple[str, int], list[bytes]] = {}
    taken: dict[tuple[str, int], int] = {}
    requests = []
    for arrival in arrivals:
        model, batch = arrival.model or default, arrival.batch or settings.batch
        if not model:
            raise GivenError(f"{settings.trace}: a line names no model; give --model for those")
        if arrival.body:
            requests.append(server.verbatim(model, arrival.body))
            continue
        key = (model, batch)
        if key not in pools:
            sized = Server(replace(settings, batch=batch), address, server.tls)
            pools[key] = await sized.pool(model, await sized.inputs(model) if settings.has_tensors else [])
        number = taken.get(key, 0)
        taken[key] = number + 1
        requests.append(pools[key][number % len(pools[key])])
    models = list(dict.fromkeys(arrival.model or default for arrival in arrivals))
    target = Target(
        address,
        requests,
        settings.timeout,
        max_connections=most_connections(settings),
        wire=await server.wire(requests[0]),
        tls=server.tls,
        head=server.infer_head() if settings.is_grpc else b"",
        streams=settings.streams,
        models=models,
        model_of=[models.index(arrival.model or default) for arrival in arrivals] if len(models) > 1 else (),
    )
    size = sum(map(len, requests)) / len(requests)
    return Prepared(target, [], len(set(requests)), size, f"{len(arrivals)} of a trace to {', '.join(models)}")
