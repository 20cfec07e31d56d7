"""Every prefix of what a connection may begin with."""

import pytest

from agent.wire.sniff import PREFACE, Protocol, detect


@pytest.mark.parametrize("length", range(len(PREFACE)))
def test_part_of_the_preface_is_not_enough(length: int) -> None:
    assert detect(PREFACE[:length]) is Protocol.MORE


@pytest.mark.parametrize("rest", [b"", b"\0\0\0\4\0\0\0\0\0", PREFACE])
def test_the_preface_is_http2_whatever_follows(rest: bytes) -> None:
    assert PREFACE == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert detect(PREFACE + rest) is Protocol.HTTP2


@pytest.mark.parametrize("length", range(len(PREFACE)))
def test_the_first_other_byte_decides(length: int) -> None:
    for byte in range(256):
        if byte != PREFACE[length]:
            assert detect(PREFACE[:length] + bytes([byte])) is Protocol.HTTP1
            assert detect(PREFACE[:length] + bytes([byte]) + PREFACE[length + 1 :]) is Protocol.HTTP1


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"PRI / HTTP/1.1\r\n", b"PROPFIND / HTTP/1.1\r\n", b"\x16\x03"],
)
def test_a_decision_stands(start: bytes) -> None:
    seen = [detect(start[:length]) for length in range(len(start) + 1)]
    undecided = seen.count(Protocol.MORE)
    assert seen == [Protocol.MORE] * undecided + [Protocol.HTTP1] * (len(seen) - undecided)
    assert 1 <= undecided <= 5
