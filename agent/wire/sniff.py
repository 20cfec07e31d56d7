"""Tells HTTP/1.1 from HTTP/2 by the first bytes of a connection."""

from enum import IntEnum

# RFC 9113 section 3.4. "PRI" is a method no HTTP/1.1 client sends, so three bytes decide.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Protocol(IntEnum):
    """What a connection speaks; `MORE` means that the bytes so far fit both."""

    MORE = 0
    HTTP1 = 1
    HTTP2 = 2


def detect(data: bytes) -> Protocol:
    """Decide from the first bytes of a connection; never needs more than the 24 bytes of the preface."""
    if data.startswith(PREFACE):
        return Protocol.HTTP2
    if PREFACE.startswith(data):
        return Protocol.MORE
    return Protocol.HTTP1
