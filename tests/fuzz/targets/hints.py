"""The first bytes of a V2 request over HTTP or gRPC, and what they say of it. The first byte of an input picks one."""

import json
from collections.abc import Iterator

from agent.wire.hints import NAMES, HintReader
from tests.fuzz.bounds import bounded, large
from tests.wire.test_hints import BODIES

_ALL, _NONE = HintReader(frozenset(NAMES)), HintReader(frozenset())


def seeds() -> Iterator[bytes]:
    for body, _ in BODIES.values():
        yield b"\0" + body.encode()
    yield from large(b"\0", b"[", b'{"a":', b'"a":1,', b"9", b" ", b'{"parameters":{"a":1},')
    yield from large(b"\1", b"\x22\2\0\0", b"\x0a", b"\xff", b"\x2a\0")
    parameters = b"\x22\x0d\x0a\7timeout\x12\2\x10\x05\x22\x0e\x0a\x08priority\x12\2\x28\2"
    yield b"\1\0\0\0\0\x30\x0a\1m" + parameters + b"\x2a\x06\x0a\0\x1a\2\3\4"


def check(data: bytes) -> None:
    grpc, data = bool(data[:1] and data[0] & 1), data[1:]
    with bounded(len(data)):
        hints = _ALL.read(data, grpc=grpc)
    assert hints.patience is None or 0 < hints.patience <= 86400.0
    assert isinstance(hints.priority, int)
    assert hints.priority >= 0
    assert 0 <= hints.rows < 1 << 31
    assert _NONE.read(data, grpc=grpc) == type(hints)()
    if not grpc and len(data) <= 1024:
        _check_against_json(data, hints.priority)


def _check_against_json(data: bytes, priority: int) -> None:
    """A body that is JSON, and whose only keys are the parameters, says what the json library reads."""
    try:
        body = json.loads(data.decode("latin-1"))
    except (ValueError, RecursionError):
        return
    if isinstance(body, dict) and list(body) == ["parameters"] and b"\\" not in data and data.count(b"parameters") == 1:
        given = body["parameters"].get("priority") if isinstance(body["parameters"], dict) else None
        assert priority == (given if type(given) is int and given > 0 else 0)
