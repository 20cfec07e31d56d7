"""The first bytes of a gRPC call: the model that they name, and how many messages end in them."""

import random
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from agent.wire.grpc import MAX_NAME, MAX_NAME_SEARCH, PREFIX, MessageCounter, model_name
from protos import open_inference_pb2
from tests.fuzz.bounds import bounded, large
from tests.wire.feeding import cut
from tests.wire.test_grpc import NAMED, message


def seeds() -> Iterator[bytes]:
    for data, _ in NAMED.values():
        yield message(data)
        yield message(data, compressed=False) + message(data)
    yield from large(b"", b"\0", b"\xff", message(b""), message(b"\x2a\1x"), b"\1" + message(b"")[1:])
    yield message(next(large(b"", b"\x10\1")))
    yield message(b"\x0a\x06double\x2a\x00")


def check(data: bytes) -> None:
    with bounded(len(data)):
        name = model_name(data, whole=True)
        early = model_name(data, whole=False)
    assert name is not None
    assert len(name) <= MAX_NAME
    assert early in {None, name}
    generator = random.Random(data)
    for _ in range(4):
        part = model_name(data[: generator.randint(0, len(data))], whole=False)
        assert part is None or early is None or part == early
    _check_against_protobuf(data, name)
    counters = [MessageCounter(), MessageCounter()]
    counters[0].feed(data)
    for piece in cut(data, [generator.randint(0, len(data)) for _ in range(4)]):
        counters[1].feed(piece)
    assert counters[0].count == counters[1].count == _messages(data)


def _messages(data: bytes) -> int:
    count, at = 0, 0
    while at + PREFIX <= len(data):
        at += PREFIX + int.from_bytes(data[at + 1 : at + PREFIX], "big")
        count += at <= len(data)
    return count


def _check_against_protobuf(data: bytes, name: str) -> None:
    """The protobuf library finds the same name in a whole message that has no more than one."""
    size = int.from_bytes(data[1:PREFIX], "big")
    payload = data[PREFIX : PREFIX + size]
    if len(data) < PREFIX or data[0] or len(payload) != size or len(payload) > MAX_NAME_SEARCH:
        return
    read = open_inference_pb2.ModelInferRequest()
    try:
        read.ParseFromString(payload)
    except DecodeError:
        return
    wanted = read.model_name.encode()
    if read.ByteSize() == size:  # what is written again is as long, so nothing in it was told twice
        assert name.encode("latin-1") == (wanted if len(wanted) <= MAX_NAME else b"")
