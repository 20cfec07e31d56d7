"""The chunked decoder against a naive one that has the whole text before it."""

import re
from itertools import chain
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.chunked import ChunkedReader, ChunkError
from tests.examples import examples
from tests.wire.feeding import cut, splits

EXTENSIONS, TRAILERS = 40, 60

# (body, trailers, bytes that belong to the message), or why there is none.
Decoded = tuple[bytes, list[tuple[bytes, bytes]], int] | str
BROKEN, UNFINISHED = "broken", "unfinished"


def decoded_at_once(text: bytes) -> Decoded:
    """RFC 9112 section 7.1, by slicing; budgets are left to tests of their own."""
    body, at = b"", 0
    while True:
        line, ended, _ = text[at:].partition(b"\n")
        if not ended:
            return UNFINISHED
        size, _, extension = line.removesuffix(b"\r").partition(b";")
        if not line.endswith(b"\r") or not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size):
            return BROKEN
        if any((byte < 32 and byte != 9) or byte == 127 for byte in extension):
            return BROKEN
        at += len(line) + 1
        length = int(size, 16)
        if not length:
            break
        after = text[at + length : at + length + 2]
        if len(after) < 2 and b"\n" not in after:
            return UNFINISHED
        if after != b"\r\n":
            return BROKEN
        body += text[at : at + length]
        at += length + 2
    return _trailers_at_once(text, at, body)


def _trailers_at_once(text: bytes, at: int, body: bytes) -> Decoded:
    trailers: list[tuple[bytes, bytes]] = []
    while True:
        line, ended, _ = text[at:].partition(b"\n")
        if not ended:
            return UNFINISHED
        at += len(line) + 1
        if line == b"\r":
            return body, trailers, at
        name, colon, value = line.removesuffix(b"\r").partition(b":")
        if not line.endswith(b"\r") or not colon or not re.fullmatch(rb"[!#-'*+\-.0-9A-Z^-z|~]+", name):
            return BROKEN
        if any((byte < 32 and byte != 9) or byte == 127 for byte in value):
            return BROKEN
        if name.lower() not in {b"host", b"content-length"}:
            trailers.append((name, value.strip(b" \t")))


def decoded_in_pieces(pieces: list[bytes], extensions: int = EXTENSIONS, trailers: int = TRAILERS) -> Decoded:
    reader = ChunkedReader(extensions, trailers)
    body, consumed = b"", 0
    for piece in pieces:
        try:
            parts, used = reader.feed(memoryview(piece))
        except ChunkError:
            return BROKEN
        assert used == len(piece) or reader.done
        body += b"".join(parts)
        consumed += used
    return (body, reader.trailers, consumed) if reader.done else UNFINISHED


valid_chunks = st.binary(min_size=1, max_size=40).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data))
sizes = st.sampled_from([b"0\r\n", b"5\r\n", b"0", b"a", b"A", b"000", b"5;x=y\r\n", b"+", b"-", b"0x", b"g", b"{"])
fields = st.sampled_from([b"X: y\r\n", b"X:\r\n", b"Host: a\r\n", b"X", b":", b" ", b"\t", b"\0", b"\x7f", b"\xff"])
others = st.sampled_from([b"\r\n", b"\r", b"\n", b";", b"hello", b"5\r\nhello\r\n"])
fragments = st.one_of(valid_chunks, sizes, fields, others)
texts = st.tuples(st.lists(fragments, max_size=8), st.sampled_from([b"", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"])).map(
    lambda parts: b"".join(parts[0]) + parts[1]
)


@settings(max_examples=examples(600))
@given(texts, st.lists(st.integers(0, 200), max_size=6))
def test_any_text_under_any_split_is_read_as_the_naive_decoder_reads_it(text: bytes, places: list[int]) -> None:
    expected = decoded_at_once(text)
    pieces = cut(text, [min(place, len(text)) for place in places])
    for way in (pieces, [text], [text[at : at + 1] for at in range(len(text))]):
        assert decoded_in_pieces(way, 1000, 1000) == expected


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.binary(max_size=20), st.randoms(use_true_random=False)
)
def test_a_body_comes_out_as_it_went_in(pieces: list[bytes], tail: bytes, random: Random) -> None:
    text = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    places = [random.randint(0, len(text)) for _ in range(5)]
    assert decoded_in_pieces([*cut(text, places), tail]) == (b"".join(pieces), [], len(text))


def test_the_views_are_of_the_data_and_not_copies() -> None:
    data = bytearray(b"5\r\nhello\r\n0\r\n\r\n")
    parts, _ = ChunkedReader(0, 0).feed(memoryview(data))
    data[3:8] = b"HELLO"
    assert b"".join(parts) == b"HELLO"


def test_bytes_after_the_end_are_not_touched() -> None:
    reader = ChunkedReader(0, 0)
    assert reader.feed(memoryview(b"0\r\n\r\nGET /"))[1] == 5
    assert reader.done
    assert reader.feed(memoryview(b"more")) == ([], 0)


def test_the_budget_for_extensions_is_kept_to_within_a_size_line() -> None:
    for count, extension in [(1, EXTENSIONS), (4, EXTENSIONS // 4), (EXTENSIONS // 2, 2)]:
        chunks = [b"1;" + b"x" * (extension - 1) + b"\r\na\r\n"] * count
        allowed = b"".join(chunks) + b"0\r\n\r\n"
        beyond = b"".join(chain(chunks, [b"1;" + b"x" * 15 + b"\r\na\r\n"]))
        for pieces in splits(allowed):
            assert decoded_in_pieces(pieces) == (b"a" * count, [], len(allowed))
        for pieces in splits(beyond):
            assert decoded_in_pieces(pieces) == BROKEN


def test_the_budget_for_trailers_is_kept_to_within_a_line_end() -> None:
    for count in (1, 2, 6):
        fields = [b"X: " + b"y" * (TRAILERS // count - 5) + b"\r\n"] * count
        allowed = b"0\r\n" + b"".join(fields) + b"\r\n"
        for pieces in splits(allowed):
            assert decoded_in_pieces(pieces) == (b"", [(b"X", b"y" * (TRAILERS // count - 5))] * count, len(allowed))
        for more in (b"Y:\r\n\r\n", b"Y: z"):
            for pieces in splits(b"0\r\n" + b"".join(fields) + more):
                assert decoded_in_pieces(pieces) == BROKEN


def test_an_endless_line_is_cut_and_not_collected() -> None:
    for start, limit in [(b"", 17 + EXTENSIONS), (b"1\r\nx", 2), (b"0\r\n", TRAILERS + 2)]:
        reader = ChunkedReader(EXTENSIONS, TRAILERS)
        reader.feed(memoryview(start))
        reader.feed(memoryview(b"1" * (limit - 1)))
        try:
            reader.feed(memoryview(b"1"))
        except ChunkError:
            continue
        raise AssertionError(f"a line longer than {limit} bytes was taken after {start!r}")
