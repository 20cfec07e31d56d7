"""HTTP/1.1 requests that two readers may read differently: a table of what has been tried on others, and a generator.

Sources: RFC 9112, Linhart et al. 2005, Kettle 2019, 2022 and 2025, and the CVEs that tests/wire/test_http1_refusals.py
names.
"""

import random
from collections.abc import Iterator

from tests.contract.payloads import INFER, v2

BODY = v2()
_SIZE = len(BODY)
_LINE = b"POST " + INFER.encode() + b" HTTP/1.1\r\n"
_TYPE = b"Content-Type: application/json\r\n"
_HOST = b"Host: predictor.test\r\n"
_LENGTH = b"Content-Length: %d\r\n" % _SIZE
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (BODY[:5], _SIZE - 5, BODY[5:])
_SECOND = b"GET /v2/models/double HTTP/1.1\r\nHost: b\r\n\r\n"

# Request lines.
LINES = {
    "two spaces": _LINE.replace(b" ", b"  ", 1),
    "a tab": _LINE.replace(b" ", b"\t", 1),
    "a space behind": _LINE.replace(b"\r\n", b" \r\n"),
    "a bare LF": _LINE.replace(b"\r\n", b"\n"),
    "a bare CR": _LINE.replace(b"\r\n", b"\r"),
    "two CR": _LINE.replace(b"\r\n", b"\r\r\n"),
    "empty lines before": b"\r\n\r\n" + _LINE,
    "empty LF lines before": b"\n\n" + _LINE,
    "a space before": b" " + _LINE,
    "a NUL before": b"\0" + _LINE,
    "HTTP/1.0": _LINE.replace(b"1.1", b"1.0"),
    "HTTP/0.9": b"GET /v2/models/double\r\n",
    "HTTP/1.2": _LINE.replace(b"1.1", b"1.2"),
    "HTTP/2.0": _LINE.replace(b"1.1", b"2.0"),
    "HTTP/1.10": _LINE.replace(b"1.1", b"1.10"),
    "lower case version": _LINE.replace(b"HTTP", b"http"),
    "lower case method": _LINE.replace(b"POST", b"post"),
    "unknown method": _LINE.replace(b"POST", b"FROB"),
    "absolute form": _LINE.replace(b"/v2", b"http://predictor.test/v2", 1),
    "absolute form of another": _LINE.replace(b"/v2", b"http://other.test/v2", 1),
    "a fragment": _LINE.replace(b" HTTP", b"#x HTTP"),
    "a space in the target": _LINE.replace(b" HTTP", b" x HTTP"),
    "a control in the target": _LINE.replace(b" HTTP", b"\x01 HTTP"),
    "beyond ASCII": _LINE.replace(b" HTTP", b"?\xe9 HTTP"),
    "an encoded line end": _LINE.replace(b" HTTP", b"?a=%0d%0aHost:%20b HTTP"),
    "dot segments": _LINE.replace(b"/v2", b"/v2/../v2", 1),
}

# Fields beside Host and Content-Type, and the body that follows.
FRAMINGS = {
    "length": (_LENGTH, BODY),
    "chunked": (_CHUNKED, CHUNKS),
    "CL.TE": (_LENGTH + _CHUNKED, CHUNKS),
    "TE.CL": (_CHUNKED + b"Content-Length: 4\r\n", CHUNKS),
    "two equal lengths": (_LENGTH * 2, BODY),
    "two lengths": (_LENGTH + b"Content-Length: 0\r\n", BODY),
    "two lengths the other way": (b"Content-Length: 0\r\n" + _LENGTH, BODY),
    "a list of lengths": (b"Content-Length: %d, %d\r\n" % (_SIZE, _SIZE), BODY),
    "a sign": (b"Content-Length: +%d\r\n" % _SIZE, BODY),
    "a minus": (b"Content-Length: -%d\r\n" % _SIZE, BODY),
    "hexadecimal": (b"Content-Length: 0x%x\r\n" % _SIZE, BODY),
    "an underscore": (b"Content-Length: 1_0\r\n", BODY),
    "leading zeros": (b"Content-Length: 000%d\r\n" % _SIZE, BODY),
    "a space inside": (b"Content-Length: %d 0\r\n" % _SIZE, BODY),
    "a decimal": (b"Content-Length: %d.0\r\n" % _SIZE, BODY),
    "2^64 and more": (b"Content-Length: %d\r\n" % (2**64 + _SIZE), BODY),
    "empty": (b"Content-Length:\r\n", BODY),
    "white space around": (b"Content-Length: \t %d \t \r\n" % _SIZE, BODY),
    "a digit of another script": (b"Content-Length: \xd9\xa3\r\n", BODY),
    "a space before the colon": (b"Content-Length : %d\r\n" % _SIZE, BODY),
    "coding, a space before the colon": (b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "coding, a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "coding, a no-break space": (b"Transfer-Encoding: chunked\xa0\r\n", CHUNKS),
    "coding, a NUL": (b"Transfer-Encoding: chunked\0\r\n", CHUNKS),
    "coding, xchunked": (b"Transfer-Encoding: xchunked\r\n" + _LENGTH, BODY),
    "coding, twice": (_CHUNKED * 2, CHUNKS),
    "coding, identity and chunked": (b"Transfer-Encoding: identity\r\n" + _CHUNKED, CHUNKS),
    "coding, chunked and identity": (b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "coding, a list of one": (b"Transfer-Encoding: chunked,\r\n", CHUNKS),
    "coding, quoted": (b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    "coding, upper case": (b"TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS),
    "coding, folded": (b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    "coding, gzip": (b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "coding, a parameter": (b"Transfer-Encoding: chunked;x=y\r\n", CHUNKS),
    "coding behind a fold": (b"X: y\r\n Transfer-Encoding: chunked\r\n" + _LENGTH, BODY),
    "coding behind a bare LF": (b"X: y\nTransfer-Encoding: chunked\r\n" + _LENGTH, BODY),
    "coding behind a bare CR": (b"X: y\rTransfer-Encoding: chunked\r\n" + _LENGTH, BODY),
    "neither": (b"", BODY),
    "neither and a request": (b"", _SECOND),
    "a request in the body": (b"Content-Length: %d\r\n" % len(_SECOND), _SECOND),
    "a request behind": (_LENGTH, BODY + _SECOND),
    "a body cut short": (_LENGTH, BODY[:-9]),
    "expectation": (_LENGTH + b"Expect: 100-continue\r\n", BODY),
    "another expectation": (_LENGTH + b"Expect: 200-ok\r\n", BODY),
    "upgrade": (_LENGTH + b"Upgrade: websocket\r\nConnection: upgrade\r\n", BODY),
    "upgrade to h2c": (_LENGTH + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: upgrade\r\n", BODY),
    "close": (_LENGTH + b"Connection: close\r\n", BODY),
    "close and a request": (_LENGTH + b"Connection: close\r\n", BODY + _SECOND),
    "length named by Connection": (_LENGTH + b"Connection: content-length\r\n", BODY),
    "coding named by Connection": (_CHUNKED + b"Connection: transfer-encoding\r\n", CHUNKS),
    "names with underscores": (b"Content_Length: 3\r\nTransfer_Encoding: chunked\r\n" + _LENGTH, BODY),
    "names alike": (b"Content-Length-: 3\r\nX-Transfer-Encoding: chunked\r\n" + _LENGTH, BODY),
    "a content coding": (b"Content-Encoding: chunked\r\n" + _LENGTH, BODY),
    "options": (b"Connection: keep-alive, x, close-not\r\nX: y\r\nKeep-Alive: timeout=0, max=0\r\n" + _LENGTH, BODY),
    "a proxy's option": (b"Proxy-Connection: close\r\nTE: trailers, chunked\r\n" + _LENGTH, BODY),
    "an announced trailer": (b"Trailer: Content-Length\r\n" + _CHUNKED, CHUNKS),
    "expectation in another case": (b"Expect: 100-Continue\r\n" + _LENGTH, BODY),
    "expectation of chunks": (b"Expect: 100-continue\r\n" + _CHUNKED, CHUNKS),
    "empty values": (b"X:\r\nY: \t \r\n" + _LENGTH, BODY),
    "many fields": (b"".join(b"X-%d: %d\r\n" % (count, count) for count in range(100)) + _LENGTH, BODY),
    "a long field": (b"X: " + b"y" * 7_000 + b"\r\n" + _LENGTH, BODY),
    "two hosts": (b"Host: other.test\r\n" + _LENGTH, BODY),
    "an empty name": (b": x\r\n" + _LENGTH, BODY),
    "no colon": (b"X\r\n" + _LENGTH, BODY),
    "a control in a value": (b"X: a\x01b\r\n" + _LENGTH, BODY),
    "a NUL in a value": (b"X: a\0b\r\n" + _LENGTH, BODY),
    "a space in a name": (b"X Y: z\r\n" + _LENGTH, BODY),
    "obs-text": (b"X: \xff\xe9\r\n" + _LENGTH, BODY),
}

# Chunked bodies.
CODINGS = {
    "one chunk": b"%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "upper case and zeros": b"000%X\r\n%b\r\n000\r\n\r\n" % (_SIZE, BODY),
    "17 digits": b"0000000000000%04x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "2^64 and more": b"1%016x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "0x": b"0x%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "a sign": b"+%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "an underscore": b"0_%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "a space before": b" %x\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "a space behind": b"%x \r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "LF behind the size": b"%x\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "CR behind the size": b"%x\r%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "LF behind the data": b"%x\r\n%b\n0\r\n\r\n" % (_SIZE, BODY),
    "other bytes behind the data": b"%x\r\n%bxx0\r\n\r\n" % (_SIZE, BODY),
    "nothing behind the data": b"%x\r\n%b0\r\n\r\n" % (_SIZE, BODY),
    "an extension": b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (_SIZE, BODY),
    "a quoted extension": b'%x;a="b\\"c;d"\r\n%b\r\n0\r\n\r\n' % (_SIZE, BODY),
    "LF in an extension": b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "CR in an extension": b"%x;a\rb\r\n%b\r\n0\r\n\r\n" % (_SIZE, BODY),
    "a large extension": b"%x;%b\r\n%b\r\n0\r\n\r\n" % (_SIZE, b"a" * 9_000, BODY),
    "a trailer": b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (_SIZE, BODY),
    "a length in the trailer": b"%x\r\n%b\r\n0\r\nContent-Length: 9\r\n\r\n" % (_SIZE, BODY),
    "a host in the trailer": b"%x\r\n%b\r\n0\r\nHost: b\r\n\r\n" % (_SIZE, BODY),
    "a folded trailer": b"%x\r\n%b\r\n0\r\nX: y\r\n z\r\n\r\n" % (_SIZE, BODY),
    "a trailer of LF": b"%x\r\n%b\r\n0\r\nX: y\n\r\n" % (_SIZE, BODY),
    "an end of LF": b"%x\r\n%b\r\n0\n\n" % (_SIZE, BODY),
    "an end without its empty line": b"%x\r\n%b\r\n0\r\n" % (_SIZE, BODY),
    "a request behind": b"%x\r\n%b\r\n0\r\n\r\n%b" % (_SIZE, BODY, _SECOND),
    "no last chunk": b"%x\r\n%b\r\n" % (_SIZE, BODY),
    "an empty size": b"\r\n%b\r\n0\r\n\r\n" % BODY,
}

# Methods and targets whose bodies a server may forget to read (CL.0, Kettle 2022).
TARGETS = [
    (method, target)
    for method in (b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
    for target in (b"/v2", b"/v2/health/live", b"/v2/models/double", b"/no/such/route", b"/v2/models/nobody/infer")
] + [(b"OPTIONS", b"*")]

_NASTY = (
    b"\r\n|\r|\n|\0| |\t|:|,|;|\x0b|\x7f|\x80|0|1|+|-|_|a|\r\n |Content-Length: 3\r\n|Transfer-Encoding: chunked\r\n"
    b"|Connection: close\r\n|Host: b\r\n|Expect: 100-continue\r\n|X: y\r\n|chunked|, chunked|0\r\n\r\n|\r\n\r\n"
).split(b"|")


def table() -> Iterator[bytes]:
    """Every case of the tables, once."""
    for line in LINES.values():
        yield line + _HOST + _TYPE + _LENGTH + b"\r\n" + BODY
    for fields, body in FRAMINGS.values():
        yield _LINE + _HOST + _TYPE + fields + b"\r\n" + body
        yield _LINE + fields + _HOST + _TYPE + b"\r\n" + body
    for body in CODINGS.values():
        yield _LINE + _HOST + _TYPE + _CHUNKED + b"\r\n" + body
    for method, target in TARGETS:
        line = b"%b %b HTTP/1.1\r\n" % (method, target)
        yield line + _HOST + _TYPE + b"Content-Length: %d\r\n\r\n" % len(_SECOND) + _SECOND
        yield line + _HOST + _TYPE + _CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_SECOND), _SECOND)
    yield _LINE + _TYPE + _LENGTH + b"\r\n" + BODY
    yield _LINE + b" " + _HOST + _TYPE + _LENGTH + b"\r\n" + BODY
    yield _LINE + _HOST + b" folded\r\n" + _TYPE + _LENGTH + b"\r\n" + BODY


def generated(seed: int) -> Iterator[bytes]:
    """Mixtures and mutations of the tables without end, the same for the same seed. Tensors stay as they are."""
    generator = random.Random(seed)
    lines, framings, codings = list(LINES.values()), list(FRAMINGS.values()), list(CODINGS.values())
    while True:
        # Most of these are refused, and two of them nearly always: so what is odd is the exception at every place.
        line = generator.choice([_LINE] * 7 + [generator.choice(lines)])
        if generator.random() < 0.2:
            line = b"%b %b HTTP/1.1\r\n" % generator.choice(TARGETS)
        fields, body = generator.choice(framings)
        if generator.random() < 0.7:
            fields, body = generator.choice(
                [(_LENGTH, BODY), (_CHUNKED, CHUNKS), (_CHUNKED, generator.choice(codings))]
            )
        head = [_HOST, _TYPE, fields]
        if generator.random() < 0.2:
            head.append(generator.choice(framings)[0])
        generator.shuffle(head)
        data = line + b"".join(head) + b"\r\n"
        for _ in range(generator.choice([0, 0, 0, 1, 1, 2])):
            at, nasty = generator.randrange(len(data) + 1), generator.choice(_NASTY)
            data = data[:at] + nasty + data[at + generator.randint(0, 1) :]
        if body.startswith((b"%x" % _SIZE, b"5\r\n")) and generator.random() < 0.3:
            at = generator.choice([generator.randrange(8), len(body) - generator.randrange(8)])
            body = body[:at] + generator.choice(_NASTY) + body[at:]
        yield data + body
