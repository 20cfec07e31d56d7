"""The first bytes of a connection: which protocol, and that no more is needed than it says."""

from collections.abc import Iterator

from agent.wire.sniff import PREFACE, Protocol, detect
from tests.fuzz.bounds import bounded


def seeds() -> Iterator[bytes]:
    yield from (PREFACE, PREFACE + b"\0\0\0\4\0\0\0\0\0", b"PRI * HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"\x16\3\1")


def check(data: bytes) -> None:
    with bounded(len(data)):
        protocol = detect(data)
    for size in range(min(len(data), 2 * len(PREFACE))):
        assert detect(data[:size]) in {Protocol.MORE, protocol}
    assert protocol is not Protocol.MORE or len(data) < len(PREFACE)
    assert (protocol is Protocol.HTTP2) == data.startswith(PREFACE)
