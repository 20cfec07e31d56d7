"""The two sides of an exchange, whatever protocol each speaks."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from agent.errors import Outcome
from agent.scale.page import Page
from agent.wire.fields import Trailers
from agent.wire.head import RequestHead, ResponseHead

if TYPE_CHECKING:
    from agent.net.exchange import Exchange


class Client(Protocol):
    """Where an exchange sends its answer, and how it slows the sender down.

    Of `start`, `send_refusal`, `send_page` and `start_tunnel` exactly one is called, unless the answer is cut. After
    the end (of `start`, `send_data` or `finish`), `send_refusal`, `send_page`, `close_tunnel` and `cut` the exchange is
    no more. `send_data` may be given nothing only together with the end.
    """

    @property
    def protocol(self) -> str: ...

    @property
    def peer(self) -> str: ...

    def send_continue(self) -> None: ...

    def send_interim(self, head: ResponseHead) -> None: ...

    def start(self, head: ResponseHead, end: bool) -> None: ...

    def send_data(self, data: bytes, end: bool) -> None: ...

    def finish(self, trailers: Trailers) -> None: ...

    def send_refusal(self, outcome: Outcome, detail: str, retry_s: float | None) -> None:
        """Answer for the predictor; `retry_s` is when to try again, None for never."""

    def send_page(self, page: Page, *, bodyless: bool) -> None:
        """Answer for the agent itself."""

    def start_tunnel(self, head: ResponseHead) -> None: ...

    def close_tunnel(self) -> None: ...

    def cut(self, outcome: Outcome) -> None:
        """End an answer that has begun so that it cannot look complete."""

    def pause(self, reason: int) -> None: ...

    def resume(self, reason: int) -> None: ...

    def expect_bulk(self, *, bulk: bool) -> None: ...

    @property
    def congested(self) -> bool: ...


class Upstream(Protocol):
    """Where an exchange sends its request: a connection of its own, or a stream on one that it shares.

    `cancels` says that the predictor is told when we give a request up. `stale` that the connection was used before and
    has answered nothing of this request, so that its end may have nothing to do with it.
    """

    @property
    def cancels(self) -> bool: ...

    @property
    def stale(self) -> bool: ...

    @property
    def congested(self) -> bool: ...

    def begin(self, exchange: "Exchange", head: RequestHead, end: bool, elapsed: float) -> None:
        """Send the head. `end` says that there is no body, `elapsed` how many seconds ago the head came."""

    def send_data(self, data: bytes, end: bool) -> None: ...

    def finish(self, trailers: Trailers) -> None: ...

    def end(self, *, reusable: bool) -> None:
        """The exchange is over and cleanly so; `reusable` where another may follow on the same connection."""

    def discard(self) -> None:
        """Give the request up: what was sent must not look complete to the predictor."""

    def shut(self) -> None:
        """End a tunnel from the client's side."""

    def pause(self, reason: int) -> None: ...

    def resume(self, reason: int) -> None: ...


class Pool(Protocol):
    """The connections to one predictor, and the exchanges that wait for one.

    `refuses` says that its predictor may hand a request back unprocessed (RFC 9113 section 8.7).
    """

    @property
    def waiting(self) -> "Collection[Exchange]": ...

    @property
    def refuses(self) -> bool: ...

    @property
    def is_refusing(self) -> bool: ...

    def take(self, now: float) -> Upstream | None: ...

    def wait(self, exchange: "Exchange") -> None: ...

    def forget(self, exchange: "Exchange") -> None: ...

    def exchanges(self) -> "Iterable[Exchange]": ...

    def counts(self) -> tuple[int, int]:
        """How many connections are busy, and how many idle."""

    def drop_idle(self, now: float) -> None: ...

    def close(self) -> None: ...
