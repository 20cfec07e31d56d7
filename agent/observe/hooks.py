"""The moments of an exchange that observers hear of, and the caller that survives a broken observer."""

from collections.abc import Callable
from typing import Protocol

from agent.errors import Fault, Outcome
from agent.policy.classify import Route
from agent.policy.usage import Usage


class Record(Protocol):
    """What an observer may read of an exchange: monotonic stamps in seconds (0.0 = never happened), sizes in bytes.

    `usage` is the model it is booked on, or None for what bypassed admission. `is_retry` is whether somebody on the way
    has tried the same before. `status` is the HTTP status the client was sent, 0 if none, `grpc_status` the status of a
    gRPC call, negative if none. The object goes on living; observers must not keep it.
    """

    route: Route
    outcome: Outcome
    status: int
    grpc_status: int
    usage: Usage | None
    protocol: str
    arrived: float
    dispatched: float
    responded: float
    ended: float
    bytes_out: int

    @property
    def bytes_in(self) -> int: ...

    @property
    def is_retry(self) -> bool: ...

    @property
    def method(self) -> bytes: ...

    @property
    def target(self) -> bytes: ...

    @property
    def peer(self) -> str: ...


class Observer(Protocol):
    """Told once of every exchange, after it ended, and of every client mistake that never became one."""

    def ended(self, record: Record) -> None: ...

    def faulted(self, fault: Fault, peer: str, now: float) -> None: ...


class Hooks:
    """Calls every observer; one that raises is dropped and reported, for a broken log must not stop the traffic."""

    __slots__ = ("_observers", "_report")

    def __init__(self, observers: list[Observer], report: Callable[[BaseException], None]) -> None:
        self._observers = observers
        self._report = report

    def ended(self, record: Record) -> None:
        """The exchange is over and accounted for."""
        for observer in self._observers:
            try:
                observer.ended(record)
            except Exception as error:
                self._drop(observer, error)

    def faulted(self, fault: Fault, peer: str, now: float) -> None:
        """A client sent what cannot become a request."""
        for observer in self._observers:
            try:
                observer.faulted(fault, peer, now)
            except Exception as error:
                self._drop(observer, error)

    def _drop(self, observer: Observer, error: Exception) -> None:
        self._observers = [other for other in self._observers if other is not observer]
        self._report(error)
