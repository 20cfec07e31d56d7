"""The client's side of an exchange, whatever protocol it speaks."""

from typing import Protocol

from agent.errors import Outcome
from agent.wire.head import Fields, ResponseHead


class Client(Protocol):
    """Where an exchange sends its answer, and how it slows the sender down.

    Of `send_head`, `send_refusal` and `start_tunnel` exactly one is called, unless the answer is cut by `abort`. After
    `send_end`, `send_refusal`, `close_tunnel` and `abort` the exchange is no more.
    """

    protocol: str
    peer: str

    def send_continue(self) -> None: ...

    def send_interim(self, head: ResponseHead) -> None: ...

    def send_head(self, head: ResponseHead) -> None: ...

    def send_body(self, data: bytes) -> None: ...

    def send_end(self, trailers: Fields) -> None: ...

    def send_refusal(self, outcome: Outcome, detail: str) -> None: ...

    def start_tunnel(self, head: ResponseHead) -> None: ...

    def close_tunnel(self) -> None: ...

    def abort(self) -> None: ...

    def pause(self, reason: int) -> None: ...

    def resume(self, reason: int) -> None: ...

    def expect_bulk(self, *, bulk: bool) -> None: ...

    @property
    def congested(self) -> bool: ...
