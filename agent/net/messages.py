"""The messages of an inference stream, which are requests of their own: how many the predictor has not answered."""

from agent.policy.usage import Usage
from agent.wire.grpc import MessageCounter


class Messages:
    """Adds up one stream's messages, and keeps `Usage.outstanding` in step."""

    __slots__ = ("_answered", "_asked", "_outstanding", "_usage")

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._asked = MessageCounter()
        self._answered = MessageCounter()
        self._outstanding = 0

    def ask(self, data: bytes | memoryview) -> None:
        """A piece of the request's body."""
        self._change(self._asked.feed(data))

    def answer(self, data: bytes | memoryview) -> None:
        """A piece of the answer's. A model may answer a request with several messages, or none."""
        self._change(-min(self._answered.feed(data), self._outstanding))

    def end(self) -> None:
        """The stream is over."""
        self._change(-self._outstanding)

    def _change(self, count: int) -> None:
        self._outstanding += count
        self._usage.outstanding += count
