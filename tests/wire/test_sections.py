"""Remembered blocks: whatever a table goes through, a block means what a decoder of its own would read in it."""

import random
from typing import Any

import hpack
import pytest

from agent.errors import Fault, Outcome
from agent.wire.fields import Http2Request
from agent.wire.hpack import BlockError
from agent.wire.message import Limits
from agent.wire.sections import MAX_BLOCK_BYTES, MAX_BLOCKS, MAX_KEPT_BYTES, Sections
from tests.wire import frames_by_hand as by_hand

LIMITS = Limits()
NAMES = [b"x-a", b"x-b", b"grpc-timeout", b"authorization", b"content-type", b"te"]


def some_fields(generator: random.Random) -> list[Any]:
    fields: list[Any] = by_hand.pseudo(path=generator.choice([b"/a", b"/b", b"/" + b"c" * 50]))
    for _ in range(generator.randint(0, 3)):
        name = generator.choice(NAMES)
        value = b"trailers" if name == b"te" else generator.choice([b"1S", b"v", b"w" * 40, b"z" * 300])
        fields.append(generator.choice([(name, value), hpack.NeverIndexedHeaderTuple(name, value)]))
    return fields


def read(head: Http2Request) -> list[tuple[type, bytes, bytes]]:
    """The fields of a head as it is forwarded, and whether each is sensitive."""
    return [(type(field), *field) for field in hpack.Decoder().decode(head.block(0.0), raw=True)]


@pytest.mark.parametrize("seed", range(12))
def test_a_remembered_block_means_what_a_decoder_of_its_own_reads(seed: int) -> None:
    generator = random.Random(seed)
    sections, reader = Sections(LIMITS), hpack.Decoder()
    encoder = hpack.Encoder()
    encoder.header_table_size = generator.choice([60, 200, 400, 4096])
    pool = [some_fields(generator) for _ in range(6)]
    blocks: list[bytes] = []
    hits = 0
    for _ in range(400):
        if blocks and generator.random() < 0.4:
            block = generator.choice(blocks)  # an old one, which may mean something else by now, or nothing
        else:
            if generator.random() < 0.05:
                encoder.header_table_size = generator.choice([0, 60, 200, 400, 4096])
            block = encoder.encode(generator.choice(pool), huffman=generator.random() < 0.5)
            blocks = [*blocks[-8:], block]
        known = len(sections._requests)
        try:
            expected = list(reader.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(BlockError):
                sections.request(block)
            return
        hits += block in sections._requests
        head, fault = sections.request(block)
        assert known <= MAX_BLOCKS
        fields = [(type(field), *field) for field in expected]
        if fault is None:
            assert read(head) == fields
        else:
            assert fault.outcome is Outcome.BAD_REQUEST


@pytest.mark.parametrize("seed", range(8))
def test_clients_that_index_for_themselves_are_remembered_and_right(seed: int) -> None:
    """Blocks are never replayed here, so the connection lives on for long and knows many of them."""
    generator = random.Random(seed)
    sections, reader, encoder = Sections(LIMITS), hpack.Decoder(), hpack.Encoder()
    encoder.header_table_size = generator.choice([150, 300, 4096])
    pool = [some_fields(generator) for _ in range(4)]
    known = 0
    for _ in range(600):
        block = encoder.encode(generator.choice(pool))
        expected = [(type(field), *field) for field in reader.decode(block, raw=True)]
        known += block in sections._requests
        head, fault = sections.request(block)
        assert fault is None
        assert read(head) == expected
    assert known > 0 or encoder.header_table_size < 4096


def test_the_same_bytes_give_the_same_head_until_the_table_changes() -> None:
    sections = Sections(LIMITS)
    entry = by_hand.block([(b":status", b"200")]) + by_hand.indexing(b"x-a", b"1")
    by_reference = by_hand.block([(b":status", b"200")]) + by_hand.reference(62)
    sections.response(entry)
    first = sections.response(by_reference)
    assert sections.response(by_reference) is first
    sections.trailers(by_hand.indexing(b"x-a", b"2"))
    second = sections.response(by_reference)
    assert not isinstance(second, Fault)
    assert second.fields == [(b"x-a", b"2")]
    assert sections.response(by_reference) is second
    sections.skip(by_hand.table_size(0))
    with pytest.raises(BlockError):
        sections.response(by_reference)


def test_a_block_that_fills_the_table_is_read_each_time() -> None:
    sections = Sections(LIMITS)
    block = by_hand.request(b"/", (b"a", b"b")) + by_hand.indexing(b"x", b"y")
    heads = [sections.request(block)[0] for _ in range(3)]
    assert len({id(head) for head in heads}) == 3
    assert sections.request(by_hand.request() + by_hand.reference(64))[0].block(0.0).endswith(b"\0\1x\1y")


def test_requests_responses_and_trailers_are_not_mixed_up() -> None:
    sections = Sections(LIMITS)
    block = by_hand.block([(b":status", b"200")])
    assert not isinstance(sections.response(block), Fault)
    assert sections.trailers(block) is None
    fault = sections.request(block)[1]
    assert fault is not None
    assert fault.outcome is Outcome.BAD_REQUEST
    plain = by_hand.block([(b"a", b"b")])
    trailers = sections.trailers(plain)
    assert trailers is not None
    assert sections.trailers(plain) is trailers
    assert isinstance(sections.response(plain), Fault)


def test_faulty_large_and_too_many_blocks_are_not_kept() -> None:
    sections = Sections(LIMITS)
    bad = by_hand.block([(b":method", b"GET")])
    assert sections.request(bad)[1] is not None
    assert sections.request(bad)[1] is not None
    large = by_hand.request(b"/", (b"a", b"b" * MAX_BLOCK_BYTES))
    assert sections.request(large)[0] is not sections.request(large)[0]
    for count in range(5 * MAX_BLOCKS):
        sections.request(by_hand.request(b"/%d" % count))
        assert len(sections._requests) <= MAX_BLOCKS
    block = by_hand.request(b"/again")
    assert sections.request(block)[0] is sections.request(block)[0]


def test_references_to_a_large_entry_pin_no_more_than_the_bound() -> None:
    """A byte on the wire may stand for the whole table: what is kept is counted as it is decoded."""
    sections = Sections(LIMITS)
    sections.skip(by_hand.indexing(b"x-a", b"v" * 3900))
    kept: list[Http2Request] = []
    for count in range(3 * MAX_BLOCKS):
        fault = sections.request(by_hand.request(b"/%d" % count) + by_hand.reference(62) * 2)[1]
        assert fault is None
        kept = list(sections._requests.values())
        assert sum(len(head.block(0.0)) for head in kept) <= MAX_KEPT_BYTES
    assert kept
    block = by_hand.request(b"/again") + by_hand.reference(62)
    assert sections.request(block)[0] is sections.request(block)[0]


def test_lists_that_are_too_large_are_answered_up_to_twice_the_bound() -> None:
    limits = Limits(head=2000)
    for size, outcome in [(1500, None), (2000, Outcome.HEAD_TOO_LARGE), (3500, Outcome.HEAD_TOO_LARGE)]:
        _, fault = Sections(limits).request(by_hand.request(b"/", (b"a", b"x" * size)))
        assert (fault and fault.outcome) == outcome
    with pytest.raises(BlockError):
        Sections(limits).request(by_hand.request(b"/", (b"a", b"x" * 4000)))


def test_a_head_that_repeats_an_entry_over_and_over_is_too_large() -> None:
    """CVE-2026-49975: each reference is a byte, and forwarding it takes the whole field."""
    sections = Sections(LIMITS)
    entry = by_hand.indexing(b"c", b"x" * 450)
    _, fault = sections.request(by_hand.request() + entry + by_hand.reference(62) * 17)
    assert fault is None
    head, fault = sections.request(by_hand.request() + by_hand.reference(62) * 30)
    assert fault is not None
    assert (fault.outcome, head.method) == (Outcome.HEAD_TOO_LARGE, b"POST")


@pytest.mark.parametrize("huffman", [True, False])
def test_what_encoders_do_in_earnest_is_no_bomb(huffman: bool) -> None:
    sections, encoder = Sections(LIMITS), hpack.Encoder()
    table = [(b"x-%02d" % number, b"0" * 80) for number in range(34)]
    for size in (0, 40_000):
        fields = [*by_hand.pseudo(), *table, (b"authorization", b"0" * size)]
        for _ in range(3):
            _, fault = sections.request(encoder.encode(fields, huffman=huffman))
            assert fault is None
