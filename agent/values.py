"""Texts to values: addresses, routes, durations, sizes. A parser's ValueError says which texts are accepted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Address(NamedTuple):
    """Where a predictor listens: host and port, or the path of a Unix socket; and whether it speaks TLS there."""

    host: str
    port: int
    path: str = ""
    tls: bool = False

    @property
    def authority(self) -> bytes:
        """What to put in Host where the client named none."""
        return b"localhost" if self.path else f"{_bracketed(self.host)}:{self.port}".encode()

    def __str__(self) -> str:
        return self.path or f"{_bracketed(self.host)}:{self.port}"

    def url(self, scheme: str) -> str:
        """How it is written in a route."""
        return f"{scheme}+unix:{self.path}" if self.path else f"{scheme}://{_bracketed(self.host)}:{self.port}"


class Page(NamedTuple):
    """A page to GET over HTTP/1.1."""

    address: Address
    path: str

    def __str__(self) -> str:
        return f"{self.address.url('http')}{self.path}"


class Listen(NamedTuple):
    """Where the agent listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class Route(NamedTuple):
    """A listening address and the predictor behind it: where it speaks HTTP/1.1, and where HTTP/2.

    One of the two may be missing, or both may be the same.
    """

    listen: Listen
    http1: Address | None
    http2: Address | None = None

    @property
    def addresses(self) -> list[Address]:
        """Where the predictor listens."""
        return [address for address in (self.http1, self.http2) if address is not None]

    @property
    def upstream(self) -> str:
        """The predictor as it is written in a route."""
        if self.http1 == self.http2 and self.http1 is not None and not self.http1.tls:
            return self.http1.url("auto")
        urls = [
            self.http1 and self.http1.url("https" if self.http1.tls else "http"),
            self.http2 and self.http2.url("h2" if self.http2.tls else "h2c"),
        ]
        return ",".join(url for url in urls if url)


# `--limit auto`: the limit is searched for.
AUTO = 0
MAX_LIMIT = 1_000_000


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB|)")
_UNIT_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def duration(low: float, high: float) -> Callable[[str], float]:
    """A parser of durations between two bounds in seconds."""

    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        value = float(match[1]) * _UNIT_S[match[2]] if match else 0.0 if text == "0" else -1.0
        if not low <= value <= high:
            raise ValueError(f"a duration such as 500ms, 2s or 1m, from {low:g}s to {high:g}s")
        return value

    return parse


def size(low: int, high: int) -> Callable[[str], int]:
    """A parser of sizes between two bounds in bytes."""

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        value = int(match[1]) * _UNIT_BYTES[match[2]] if match else -1
        if not low <= value <= high:
            raise ValueError(f"a size such as 64KiB or 1MiB, from {low} to {high} bytes")
        return value

    return parse


def target(text: str) -> str:
    """The target of a GET, or nothing."""
    if text and re.fullmatch(r"/[!-\"$-~]{0,1023}", text) is None:
        raise ValueError("a path such as /v2/health/ready")
    return text


def number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers between two bounds."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else low - 1
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def choice(*names: str) -> Callable[[str], str]:
    """A parser of one of several words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return parse


def switch(text: str) -> bool:
    """A parser of true and false."""
    return choice("true", "false")(text) == "true"


def limit(text: str) -> int | None:
    """How many requests may run at once: a number, None for no limit, or AUTO."""
    if text == "none":
        return None
    try:
        return AUTO if text == "auto" else number(1, MAX_LIMIT)(text)
    except ValueError:
        raise ValueError(f"auto, none, or a whole number from 1 to {MAX_LIMIT}") from None


def model_limit(text: str) -> tuple[str, int]:
    """A limit of one model's own, NAME=N or NAME=auto."""
    name, _, bound = text.rpartition("=")
    try:
        value = AUTO if bound == "auto" else number(1, MAX_LIMIT)(bound)
    except ValueError:
        name = ""
    if not name:
        raise ValueError(f"NAME=N with N auto or a whole number from 1 to {MAX_LIMIT}")
    return name, value


def model_deadline(text: str) -> tuple[str, float]:
    """A deadline of one model's own: NAME=DUR."""
    name, _, patience = text.rpartition("=")
    if not name:
        raise ValueError("NAME=DUR with a duration such as 500ms or 2s")
    try:
        return name, duration(0.001, 86400)(patience)
    except ValueError as error:
        raise ValueError(f"NAME=DUR with {error}") from None


def names(*known: str) -> Callable[[str], tuple[str, ...]]:
    """A parser of some of several words with commas between them; none is an empty text."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(text.split(",")) if text else ()
        if not set(found) <= set(known) or len(set(found)) < len(found):
            raise ValueError("some of " + ", ".join(known) + ", each once, with commas between them")
        return found

    return parse


def text_file(text: str) -> str:
    """The path of a file that can be read now; empty for none."""
    try:
        if text:
            Path(text).read_text()
    except (OSError, ValueError):
        raise ValueError("the path of a text file that can be read") from None
    return text


_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def field_name(text: str) -> str:
    """The name of a header field, in lower case; empty for none."""
    if text and _FIELD_NAME.fullmatch(text) is None:
        raise ValueError("the name of a header field, such as x-request-timeout")
    return text.lower()


_LISTEN = re.compile(r"(?:([A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})")


def listen(text: str) -> Listen:
    """A listening address: PORT (on every interface) or HOST:PORT."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError("PORT or HOST:PORT with a port from 0 to 65535")
    host = (match[1] or "0.0.0.0").removeprefix("[").removesuffix("]")
    return Listen(host, int(match[2]))


# Of labels that the resolver and TLS accept (RFC 1035 section 2.3.4), with the root's dot or without.
_HOST = r"(?:[A-Za-z0-9\-_]{1,63}\.)*[A-Za-z0-9\-_]{1,63}\.?"


def is_host(text: str) -> bool:
    """Whether this is a host's name or IPv4 address."""
    return len(text) < 254 and re.fullmatch(_HOST, text) is not None


_UPSTREAM_FORM = (
    "http://HOST:PORT (HTTP/1.1), h2c://HOST:PORT (HTTP/2: gRPC), auto://HOST:PORT (both), https:// or h2:// (the same "
    "over TLS), http://...,h2c://... or the like with +unix:/PATH, such as http+unix:/PATH"
)
_OVER_TLS = {"https", "h2"}
_TCP = re.compile(rf"(https?|h2c?|auto)://({_HOST}|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,5}})/?")
_UNIX = re.compile(r"(https?|h2c?|auto)\+unix:(/[^,]{1,106})")  # sun_path holds 108 bytes


def _upstream(text: str) -> tuple[str, Address]:
    """A predictor's address, after what it speaks there."""
    unix = _UNIX.fullmatch(text)
    if unix is not None:
        return unix[1], Address("", 0, unix[2], tls=unix[1] in _OVER_TLS)
    tcp = _TCP.fullmatch(text)
    if tcp is None or not 0 < int(tcp[3]) < 65536:
        raise ValueError(_UPSTREAM_FORM)
    host = tcp[2].removeprefix("[").removesuffix("]")
    # `localhost` resolves to ::1 first where predictors listen on IPv4 alone.
    host = "127.0.0.1" if host == "localhost" else host
    return tcp[1], Address(host, int(tcp[3]), tls=tcp[1] in _OVER_TLS)


_PAGE = re.compile(r"(http://[^/?#]*)(/[\x21\x22\x24-\x7e]*)")


def page(text: str) -> Page:
    """A page to GET: http://HOST:PORT/PATH."""
    match = _PAGE.fullmatch(text)
    host, path = match.groups() if match else ("", "")
    try:
        return Page(_upstream(host)[1], path)
    except ValueError:
        raise ValueError("http://HOST:PORT/PATH, such as http://127.0.0.1:8002/metrics") from None


def route(text: str) -> Route:
    """Where to listen and where to forward to: LISTEN=UPSTREAM or LISTEN=UPSTREAM,UPSTREAM."""
    left, separator, right = text.partition("=")
    if not separator:
        raise ValueError("LISTEN=UPSTREAM, such as 8080=http://127.0.0.1:18080")
    try:
        where = listen(left)
    except ValueError as error:
        raise ValueError(f"LISTEN=UPSTREAM, where LISTEN is {error}") from None
    try:
        pairs = [_upstream(part) for part in right.split(",")]
    except ValueError as error:
        raise ValueError(f"LISTEN=UPSTREAM, where UPSTREAM is {error}") from None
    schemes = sorted(scheme for scheme, _ in pairs)
    addresses = dict(pairs)
    if schemes == ["auto"]:
        return Route(where, addresses["auto"], addresses["auto"])
    http1 = [addresses[scheme] for scheme in schemes if scheme in {"http", "https"}]
    http2 = [addresses[scheme] for scheme in schemes if scheme in {"h2c", "h2"}]
    if len(http1) > 1 or len(http2) > 1 or len(http1) + len(http2) < len(schemes):
        raise ValueError("LISTEN=UPSTREAM,UPSTREAM with one http or https and one h2c or h2 upstream")
    return Route(where, http1[0] if http1 else None, http2[0] if http2 else None)
