"""Calls by grpcio, several at once, and such that the model holds until the test lets them go."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc

from .grpcpayloads import INFER, message

# A call that is not answered by then never will be.
PATIENCE_S = 30.0

# Each channel has a connection of its own, tries once, and heeds no proxy from the environment.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a unary call ended. `message` is None unless it was OK."""

    code: grpc.StatusCode
    details: str
    initial: Metadata
    trailing: Metadata
    message: bytes | None

    def values(self, name: str) -> list[str | bytes]:
        """The values of a trailer."""
        return [value for known, value in self.trailing if known == name]


@contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """A channel of grpcio."""
    with grpc.insecure_channel(address, options=OPTIONS) as opened:
        yield opened


def begin(
    opened: grpc.Channel, sent: bytes, *, method: str = INFER, timeout_s: float = PATIENCE_S, metadata: Metadata = ()
) -> Any:
    """Start a unary call, as a future of grpcio."""
    return opened.unary_unary(method, None, None).future(sent, timeout=timeout_s, metadata=metadata)


def reply(call: Any) -> Reply:
    """Wait for the end of a unary call."""
    code = call.code()
    return Reply(
        code,
        call.details() or "",
        tuple(call.initial_metadata() or ()),
        tuple(call.trailing_metadata() or ()),
        call.result() if code is grpc.StatusCode.OK else None,
    )


def ask(address: str, sent: bytes, **options: Any) -> Reply:
    """Make a unary call on a connection of its own."""
    with channel(address) as opened:
        return reply(begin(opened, sent, **options))


def held(key: str, model: str = "double") -> bytes:
    """A request that takes until `key` is released."""
    return message(model=model, wishes={"hold": key})


class Crowd:
    """Calls under way. Made by `calling`."""

    def __init__(self, channels: Sequence[grpc.Channel], requests: Sequence[bytes]) -> None:
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self.calls = [begin(channels[number % len(channels)], sent) for number, sent in enumerate(requests)]
        for call in self.calls:
            call.add_done_callback(self._ended.put)

    def receive(self, count: int) -> list[Reply]:
        """The next calls to end, in the order in which they do. Raises queue.Empty where too few end."""
        return [reply(self._ended.get(timeout=PATIENCE_S + 5)) for _ in range(count)]

    def codes(self, count: int) -> Counter[grpc.StatusCode]:
        """How the next calls end."""
        return Counter(answer.code for answer in self.receive(count))


@contextmanager
def calling(address: str, requests: Sequence[bytes], *, connections: int = 2) -> Iterator[Crowd]:
    """All of these calls, under way on a few connections."""
    with ExitStack() as stack:
        yield Crowd([stack.enter_context(channel(address)) for _ in range(connections)], requests)


def check_refusal(refused: Reply, code: grpc.StatusCode, reason: str) -> None:
    """What every client can make sense of."""
    assert refused.code is code, refused
    assert refused.values("x-headgate-reason") == [reason]
    assert refused.details
    assert "127.0.0.1" not in refused.details
