"""Connections of callers that use ModelStreamInfer: a request may have no answer, one or many.

An answer belongs to the request whose id it bears, however late it comes. The time of a request's first answer and how
many there were are kept.
"""

from loadgen import h2
from loadgen.answers import PLACEHOLDER, Answer, place_of_id, read_answer
from loadgen.grpc_link import CallLink, Owner, unpadded
from loadgen.record import Cause, GrpcStatus, Outcome, Sample

_MESSAGE_PREFIX = 5


class _AnswersLink(CallLink):
    """Reads messages off streams."""

    def __init__(self, client: Owner) -> None:
        super().__init__(client)
        self._reads = True
        self._partial: dict[int, bytes] = {}
        self._failed: set[int] = set()  # streams whose request was answered with an error
        self._idents: dict[Sample, str] = {}  # where requests have ids of their own

    def _on_data(self, stream: int, data: bytes, start: int, end: int, flags: int) -> None:
        held = self._partial.pop(stream, b"") + unpadded(data[start:end], flags)
        self._out.append(h2.window_update(stream, end - start)) if end > start else None
        while len(held) >= _MESSAGE_PREFIX:
            length = _MESSAGE_PREFIX + int.from_bytes(held[1:_MESSAGE_PREFIX], "big")
            if len(held) < length:
                break
            if (sample := self._calls.get(stream)) is not None:
                self._on_message(stream, sample, held[:length])
            held = held[length:]
        if held:
            self._partial[stream] = held
        if flags & h2.END_STREAM:
            self._fail(stream, Cause.TRUNCATED)

    def _on_message(self, stream: int, sample: Sample, message: bytes) -> None:
        try:
            answer = read_answer(message[_MESSAGE_PREFIX:])
        except ValueError:
            self._fail(stream, Cause.INVALID)
            return
        ident = self._idents.get(sample)
        if ident and answer.ident and answer.ident != ident:
            return
        if self._client.keep_bodies:
            sample.body = sample.body or message
            if answer.error:
                sample.headers = [*sample.headers, (b"grpc-message", answer.error.encode())]
        if answer.error:
            self._failed.add(stream)
        elif answer.has_outputs:
            sample.first_ns = sample.first_ns or self._read_ns
            sample.tokens += 1
        self._on_answer(stream, answer)

    def _on_answer(self, stream: int, answer: Answer) -> None:
        """The request on `stream` has one answer more."""

    def _close_stream(self, stream: int) -> None:
        self._failed.discard(stream)
        super()._close_stream(stream)

    def _on_block(self, stream: int, block: bytes, flags: int) -> None:
        super()._on_block(stream, block, flags)
        if flags & h2.END_STREAM:
            self._partial.pop(stream, None)


class EndedStreamLink(_AnswersLink):
    """Each request has a stream of its own, which the caller ends; its answers are all that come until the server ends
    it too."""

    def send(self, request: bytes, sample: Sample) -> None:
        stream = self._open(sample)
        self._emit(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, self._client.head))
        self._send_body(stream, request, h2.END_STREAM)

    def _finish(self, stream: int, status: int, outcome: Outcome, *, end: bool) -> None:
        if stream in self._failed and outcome is Outcome.OK:
            status, outcome = GrpcStatus.UNKNOWN, Outcome.ERROR
        super()._finish(stream, status, outcome, end=end)


class OpenStreamLink(_AnswersLink):
    """Each stream carries one request after the other, and stays open: for servers that mark a request's last
    answer."""

    def __init__(self, client: Owner) -> None:
        super().__init__(client)
        self._resting: list[int] = []
        self._places: dict[bytes, int] = {}
        self._last_ident = 0

    def send(self, request: bytes, sample: Sample) -> None:
        if self._resting:
            stream = self._resting.pop()
            self._calls[stream] = sample
            self.room -= 1
        else:
            stream = self._open(sample)
            self._emit(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, self._client.head))
        self._send_body(stream, self._named(request, sample), 0)

    def _named(self, request: bytes, sample: Sample) -> bytes:
        """The request with an id of its own, where it has one."""
        place = self._places.get(request)
        if place is None:
            place = self._places[request] = place_of_id(request)
        if place < 0:
            return request
        self._last_ident = (self._last_ident + 1) % (1 << 32)
        ident = self._idents[sample] = f"{self._last_ident:08x}"
        return request[:place] + ident.encode() + request[place + len(PLACEHOLDER) :]

    def _on_answer(self, stream: int, answer: Answer) -> None:
        # An error of the server itself bears no mark; nothing comes after it.
        if answer.is_last is False or (answer.is_last is None and not answer.error):
            return
        failed = stream in self._failed
        code, outcome = (GrpcStatus.UNKNOWN, Outcome.ERROR) if failed else (GrpcStatus.OK, Outcome.OK)
        if stream in self._unsent:  # the rest of the request would stand before the next one
            self._finish(stream, code, outcome, end=False)
            return
        self._failed.discard(stream)
        sample = self._calls.pop(stream)
        self._idents.pop(sample, None)
        self.room += 1
        self._resting.append(stream)
        if not self._going:
            self._client.on_free(self)
        self._client.on_answered(sample, code, outcome, self._read_ns)

    def _close_stream(self, stream: int) -> None:
        self._idents.pop(self._calls[stream], None)
        super()._close_stream(stream)

    def _fail(self, stream: int, cause: Cause) -> None:
        self._forget(stream)
        super()._fail(stream, cause)

    def _on_block(self, stream: int, block: bytes, flags: int) -> None:
        super()._on_block(stream, block, flags)
        if flags & h2.END_STREAM:
            self._forget(stream)

    def _forget(self, stream: int) -> None:
        """The server has ended a stream; on one that rests no request will follow."""
        if stream in self._resting:
            self._resting.remove(stream)
            self._windows.pop(stream, None)
