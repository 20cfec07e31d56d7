"""Puts the server's load beside answers (scale.orca), between an exchange and its client.

An exchange that reports gets a client of this kind in place of its own, so one that does not pays nothing.
"""

from time import monotonic

from agent.errors import Outcome
from agent.net.sides import Client
from agent.scale.orca import FORMS, HEADER, TEXT, TRAILER, Reporter
from agent.scale.page import LoadPage, Page
from agent.wire.fields import Trailers
from agent.wire.head import NO_STATUS, ResponseHead

# Heads that repeat are changed once for each report: 3 us a request, not 9. Bounds what others can pin.
_MAX_HEADS = 256


class Orca:
    """Decides who gets a report: with `always` everybody, else those who ask for it."""

    __slots__ = ("_always", "_heads", "_reporter", "_values")

    def __init__(self, page: LoadPage, *, always: bool) -> None:
        self._reporter = Reporter(page)
        self._always = always
        self._values: dict[bytes, bytes] = {}
        self._heads: dict[tuple[ResponseHead, bytes], ResponseHead] = {}

    def client(self, down: Client, asked: bytes, *, grpc: bool) -> Client:
        """The client to answer; `asked` is the form that it asks for, in lower case, or what is none."""
        if asked not in FORMS:
            if not self._always:
                return down
            asked = TEXT
        return _Reporting(down, self, asked, grpc=grpc)

    def head(self, head: ResponseHead, name: bytes, form: bytes) -> ResponseHead:
        """The head with the report in a field of this name, unless the predictor has put one there."""
        values = self._reporter.values(monotonic())
        if values is not self._values or len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
            self._values = values
        key = (head, form)
        known = self._heads.get(key)
        if known is None:
            known = self._heads[key] = head if _has_report(head.fields) else head.plus((name, values[form]))
        return known

    def trailers(self, trailers: Trailers) -> Trailers:
        """The same for trailers."""
        if _has_report(trailers.fields):
            return trailers
        return trailers.plus((TRAILER, self._reporter.values(monotonic())[TRAILER]))


class _Reporting:
    """A client whose answer carries the report: in the head over HTTP, in the trailers of a gRPC call."""

    __slots__ = ("_down", "_form", "_grpc", "_orca")

    def __init__(self, down: Client, orca: Orca, form: bytes, *, grpc: bool) -> None:
        self._down = down
        self._orca = orca
        self._form = form
        self._grpc = grpc

    @property
    def protocol(self) -> str:
        return self._down.protocol

    @property
    def peer(self) -> str:
        return self._down.peer

    @property
    def congested(self) -> bool:
        return self._down.congested

    def start(self, head: ResponseHead, end: bool) -> None:
        if not self._grpc:
            head = self._orca.head(head, HEADER, self._form)
        elif end and head.grpc_status != NO_STATUS:  # trailers alone
            head = self._orca.head(head, TRAILER, TRAILER)
        self._down.start(head, end)

    def finish(self, trailers: Trailers) -> None:
        self._down.finish(self._orca.trailers(trailers) if self._grpc else trailers)

    # What goes through as it is

    def send_continue(self) -> None:
        self._down.send_continue()

    def send_interim(self, head: ResponseHead) -> None:
        self._down.send_interim(head)

    def send_data(self, data: bytes, end: bool) -> None:
        self._down.send_data(data, end)

    def send_refusal(self, outcome: Outcome, detail: str, retry_s: float | None) -> None:
        self._down.send_refusal(outcome, detail, retry_s)

    def send_page(self, page: Page, *, bodyless: bool) -> None:
        self._down.send_page(page, bodyless=bodyless)

    def start_tunnel(self, head: ResponseHead) -> None:
        self._down.start_tunnel(head)

    def close_tunnel(self) -> None:
        self._down.close_tunnel()

    def cut(self, outcome: Outcome) -> None:
        self._down.cut(outcome)

    def pause(self, reason: int) -> None:
        self._down.pause(reason)

    def resume(self, reason: int) -> None:
        self._down.resume(reason)

    def expect_bulk(self, *, bulk: bool) -> None:
        self._down.expect_bulk(bulk=bulk)


def _has_report(fields: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() in {HEADER, TRAILER} for name, _ in fields)
