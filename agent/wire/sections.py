"""Header blocks as heads and trailers, remembered: equal bytes in an unchanged table mean an equal section.

Clients and predictors repeat their blocks, most of all gRPC's, which carry neither dates nor lengths. What is kept is
immutable and shared by all streams of a connection.
"""

from typing import TypeVar

from agent.errors import Fault, Outcome
from agent.wire.fields import (
    Http2Request,
    Http2Response,
    Trailers,
    read_request,
    read_response,
    read_trailers,
    size_of,
)
from agent.wire.hpack import BlockDecoder, Field
from agent.wire.message import Limits

_Section = TypeVar("_Section", Http2Request, Http2Response, Trailers)

# Bounds what a connection can pin. A few bytes of a block may refer to kilobytes of the table, and what is made of them
# is written out, so it is the decoded sections that are counted (CVE-2016-6581 is the same leverage against decoders).
MAX_BLOCKS = 64
MAX_BLOCK_BYTES = 1024
MAX_KEPT_BYTES = 64 * 1024
# A head may take this many bytes beyond twice those of its block. Huffman codes save three bits in eight, and a table
# of 4 KiB gives each of its entries once; what names the same entries over and over is a bomb (CVE-2026-49975).
MAX_GROWTH = 8 * 1024


class Sections:
    """The header blocks of one direction of a connection. Every method raises BlockError, which ends the connection."""

    __slots__ = ("_decoder", "_epoch", "_kept", "_limits", "_requests", "_responses", "_stable", "_trailers")

    def __init__(self, limits: Limits) -> None:
        # A list that is too large gets an answer, so it must be decoded; far beyond, losing the table is no loss.
        self._decoder = BlockDecoder(2 * limits.head)
        self._limits = limits
        self._epoch = 0
        self._stable = True
        self._kept = 0
        self._requests: dict[bytes, Http2Request] = {}
        self._responses: dict[bytes, Http2Response] = {}
        self._trailers: dict[bytes, Trailers] = {}

    def request(self, block: bytes) -> tuple[Http2Request, Fault | None]:
        """A request's head, and what is wrong with it; see `fields.read_request`."""
        head = self._requests.get(block)
        if head is not None:
            return head, None
        fields = self.skip(block)
        head, fault = read_request(fields, self._limits)
        if fault is None and head.encoded_size > 2 * len(block) + MAX_GROWTH:
            fault = Fault(Outcome.HEAD_TOO_LARGE, "header fields that are repeated by reference")
        if fault is None:
            self._keep(self._requests, block, head, fields)
        return head, fault

    def response(self, block: bytes) -> Http2Response | Fault:
        """A response's head, or what is wrong with it."""
        known = self._responses.get(block)
        if known is not None:
            return known
        fields = self.skip(block)
        head = read_response(fields, self._limits)
        if not isinstance(head, Fault):
            self._keep(self._responses, block, head, fields)
        return head

    def trailers(self, block: bytes) -> Trailers | None:
        """A trailer section, or None if it is malformed."""
        trailers = self._trailers.get(block)
        if trailers is None:
            fields = self.skip(block)
            trailers = read_trailers(fields, self._limits)
            if trailers is not None:
                self._keep(self._trailers, block, trailers, fields)
        return trailers

    def skip(self, block: bytes) -> list[Field]:
        """The fields of a block. Blocks that nobody wants must be decoded too: those that follow refer to them."""
        decoder = self._decoder
        fields = decoder.decode(block)
        self._stable = decoder.epoch == self._epoch
        if not self._stable:
            self._epoch = decoder.epoch
            self._forget()
        return fields

    def _keep(self, known: dict[bytes, _Section], block: bytes, section: _Section, fields: list[Field]) -> None:
        if not self._stable or len(block) > MAX_BLOCK_BYTES:
            return
        size = size_of(fields)
        if len(known) >= MAX_BLOCKS or self._kept + size > MAX_KEPT_BYTES:
            self._forget()
        if size <= MAX_KEPT_BYTES:
            self._kept += size
            known[block] = section

    def _forget(self) -> None:
        self._kept = 0
        for known in (self._requests, self._responses, self._trailers):
            known.clear()
