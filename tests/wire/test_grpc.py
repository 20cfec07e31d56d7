"""gRPC's own bytes: timeouts, messages in percent encoding, the model's name, and the count of messages."""

import random
import zlib
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.grpc import MAX_NAME, MessageCounter, model_name, percent_encode, read_timeout, write_timeout
from protos.open_inference_pb2 import ModelInferRequest
from tests.examples import examples
from tests.wire.feeding import cut

TIMEOUTS: dict[bytes, float | None] = {
    b"1H": 3600.0,
    b"2M": 120.0,
    b"3S": 3.0,
    b"4m": 0.004,
    b"5u": 5e-6,
    b"6n": 6e-9,
    b"0S": 0.0,
    b"00000001S": 1.0,
    b"99999999S": 99999999.0,
    b"99999999H": 99999999 * 3600.0,
    b"": None,
    b"S": None,
    b"5": None,
    b"5s": None,
    b"5h": None,
    b"5 S": None,
    b" 5S": None,
    b"5S ": None,
    b"5S\n": None,
    b"-5S": None,
    b"+5S": None,
    b"5.0S": None,
    b"0x5S": None,
    b"5_0S": None,
    b"5SS": None,
    b"100000000S": None,
    b"9" * 25 + b"S": None,
    "\u0665S".encode(): None,
    b"\xb2S": None,
}


@pytest.mark.parametrize("value", TIMEOUTS)
def test_timeouts_are_read(value: bytes) -> None:
    seconds = read_timeout(value)
    expected = TIMEOUTS[value]
    assert seconds == (None if expected is None else pytest.approx(expected, rel=1e-12))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.05, b"50000000n"),
        (0.5, b"500000u"),
        (99.5, b"99500000u"),
        (100.5, b"100500m"),
        (200_000.0, b"200000S"),
        (1e8, b"1666666M"),
        (6e9, b"1666666H"),
        (99999999 * 3600.0, b"99999999H"),
        (1e13, b"99999999H"),
        (1e-9, b"1n"),
        (1e-12, b"1n"),
        (0.0, b"1n"),
        (-5.0, b"1n"),
    ],
)
def test_timeouts_are_written(seconds: float, expected: bytes) -> None:
    assert write_timeout(seconds) == expected


@given(st.floats(1e-9, 3e11))
def test_a_written_timeout_is_never_longer_and_hardly_shorter(seconds: float) -> None:
    written = write_timeout(seconds)
    assert len(written) <= 9
    back = read_timeout(written)
    assert back is not None
    assert back <= seconds * (1 + 1e-12) or written == b"1n"
    assert back >= seconds * (1 - 1e-3) - 1e-9


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", b""),
        ("the queue is full", b"the queue is full"),
        (" ~", b" ~"),
        ("100%", b"100%25"),
        ("a\r\nb\0", b"a%0D%0Ab%00"),
        ("\x7f\x1f", b"%7F%1F"),
        ("ü€", b"%C3%BC%E2%82%AC"),
    ],
)
def test_messages_are_encoded(message: str, expected: bytes) -> None:
    assert percent_encode(message) == expected


@given(st.text(max_size=50))
def test_messages_come_back(message: str) -> None:
    encoded = percent_encode(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote_to_bytes(encoded) == message.encode()


# The model's name


def message(payload: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    return bytes([compressed]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, kind: int, value: bytes) -> bytes:
    size = varint(len(value)) if kind == 2 else b""
    return varint(number << 3 | kind) + size + value


NAME = field(1, 2, b"resnet")
TENSORS = field(5, 2, b"x" * 5000)
OTHERS = field(2, 2, b"1") + field(3, 0, b"\xff\x01") + field(4, 5, b"1234") + field(6, 1, b"12345678")

NAMED: dict[str, tuple[bytes, str]] = {
    "alone": (NAME, "resnet"),
    "first": (NAME + OTHERS + TENSORS, "resnet"),
    "behind others": (OTHERS + NAME + TENSORS, "resnet"),
    "the first of two": (NAME + field(1, 2, b"other"), "resnet"),
    "127 bytes": (field(1, 2, b"n" * 127) + OTHERS, "n" * 127),
    "128 bytes": (field(1, 2, b"n" * 128) + OTHERS, "n" * 128),
    "the longest": (field(1, 2, b"n" * MAX_NAME), "n" * MAX_NAME),
    "longer": (field(1, 2, b"n" * (MAX_NAME + 1)), ""),
    "empty": (field(1, 2, b"") + OTHERS, ""),
    "not UTF-8": (field(1, 2, b"\xff\xfe"), "\xff\xfe"),
    "missing": (OTHERS, ""),
    "missing, with tensors": (TENSORS, ""),
    "behind the tensors": (TENSORS + NAME, ""),
    "of another kind": (field(1, 0, b"\x05") + NAME, "resnet"),
    "nothing": (b"", ""),
    "a group": (b"\x0b" + NAME, ""),
    "kind 7": (b"\x0f" + NAME, ""),
    "number cut off": (b"\x80", ""),
    "number too long": (b"\x80" * 11 + NAME, ""),
    "size cut off": (b"\x0a\x80", ""),
    "size huge": (b"\x0a" + varint(2**40) + b"x", ""),
    "size beyond the message": (b"\x0a\x20resnet", ""),
    "skips beyond the message": (b"\x12" + varint(2**60), ""),
    "fixed cut off": (b"\x0d12", ""),
    "size written long": (b"\x0a\x86\x80\x00resnet", "resnet"),
}


@pytest.mark.parametrize("case", NAMED)
def test_the_name_is_found_or_not(case: str) -> None:
    payload, expected = NAMED[case]
    assert model_name(message(payload), whole=False) == expected
    assert model_name(message(payload), whole=True) == expected
    assert model_name(message(payload) + message(NAME), whole=False) == expected


@pytest.mark.parametrize("case", NAMED)
def test_the_name_is_found_at_the_same_byte_or_not_at_all(case: str) -> None:
    """However the message is cut: None until it can be told, then the same for ever."""
    payload, expected = NAMED[case]
    data = message(payload)
    seen = [model_name(data[:size], whole=False) for size in range(min(len(data), 1100) + 1)]
    told = [name for name in seen if name is not None]
    assert set(told) == {expected}
    assert seen == [None] * (len(seen) - len(told)) + told
    if payload.startswith(NAME):
        assert len(seen) - len(told) == len(message(NAME))


def test_cut_off_means_no_name_once_no_more_will_come() -> None:
    data = message(NAME)
    for size in range(len(data)):
        assert model_name(data[:size], whole=True) == ""


@pytest.mark.parametrize("case", [case for case in NAMED if case != "nothing"])
@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, zlib.MAX_WBITS | 16], ids=["deflate", "gzip"])
def test_compressed_messages(case: str, wbits: int) -> None:
    payload, expected = NAMED[case]
    squeeze = zlib.compressobj(wbits=wbits)
    packed = squeeze.compress(payload) + squeeze.flush()
    data = message(packed, compressed=True)
    assert model_name(data, whole=False) == expected
    seen = [model_name(data[:size], whole=False) for size in range(len(data) + 1)]
    assert {name for name in seen if name is not None} == {expected}


def test_a_bomb_is_not_inflated_and_other_codings_are_not_read() -> None:
    squeeze = zlib.compressobj()
    bomb = squeeze.compress(bytes(10**7)) + squeeze.flush()
    assert model_name(message(bomb, compressed=True), whole=False) == ""
    for packed in (b"\xff\x06\x00\x00sNaPpY", NAME, b"\x28\xb5\x2f\xfd1234"):
        assert model_name(message(packed, compressed=True), whole=True) == ""


def test_no_more_than_the_first_kibibyte_is_waited_for() -> None:
    for filler, found in [(900, "resnet"), (1010, "resnet"), (1015, ""), (1100, "")]:
        data = message(field(9, 2, b"x" * filler) + NAME + bytes(5000), length=10_000)
        assert model_name(data, whole=False) == found
    assert model_name(message(TENSORS[:1023], length=10**6), whole=False) is None
    assert model_name(message(TENSORS[:1024], length=10**6), whole=False) == ""
    for length in (2**32 - 1, 2**24):
        assert model_name(message(NAME, length=length), whole=False) == "resnet"
        assert model_name(message(OTHERS + NAME, length=length), whole=False) == "resnet"


def test_a_name_does_not_reach_into_the_next_message() -> None:
    assert model_name(message(b"\x0a\x06") + message(b"resnet"), whole=False) == ""
    assert model_name(message(b"") + message(NAME), whole=False) == ""
    assert model_name(b"\0\0\0\0\0\x0a\x06resnet", whole=True) == ""


def test_the_generated_code_agrees() -> None:
    request = ModelInferRequest(model_name="resnet", model_version="1", id="7")
    request.raw_input_contents.append(b"\x0a\x03abc" * 999)
    assert model_name(message(request.SerializeToString()), whole=False) == "resnet"
    assert model_name(message(ModelInferRequest(id="7").SerializeToString()), whole=True) == ""


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=examples(300))
def test_any_bytes_give_an_answer(data: bytes, whole: bool) -> None:
    for start in (b"", message(b"", length=len(data)), message(b"", compressed=True, length=len(data))):
        name = model_name(start + data, whole=whole)
        assert name is not None or not whole


# Messages


@pytest.mark.parametrize("seed", range(20))
def test_messages_are_counted_where_they_end(seed: int) -> None:
    generator = random.Random(seed)
    sizes = [generator.choice([0, 0, 1, 4, 5, 6, 300]) for _ in range(generator.randint(0, 12))]
    body = b"".join(message(bytes(size), compressed=generator.random() < 0.5) for size in sizes)
    body += b"\0\0\0\0\x09tail"[: generator.randint(0, 9)]
    ends, at = [], 0
    for size in sizes:
        at += 5 + size
        ends.append(at)
    splits = [[body], [body[at : at + 1] for at in range(len(body))]]
    splits += [cut(body, [generator.randint(0, len(body)) for _ in range(5)]) for _ in range(10)]
    for pieces in splits:
        counter = MessageCounter()
        at = 0
        for piece in pieces:
            expected = sum(at < end <= at + len(piece) for end in ends)
            assert counter.feed(memoryview(piece)) == expected
            at += len(piece)
        assert counter.count == len(sizes)


def test_the_largest_message_costs_nothing_to_count() -> None:
    counter = MessageCounter()
    assert counter.feed(b"\0\xff\xff\xff\xff" + bytes(1000)) == 0
    assert counter.feed(bytes(10**6)) == 0
    assert counter.count == 0


def test_all_four_bytes_of_a_length_count() -> None:
    for length in (1 << 24, 1 << 16, 1 << 8, 1):
        counter = MessageCounter()
        assert counter.feed(b"\0" + length.to_bytes(4, "big")) == 0
        assert counter.feed(bytes(length - 1)) == 0
        assert counter.feed(b"x") == 1
