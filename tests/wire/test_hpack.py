"""Header blocks beside the hpack library's own encoder and decoder, and blocks that are broken."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.hpack import BlockDecoder, BlockError, encode, is_sensitive, literal
from tests.examples import examples
from tests.wire import frames_by_hand as by_hand

Field = tuple[bytes, bytes]

LIMIT = 128 * 1024
PATH = (b":path", b"/x")

names = st.sampled_from([b":method", b":path", b"te", b"x-a", b"accept-encoding", b"content-type", b"n" * 200])
values = st.sampled_from([b"", b"GET", b"/", b"gzip, deflate", b"trailers"]) | st.binary(max_size=300)
plain = st.tuples(names, values)
sensitive = st.builds(hpack.NeverIndexedHeaderTuple, names, values)
field_lists = st.lists(plain | sensitive, max_size=8)


@settings(max_examples=examples(200))
@given(field_lists)
def test_what_is_encoded_any_decoder_reads_without_keeping_anything(fields: list[Field]) -> None:
    decoder = hpack.Decoder()
    decoded = list(decoder.decode(encode(fields), raw=True))
    assert decoded == fields
    assert [is_sensitive(field) for field in decoded] == [is_sensitive(field) for field in fields]
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ((b":method", b"GET"), b"\x82"),
        ((b":status", b"200"), b"\x88"),
        ((b":path", b"/x"), b"\x04\x02/x"),
        ((b"x", b"y"), b"\0\1x\1y"),
        ((b"content-type", b""), b"\x0f\x10\0"),
        ((b"x", b"y" * 300), by_hand.literal(b"x", b"y" * 300)),
        (hpack.NeverIndexedHeaderTuple(b"authorization", b"x"), b"\x1f\x08\1x"),
        (hpack.NeverIndexedHeaderTuple(b"x", b"y"), by_hand.never(b"x", b"y")),
        # Sensitive means a literal, also of what the static table has whole (RFC 7541 section 6.2.3).
        (hpack.NeverIndexedHeaderTuple(b":method", b"GET"), b"\x12\3GET"),
        (hpack.NeverIndexedHeaderTuple(b"accept-encoding", b"gzip, deflate"), b"\x1f\x01\x0dgzip, deflate"),
    ],
)
def test_fields_are_static_references_or_literals_without_a_table(field: Field, expected: bytes) -> None:
    assert literal(field) == expected


BROKEN = {
    "index 0": by_hand.reference(0),
    "index without an entry": by_hand.reference(62),
    "index far beyond": by_hand.reference(10**6),
    "name index without an entry": b"\x7e\1x",
    "index cut off": b"\xff",
    "index too long": b"\xff" + b"\x80" * 1000 + b"\x01",
    "name cut off": b"\x40\x05ab",
    "value cut off": b"\x40\1a\x05ab",
    "value missing": b"\x40\1a",
    "length without end": b"\x40\1a\x7f" + b"\xff" * 1000,
    "huffman that is none": b"\0\1a\x84\xff\xff\xff\xff",
    "huffman with long padding": b"\0\1a\x82\x1f\xff",
    "huffman padded with zeros": b"\0\1a\x81\x18",
    "table larger than allowed": by_hand.table_size(4097),
    "table size after a field": b"\x82" + by_hand.table_size(10),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_blocks_raise_one_error_that_quotes_nothing(case: str) -> None:
    with pytest.raises(BlockError) as caught:
        BlockDecoder(LIMIT).decode(BROKEN[case])
    assert len(str(caught.value)) < 60


def test_the_list_is_bounded_whatever_the_size_of_its_block() -> None:
    bomb = by_hand.indexing(b"a", b"x" * 3000) + by_hand.reference(62) * 10_000
    with pytest.raises(BlockError):
        BlockDecoder(LIMIT).decode(bomb)
    # 32 bytes are charged for a field (RFC 9113 section 6.5.2), so tiny ones are no way around.
    for count, good in [(100, True), (101, False)]:
        block = by_hand.literal(b"a", b"") * count
        decoder = BlockDecoder(3300)
        if good:
            assert decoder.decode(block) == [(b"a", b"")] * count
        else:
            with pytest.raises(BlockError):
                decoder.decode(block)


# Block by block: whether the blocks that came before may mean something else from then on.
EPOCHS = [
    ("static and literals", by_hand.block([PATH]) + b"\x82", False),
    ("never indexed", by_hand.never(b"a", b"b"), False),
    ("nothing", b"", False),
    ("an insertion", by_hand.indexing(b"a", b"b"), True),
    ("a reference to it", by_hand.reference(62), False),
    ("its name alone", b"\x0f\x2f\1x", False),
    ("the same once more", by_hand.indexing(b"a", b"b"), True),
    ("an insertion that evicts as many", by_hand.indexing(b"a", b"x" * 4000), True),
    ("another that does", by_hand.indexing(b"b", b"x" * 4000), True),
    ("one that empties the table", by_hand.indexing(b"c", b"x" * 5000), True),
    ("one that finds it empty", by_hand.indexing(b"c", b"x" * 5000), False),
    ("a size", by_hand.table_size(100) + b"\x82", True),
    ("the same size", by_hand.table_size(100) + b"\x82", True),
    ("one in and out", by_hand.indexing(b"a", b"b") + by_hand.indexing(b"c", b"x" * 100), False),
    ("two sizes", by_hand.table_size(0) + by_hand.table_size(4096), True),
]


def test_an_epoch_begins_whenever_known_blocks_may_mean_something_else() -> None:
    decoder = BlockDecoder(LIMIT)
    for name, block, changes in EPOCHS:
        before = decoder.epoch
        decoder.decode(block)
        assert (decoder.epoch > before) == changes, name


def test_sensitive_fields_are_known_as_such_after_decoding() -> None:
    fields = BlockDecoder(LIMIT).decode(by_hand.never(b"a", b"b") + by_hand.literal(b"a", b"b"))
    assert fields == [(b"a", b"b")] * 2
    assert [is_sensitive(field) for field in fields] == [True, False]
