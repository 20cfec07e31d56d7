"""Header blocks, one after another on a connection, and the rules about fields.

An input is blocks, each behind two bytes of length; the first bit of the length says whether it is read as an answer's.
"""

from collections.abc import Iterator

import h2.exceptions
import h2.utilities
import hpack

from agent.errors import Fault
from agent.policy.stated import Reader
from agent.wire.fields import Http2Request, Http2Response, Trailers, size_of
from agent.wire.hpack import BlockDecoder, BlockError, encode, is_sensitive
from agent.wire.message import Limits
from agent.wire.sections import Sections
from tests.fuzz.bounds import COMPARED, bounded, large
from tests.wire import frames_by_hand as by_hand
from tests.wire import test_fields, test_hpack

LIMITS = Limits()
_ANSWER, _TRAILERS = 0x80, 0x40
_READER = Reader(deadline=b"x-timeout", priority=b"x-priority", tenant=b"x-tenant", activator=True, load=True)


def seeds() -> Iterator[bytes]:
    blocks = [by_hand.block(fields) for fields, _ in (*test_fields.PSEUDO.values(), *test_fields.REQUESTS.values())]
    blocks += [by_hand.request(b"/", field) for field, _ in test_fields.FIELDS.values() if len(field[0]) < 100]
    blocks += list(test_hpack.BROKEN.values())
    for block in blocks:
        yield _record(block)
    yield b"".join(_record(block) for _, block, _ in test_hpack.EPOCHS)
    for block in (by_hand.response(), by_hand.response(204, (b"content-length", b"3"), (b"grpc-status", b"9"))):
        yield _record(block, _ANSWER)
    for block in large(b"", b"\x82", b"\xbe", b"\0\1a\0", b"\x40\1a\1b", b"\x20", b"\xff"):
        yield _record(by_hand.request() + block[:16_000])
        yield b"".join(_record(block[:60]) for _ in range(300))
    yield _record(by_hand.block([(b"grpc-status", b"0"), (b"grpc-message", b"x ")]), _TRAILERS)


def _record(block: bytes, kind: int = 0) -> bytes:
    size = len(block)
    return bytes([kind | (size >> 8 & 0x3F), size & 0xFF]) + block


def check(data: bytes) -> None:
    kept, fresh, reference = Sections(LIMITS), Sections(LIMITS), BlockDecoder(2 * LIMITS.head)
    at = compared = 0
    while at + 2 <= len(data):
        kind, size = data[at], (data[at] & 0x3F) << 8 | data[at + 1]
        block = data[at + 2 : at + 2 + size]
        at += 2 + size
        try:
            fields = reference.decode(block)
        except BlockError:
            for sections in (kept, fresh):
                try:
                    _read(sections, kind, block)
                except BlockError:
                    continue
                raise AssertionError("one decoder refuses what another takes") from None
            return
        # What is remembered must mean what it meant: `fresh` forgets.
        for known in (fresh._requests, fresh._responses, fresh._trailers):
            known.clear()
        with bounded(len(block)):
            section = _read(kept, kind, block)
        other = _read(fresh, kind, block)
        assert (section is None) == (other is None)
        if section is not None and other is not None:
            assert _sent(section) == _sent(other)
            compared += 1
            if compared <= COMPARED:
                _check_section(section, fields)


def _read(sections: Sections, kind: int, block: bytes) -> Http2Request | Http2Response | Trailers | None:
    """None for what is not accepted."""
    if kind & _ANSWER:
        head = sections.response(block)
        return None if isinstance(head, Fault) else head
    if kind & _TRAILERS:
        return sections.trailers(block)
    request, fault = sections.request(block)
    return request if fault is None else None


def _sent(section: Http2Request | Http2Response | Trailers) -> bytes:
    return section.block(0.0) if isinstance(section, Http2Request) else section.block


def _check_section(section: Http2Request | Http2Response | Trailers, fields: list[tuple[bytes, bytes]]) -> None:
    """What is sent on is what came, and the h2 library has nothing to say against it."""
    sent = _sent(section)
    decoder = hpack.Decoder(1 << 20)
    read = list(decoder.decode(sent, raw=True))
    assert read == fields
    assert [is_sensitive(field) for field in read] == [is_sensitive(field) for field in fields]
    assert not decoder.header_table.dynamic_entries
    assert encode(fields) == sent
    assert size_of(fields) <= LIMITS.head
    assert len(fields) <= LIMITS.fields
    for name, value in fields:
        assert not set(b"\r\n\0") & {*name, *value}
    is_request = isinstance(section, Http2Request)
    flags = h2.utilities.HeaderValidationFlags(
        is_client=not is_request,
        is_trailer=isinstance(section, Trailers),
        is_response_header=isinstance(section, Http2Response),
        is_push_promise=False,
    )
    if is_request and not {b":authority", b"host"} & {name for name, _ in fields}:
        fields = [(b":authority", b"a"), *fields]  # RFC 9113 section 8.3.1 lets a client that knows none leave it out
    # Triton ends grpc-message with a space, which h2 refuses.
    stripped = [(name, value if is_request else value.strip(b" \t")) for name, value in fields]
    list(h2.utilities.validate_headers(stripped, flags))
    if is_request:
        for elapsed in (0.0, 0.5, 1e9):
            hpack.Decoder(1 << 20).decode(section.block(elapsed), raw=True)
        said = _READER.read(section.fields)
        assert said.patience is None or said.patience >= 0
        assert section.patience is None or section.patience >= 0
