"""Observers are told everything once; one that breaks is dropped, and the others go on."""

import pytest

from agent.errors import Fault, Outcome
from agent.observe.hooks import Hooks, Record
from tests.fakes import FakeRecord

FAULT = Fault(Outcome.BAD_REQUEST, "why")


def unexpected(error: BaseException) -> None:
    raise AssertionError("nothing broke") from error


class Listener:
    """Remembers what it is told, and raises when told what `breaks_at` names."""

    def __init__(self, breaks_at: str = "") -> None:
        self.told: list[object] = []
        self._breaks_at = breaks_at

    def ended(self, record: Record) -> None:
        self._tell("ended", record)

    def faulted(self, fault: Fault, peer: str, now: float) -> None:
        self._tell("faulted", (fault, peer))

    def _tell(self, name: str, what: object) -> None:
        self.told.append(what)
        if name == self._breaks_at:
            raise RuntimeError(name)


def test_every_observer_is_told_everything_in_order() -> None:
    listeners = [Listener(), Listener()]
    hooks = Hooks(list(listeners), unexpected)
    records = [FakeRecord(), FakeRecord()]
    hooks.ended(records[0])
    hooks.faulted(FAULT, "peer", 1.0)
    hooks.ended(records[1])
    for listener in listeners:
        assert listener.told == [records[0], (FAULT, "peer"), records[1]]


def test_without_observers_nothing_happens() -> None:
    hooks = Hooks([], unexpected)
    hooks.ended(FakeRecord())
    hooks.faulted(FAULT, "peer", 1.0)


@pytest.mark.parametrize("moment", ["ended", "faulted"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_observer_that_raises_is_dropped_and_reported_once(moment: str, place: int) -> None:
    reports: list[BaseException] = []
    listeners = [Listener(), Listener(), Listener()]
    broken = listeners[place] = Listener(breaks_at=moment)
    hooks = Hooks(list(listeners), reports.append)
    for _ in range(3):
        hooks.ended(FakeRecord())
        hooks.faulted(FAULT, "peer", 1.0)
    assert [str(report) for report in reports] == [moment]
    assert len(broken.told) == (1 if moment == "ended" else 2)
    assert [len(listener.told) for listener in listeners if listener is not broken] == [6, 6]


def test_all_observers_may_break_at_once() -> None:
    reports: list[BaseException] = []
    hooks = Hooks([Listener("ended"), Listener("ended")], reports.append)
    hooks.ended(FakeRecord())
    hooks.ended(FakeRecord())
    assert len(reports) == 2
