"""Connections of the admin port: so many, and who gives way."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.net.guests import MOST, Guest, Guests
from tests.net.bed import Bed, Opener
from tests.sockets import Peer, dial, eventually

PROBE = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Wire:
    """A transport that notes its end."""

    def __init__(self) -> None:
        self.is_aborted = False

    def get_extra_info(self, _: str) -> Any:
        return None

    def abort(self) -> None:
        self.is_aborted = True


def connected(guests: Guests) -> tuple[Guest, Wire]:
    guest, wire = Guest(guests, asyncio.Protocol()), Wire()
    guest.connection_made(wire)  # type: ignore[arg-type]
    return guest, wire


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "hear", "leave", "excuse", "answer"]), st.integers(0, 9)), max_size=60)
)
def test_the_one_that_is_silent_for_longest_gives_way(steps: list[tuple[str, int]]) -> None:
    """Beside a list in the order of the last words, from which nobody is taken who waits for a late answer."""
    guests = Guests(most=4)
    order: list[tuple[Guest, Wire]] = []
    waiting: dict[Guest, Any] = {}
    gone: list[Wire] = []
    for step, number in steps:
        picked = order[number % len(order)] if order else None
        if step == "enter":
            order.append(connected(guests))
            if len(order) > 4:
                victim = next(one for one in order if one[0] not in waiting)
                order.remove(victim)
                gone.append(victim[1])
        elif picked is None:
            continue
        elif step == "hear":
            picked[0].data_received(b"x")
            if picked[0] not in waiting:
                order.remove(picked)
                order.append(picked)
        elif step == "leave":
            picked[0].connection_lost(None)
            order.remove(picked)
        elif step == "excuse" and picked[0] not in waiting:
            waiting[picked[0]] = guests.excused(picked[0].above)
            waiting[picked[0]].__enter__()
        elif step == "answer" and picked[0] in waiting:
            waiting.pop(picked[0]).__exit__(None, None, None)
            order.remove(picked)
            order.append(picked)
        assert len(guests) == len(order)
        assert not any(wire.is_aborted for _, wire in order)
        assert all(wire.is_aborted for wire in gone)


def test_where_all_wait_for_a_late_answer_the_newcomer_gives_way() -> None:
    guests = Guests(most=1)
    first, wire = connected(guests)
    with guests.excused(first.above):
        _, newcomer = connected(guests)
        assert (wire.is_aborted, newcomer.is_aborted) == (False, True)
        first.connection_lost(None)
    assert len(guests) == 0


async def to_admin(agent: Bed) -> Peer:
    host, _, port = agent.server.admin_address.rpartition(":")
    return await dial(host, int(port))


async def test_a_probe_is_answered_however_many_are_connected(bed: Opener) -> None:
    agent = await bed()
    silent = [await to_admin(agent) for _ in range(MOST)]
    await eventually(lambda: len(agent.server.guests) == MOST)
    probe = await to_admin(agent)
    await probe.send(PROBE)
    assert (await probe.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await silent[0].ended()
    for client in [probe, *silent]:
        client.close()
    await eventually(lambda: not len(agent.server.guests))


async def test_who_waits_for_the_drain_gives_way_to_nobody(bed: Opener) -> None:
    agent = await bed(drain_delay="1h")
    hook = await to_admin(agent)
    await hook.send(b"GET /wait-for-drain HTTP/1.1\r\nHost: a\r\n\r\n")
    await eventually(lambda: agent.server.drain.stage.value != "serving")
    flood = [await to_admin(agent) for _ in range(MOST)]
    await flood[0].ended()
    agent.server.drain.begin(hurry=True)
    assert (await hook.until(b"drained\n")).startswith(b"HTTP/1.1 200")
    for client in [hook, *flood]:
        client.close()
