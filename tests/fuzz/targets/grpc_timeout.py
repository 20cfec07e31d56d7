"""The value of `grpc-timeout`, and of the other fields that say how long a caller waits."""

from collections.abc import Iterator

from agent.policy.stated import read_patience
from agent.wire.grpc import read_timeout, write_timeout
from agent.wire.head import read_milliseconds, read_number
from tests.fuzz.bounds import bounded
from tests.wire.test_grpc import TIMEOUTS

_UNITS_NS = {"H": 3600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}


def seeds() -> Iterator[bytes]:
    yield from TIMEOUTS
    yield from (b"250ms", b"1.5s", b"1m", b"2s", b"250")


def check(data: bytes) -> None:
    with bounded(len(data)):
        seconds = read_timeout(data)
        patience, milliseconds, number = read_patience(data), read_milliseconds(data), read_number(data)
    text = data.decode("latin-1")
    digits, unit = text[:-1], text[-1:]
    expected = None
    if 1 <= len(digits) <= 8 and all(digit in "0123456789" for digit in digits) and unit in _UNITS_NS:
        expected = int(digits) * _UNITS_NS[unit]
    assert (seconds is None) == (expected is None)
    if seconds is not None and expected is not None:
        assert abs(seconds * 1e9 - expected) <= max(1e-3, expected * 1e-9)
        again = read_timeout(write_timeout(seconds))
        assert again is not None
        # Rounded down, but for nothing, which there is no way to say.
        assert again <= max(seconds, 1e-9) * (1 + 1e-9)
        assert again >= seconds * 0.99 - 1e-9
    assert patience is None or 0 <= patience <= 60e9
    assert milliseconds is None or 0 <= milliseconds < 1e6
    assert 0 <= number < 10**9
    for left in (-1e30, -1.0, 0.0, 1e-12, float(len(data)), 1e30):
        assert read_timeout(write_timeout(left)) is not None
