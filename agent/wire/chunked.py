"""The chunked transfer coding of RFC 9112 section 7.1, decoded without a single tolerance.

Every leniency seen in the field (bare LF, spaces around the size, signs, 0x, over-long sizes, data longer than its
size) has been a request-smuggling hole somewhere, so each is an error here. Extensions are read within a budget and
dropped, as a recipient that does not know them must (section 7.1.1).
"""

import re
from enum import IntEnum

from agent.wire.head import TRAILER_FORBIDDEN, Fields

# 15 hex digits stay below 2^60: no size overflows a peer's signed 64-bit counter.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TEXT = rb"[\x21-\x7e\x80-\xff]"
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:" + _TEXT + rb"(?:[\t\x20-\x7e\x80-\xff]*" + _TEXT + rb")?)?)[ \t]*\r\n"
)
_SIZE_DIGITS = 15


class ChunkError(ValueError):
    """The coding is broken; the connection cannot be read any further. `parts` is the body before that."""

    parts: "list[memoryview]"


class _State(IntEnum):
    SIZE = 0  # -> DATA, or TRAILERS after a size of zero
    DATA = 1  # -> DATA_END
    DATA_END = 2  # the CRLF after the data -> SIZE
    TRAILERS = 3  # -> DONE at the empty line
    DONE = 4


class ChunkedReader:
    """Decodes one chunked body from reads of any size.

    `extension_budget` and `trailer_budget` bound, in bytes, what chunk extensions and the trailer section may take over
    the whole message (Go's net/http allows 16 KiB excess, CVE-2023-39326; ours are settings of the machine).
    """

    __slots__ = ("_extension_budget", "_line", "_remaining", "_state", "_trailer_budget", "trailers")

    def __init__(self, extension_budget: int, trailer_budget: int) -> None:
        self.trailers: Fields = []
        self._state = _State.SIZE
        self._remaining = 0
        self._line = b""
        self._extension_budget = extension_budget
        self._trailer_budget = trailer_budget

    @property
    def done(self) -> bool:
        """Whether the last chunk and the trailer section have been read."""
        return self._state is _State.DONE

    def feed(self, data: memoryview) -> tuple[list[memoryview], int]:
        """Return the body bytes in `data` as views of it, and how many bytes of `data` belong to this message.

        Raises ChunkError at the first deviation from the grammar.
        """
        parts: list[memoryview] = []
        at, size = 0, len(data)
        while at < size and self._state is not _State.DONE:
            if self._state is _State.DATA:
                end = min(size, at + self._remaining)
                self._remaining -= end - at
                if not self._remaining:
                    self._state = _State.DATA_END
                parts.append(data[at:end])
                at = end
            else:
                try:
                    at = self._take_line(data, at)
                except ChunkError as error:
                    error.parts = parts
                    raise
        return parts, at

    def _take_line(self, data: memoryview, at: int) -> int:
        """Collect a CRLF line from `at` on, act on it when it is complete, and return the position after it."""
        limit = self._line_limit() - len(self._line)
        # Nearly every line is shorter than 32 bytes; copying the whole budget for each would cost 8 KiB a tiny chunk.
        window = bytes(data[at : at + min(limit, 32)])
        cut = window.find(b"\n")
        if cut < 0 and len(window) == 32:
            window = bytes(data[at : at + limit])
            cut = window.find(b"\n")
        if cut < 0:
            if len(window) == limit:
                raise ChunkError("chunk line or trailer section too long")
            self._line += window
            return at + len(window)
        line = self._line + window[: cut + 1]
        self._line = b""
        if self._state is _State.SIZE:
            self._on_size(line)
        elif self._state is _State.DATA_END:
            if line != b"\r\n":
                raise ChunkError("chunk data is not followed by CRLF")
            self._state = _State.SIZE
        else:
            self._on_trailer(line)
        return at + cut + 1

    def _line_limit(self) -> int:
        if self._state is _State.SIZE:
            return _SIZE_DIGITS + 2 + self._extension_budget
        return 2 if self._state is _State.DATA_END else self._trailer_budget + 2

    def _on_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise ChunkError("bad chunk size")
        digits = match[1]
        self._extension_budget -= len(line) - len(digits) - 2
        self._remaining = int(digits, 16)
        self._state = _State.DATA if self._remaining else _State.TRAILERS

    def _on_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self._state = _State.DONE
            return
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ChunkError("bad trailer field")
        self._trailer_budget -= len(line)
        name, value = match.groups()
        if name.lower() not in TRAILER_FORBIDDEN:
            self.trailers.append((name, value))
