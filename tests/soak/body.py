"""The body of an HTTP/1.1 message as it comes: of a known length, or in chunks. Independent of the agent's."""


class Body:
    """Takes a body off the front of a buffer. `done` once it is all there."""

    __slots__ = ("_chunked", "_in_trailers", "_left", "done")

    def __init__(self, length: int | None) -> None:
        self._chunked = length is None
        self._left = length or 0
        self._in_trailers = False
        self.done = length == 0

    def take(self, buffer: bytearray) -> bytes:
        """What there is of the content. Raises ValueError for what is no chunk."""
        if not self._chunked:
            piece = bytes(buffer[: self._left])
            del buffer[: self._left]
            self._left -= len(piece)
            self.done = not self._left
            return piece
        pieces = []
        while not self.done:
            if self._left:
                piece = bytes(buffer[: self._left])
                del buffer[: self._left]
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    break
            at = buffer.find(b"\r\n")
            if at < 0:
                break
            line = bytes(buffer[:at])
            del buffer[: at + 2]
            if self._in_trailers:
                self.done = not line
            elif line:  # and not the line end behind a chunk
                self._left = int(line, 16)
                self._in_trailers = not self._left
        return b"".join(pieces)


def chunk(data: bytes) -> bytes:
    """One chunk; the last one of no data."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def field(head: bytes, name: bytes) -> bytes | None:
    """The value of a field, by its name in lower case; the head too is in lower case, without its last empty line."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    at += len(name) + 3
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()
