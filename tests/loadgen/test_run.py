"""Both loops against real servers: nothing is lost, concurrency is exact, and lateness shows."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from loadgen.http_client import Address
from loadgen.level import generator_problem, level_of
from loadgen.payload import encode_request
from loadgen.record import Cause, Outcome, Sample
from loadgen.run import ClosedLoop, Extras, OpenLoop, Target
from loadgen.schedule import Arrivals, Step, draw
from tests.loadgen.peers import OK, SHED, Line, answering, refused_address, serving
from tests.sockets import eventually

MS = 1_000_000


def target(address: Address, timeout_s: float = 5.0, **settings: int) -> Target:
    bodies = [b'{"n":%d}' % number for number in range(3)]
    return Target(address, [encode_request("POST", "test", "/", (), body) for body in bodies], timeout_s, **settings)


class Stall:
    """A server that answers at once, except that one request starts a pause in which nobody is answered."""

    def __init__(self, at: int, pause_s: float) -> None:
        self.seen = 0
        self._at = at
        self._pause_s = pause_s
        self._running = asyncio.Event()
        self._running.set()

    async def __call__(self, line: Line) -> None:
        while True:
            await line.request()
            self.seen += 1
            if self.seen == self._at:
                self._running.clear()
                asyncio.get_running_loop().call_later(self._pause_s, self._running.set)
            await self._running.wait()
            await line.send(OK)


async def test_open_loop_sends_the_whole_schedule_in_turn() -> None:
    bodies = []

    async def script(line: Line) -> None:
        while True:
            bodies.append((await line.request())[-7:])
            await line.send(OK)

    schedule = draw([Step(400.0, 0.25)], Arrivals.CONSTANT, seed=1)
    seen: list[Sample] = []
    async with serving(script) as peer:
        load = OpenLoop(target(peer.address), schedule, seen.append)
        result = await load.run()
    assert result.sent == result.total.count == len(seen) == len(schedule.offsets_ns) == 100
    assert result.total.count_of(Outcome.OK) == 100
    assert (result.unfinished, result.backlogged, result.rated_s) == (0, 0, 0.25)
    assert sorted(bodies) == sorted([b'{"n":0}', b'{"n":1}', b'{"n":2}'] * 33 + [b'{"n":0}'])
    assert sorted(sample.intended_ns - load.started_ns for sample in seen) == list(schedule.offsets_ns)
    assert all(sample.sent_ns >= sample.intended_ns for sample in seen)


async def test_each_step_has_its_own_record() -> None:
    steps = [Step(200.0, 0.1), Step(0.0, 0.05), Step(400.0, 0.1)]
    async with serving(answering(SHED)) as peer:
        result = await OpenLoop(target(peer.address), draw(steps, Arrivals.CONSTANT, seed=0)).run()
    assert [recorder.count_of(Outcome.SHED) for recorder in result.steps] == [20, 0, 40]
    assert result.total.statuses == {503: 60}


async def test_a_schedule_without_arrivals_ends() -> None:
    async with serving(answering()) as peer:
        result = await OpenLoop(target(peer.address), draw([Step(0.0, 1.0)], Arrivals.POISSON, seed=0)).run()
    assert (result.sent, result.total.count) == (0, 0)


async def test_a_stalled_server_shows_its_whole_stall() -> None:
    stall = Stall(at=40, pause_s=0.3)
    async with serving(stall) as peer:
        schedule = draw([Step(200.0, 0.6)], Arrivals.CONSTANT, seed=0)
        result = await OpenLoop(target(peer.address), schedule).run()
    response = result.total.response[Outcome.OK]
    assert stall.seen == response.count == 120
    # 60 requests fall due in the stall and wait 300, 295, 290 ... 5 ms; 40 of them at least 100 ms.
    assert sum(count for upper, count in response.buckets() if upper >= 100 * MS) >= 39
    assert response.max >= 295 * MS


async def test_the_same_stall_hides_from_the_send_time_when_connections_are_few() -> None:
    stall = Stall(at=40, pause_s=0.3)
    async with serving(stall) as peer:
        schedule = draw([Step(200.0, 0.6)], Arrivals.CONSTANT, seed=0)
        result = await OpenLoop(target(peer.address, max_connections=1), schedule).run()
    total = result.total
    slow = [
        sum(count for upper, count in clock[Outcome.OK].buckets() if upper >= 100 * MS)
        for clock in (total.response, total.service)
    ]
    # One request is slow by its send time, or a few on a machine that stalls too; by its intended time every caller of
    # the stall is.
    assert 1 <= slow[1] <= 4
    assert slow[0] >= 39
    assert result.backlogged >= 39
    assert "connections were in use" in generator_problem(level_of(result, rate=200.0))


async def test_a_late_generator_records_its_lateness() -> None:
    def block_once(sample: Sample) -> None:
        if len(seen) == 20:
            time.sleep(0.15)  # the generator's own process stands still
        seen.append(sample)

    seen: list[Sample] = []
    async with serving(answering()) as peer:
        schedule = draw([Step(200.0, 0.4)], Arrivals.CONSTANT, seed=0)
        result = await OpenLoop(target(peer.address), schedule, block_once).run()
    assert result.total.count == 80
    assert result.total.lag.max >= 140 * MS
    assert sum(sample.sent_ns - sample.intended_ns >= 50 * MS for sample in seen) >= 18
    assert result.total.response[Outcome.OK].max >= result.total.lag.max
    assert "late by" in generator_problem(level_of(result, rate=200.0))


async def test_timeouts_end_the_run_at_their_age() -> None:
    async with serving(Line.gone) as peer:
        schedule = draw([Step(100.0, 0.1)], Arrivals.CONSTANT, seed=0)
        result = await OpenLoop(target(peer.address, timeout_s=0.1), schedule).run()
    assert result.total.causes == {Cause.TIMEOUT: 10}
    assert result.total.response[Outcome.TIMEOUT].min >= 100 * MS
    assert 0.18 < result.elapsed_s < 2.0


async def test_stopping_counts_what_was_in_flight() -> None:
    arrived = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        arrived.set()
        await line.gone()

    async with serving(script) as peer:
        load = OpenLoop(target(peer.address), draw([Step(1.0, 60.0)], Arrivals.CONSTANT, seed=0))
        running = asyncio.create_task(load.run())
        await arrived.wait()
        load.stop()
        load.stop()
        result = await running
    assert load.is_stopped
    assert (result.sent, result.unfinished, result.total.count) == (1, 1, 0)
    assert result.rated_s == result.elapsed_s < 30


class Gauge:
    """A server that answers a request when `width` are in, and remembers the most it ever held."""

    def __init__(self, width: int) -> None:
        self.peak = 0
        self._inside = 0
        self._full = asyncio.Barrier(width)

    async def __call__(self, line: Line) -> None:
        while True:
            await line.request()
            self._inside += 1
            self.peak = max(self.peak, self._inside)
            await self._full.wait()
            self._inside -= 1
            await line.send(OK)


async def test_closed_loop_keeps_exactly_n_in_flight_and_sends_exactly_the_limit() -> None:
    gauge = Gauge(4)
    async with serving(gauge) as peer:
        result = await ClosedLoop(target(peer.address), concurrency=4, limit=40).run()
    assert (gauge.peak, peer.accepted, result.connections) == (4, 4, 4)
    assert (result.sent, result.total.count_of(Outcome.OK)) == (40, 40)
    assert result.rated_s == result.elapsed_s


async def test_closed_loop_ends_with_its_duration() -> None:
    async with serving(answering()) as peer:
        result = await ClosedLoop(target(peer.address), concurrency=2, duration_s=0.1).run()
    assert result.sent == result.total.count > 2
    assert 0.1 <= result.elapsed_s < 2.0


async def test_a_closed_loop_caller_tries_again_only_after_a_pause() -> None:
    async def script(line: Line) -> None:
        await line.request()

    async with serving(script) as peer:
        result = await ClosedLoop(target(peer.address), concurrency=1, limit=3).run()
    assert result.total.causes == {Cause.CLOSED: 3}
    assert result.elapsed_s >= 0.1


async def test_a_closed_loop_caller_goes_on_after_a_timeout() -> None:
    # Connecting has the same time, and fails the run: a busy machine must not take as long for it.
    async with serving(Line.gone) as peer:
        result = await ClosedLoop(target(peer.address, timeout_s=0.3), concurrency=2, limit=6).run()
    assert result.total.causes == {Cause.TIMEOUT: 6}


async def test_stopping_a_closed_loop_ends_it() -> None:
    async with serving(answering()) as peer:
        load = ClosedLoop(
            target(peer.address), 3, math.inf, math.inf, lambda _: load.stop() if load.sent > 50 else None
        )
        result = await load.run()
    assert result.sent - result.total.count == result.unfinished <= 3


class Refusing:
    """A server that refuses the first `times` requests with this head, then answers."""

    def __init__(self, times: int, head: bytes) -> None:
        self.bodies: list[bytes] = []
        self._times = times
        self._head = head

    async def __call__(self, line: Line) -> None:
        while True:
            self.bodies.append((await line.request())[-7:])
            refused = len(self.bodies) <= self._times
            await line.send(b"HTTP/1.1 503 x\r\n%sContent-Length: 0\r\n\r\n" % self._head if refused else OK)


async def test_a_refused_request_is_tried_again_and_counted_from_its_first_time() -> None:
    server = Refusing(2, b"Retry-After: 0\r\n")
    async with serving(server) as peer:
        load = ClosedLoop(target(peer.address), 1, limit=1, extras=Extras(retries=3))
        result = await load.run()
    assert (result.sent, result.total.count_of(Outcome.OK), result.total.retried) == (1, 1, 2)
    assert server.bodies == [b'{"n":0}'] * 3


async def test_retries_end_with_their_number_and_with_the_callers_patience() -> None:
    async with serving(answering(SHED)) as peer:
        load = ClosedLoop(target(peer.address), 1, limit=1, extras=Extras(retries=2, honour=False))
        result = await load.run()
        assert (result.total.count_of(Outcome.SHED), result.total.retried) == (1, 2)
        # Retry-After is a second, and nobody has so long.
        load = ClosedLoop(target(peer.address, timeout_s=0.5), 1, limit=1, extras=Extras(retries=2))
        result = await load.run()
        assert (result.total.count_of(Outcome.SHED), result.total.retried) == (1, 0)


async def test_stopping_forgets_retries_that_are_due_later() -> None:
    server = Refusing(1, b"Retry-After: 1000\r\n")
    async with serving(server) as peer:
        load = OpenLoop(
            target(peer.address, timeout_s=3600.0),
            draw([Step(10.0, 0.1)], Arrivals.CONSTANT, seed=0),
            extras=Extras(retries=1),
        )
        running = asyncio.create_task(load.run())
        await eventually(lambda: load.started_ns and load.recorders[0].retried)
        load.stop()
        result = await running
    assert (result.sent, result.unfinished, result.total.count) == (1, 1, 0)


async def test_requests_are_taken_back_on_purpose() -> None:
    async with serving(Line.gone) as peer:
        load = ClosedLoop(target(peer.address), 2, limit=4, extras=Extras(cancel_share=1.0, cancel_after_s=0.01))
        result = await load.run()
    assert result.total.causes == {Cause.CANCELLED: 4}
    assert result.total.count_of(Outcome.CANCELLED) == 4


async def test_windows_hold_what_ended_in_them_and_sum_to_the_whole() -> None:
    async with serving(answering()) as peer:
        schedule = draw([Step(200.0, 0.5)], Arrivals.CONSTANT, seed=0)
        result = await OpenLoop(target(peer.address), schedule, extras=Extras(window_s=0.1)).run()
    assert [window.count for window in result.windows.values()] == [20] * 5
    assert list(result.windows) == [0, 1, 2, 3, 4]
    assert (result.total.count, result.window_s) == (100, 0.1)
    assert result.beats[0].at_s <= 0.0 < result.beats[-1].at_s


async def test_models_have_records_of_their_own() -> None:
    async with serving(answering()) as peer:
        where = target(peer.address)
        where = replace(where, models=("a", "b"), model_of=(0, 0, 1))
        result = await ClosedLoop(where, 1, limit=9).run()
    assert {name: recorder.count for name, recorder in result.by_model().items()} == {"a": 6, "b": 3}
    assert result.total.count == 9


async def test_callers_come_one_after_the_other_in_a_ramp() -> None:
    async with serving(Line.gone) as peer:
        load = ClosedLoop(target(peer.address), 4, duration_s=60.0, ramp_s=0.2)
        running = asyncio.create_task(load.run())
        await eventually(lambda: load.sent == 4)
        took_s = (time.monotonic_ns() - load.started_ns) / 1e9
        load.stop()
        await running
    assert took_s > 0.14  # the last of four begins at three quarters of 200 ms


@pytest.mark.parametrize(
    "make",
    [
        lambda where: OpenLoop(where, draw([Step(10.0, 1.0)], Arrivals.POISSON, seed=0)),
        lambda where: ClosedLoop(where, 2),
    ],
    ids=["open", "closed"],
)
async def test_an_unreachable_target_is_known_before_the_clock_starts(
    make: Callable[[Target], OpenLoop | ClosedLoop],
) -> None:
    address, held = refused_address()
    with held:
        load = make(target(address))
        with pytest.raises(ConnectionRefusedError):
            await load.run()
    assert load.started_ns == 0
    assert set(load.outcomes().values()) == {0}
