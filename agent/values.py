"""Texts to values: addresses, routes, durations, sizes. A parser's ValueError says which texts are accepted."""

import re
from collections.abc import Callable
from typing import NamedTuple


class Address(NamedTuple):
    """Where a predictor listens: host and port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> bytes:
        """What to put in Host where the client named none."""
        return b"localhost" if self.path else f"{_bracketed(self.host)}:{self.port}".encode()

    def __str__(self) -> str:
        return f"http+unix:{self.path}" if self.path else f"http://{_bracketed(self.host)}:{self.port}"


class Listen(NamedTuple):
    """Where the agent listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class Route(NamedTuple):
    """A listening address and the predictor behind it."""

    listen: Listen
    upstream: Address


# What `--limit auto` stands for: about what a CPU predictor with a handful of workers runs at its best throughput.
AUTO_LIMIT = 16
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
    """How many requests may run at once: a number, none, or auto."""
    if text == "none":
        return None
    try:
        return AUTO_LIMIT if text == "auto" else number(1, MAX_LIMIT)(text)
    except ValueError:
        raise ValueError(f"auto, none, or a whole number from 1 to {MAX_LIMIT}") from None


def model_limit(text: str) -> tuple[str, int]:
    """A limit of one model's own: NAME=N."""
    name, _, bound = text.rpartition("=")
    try:
        value = number(1, MAX_LIMIT)(bound)
    except ValueError:
        value = 0
    if not name or not value:
        raise ValueError(f"NAME=N with N a whole number from 1 to {MAX_LIMIT}")
    return name, value


_LISTEN = re.compile(r"(?:([A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})")


def listen(text: str) -> Listen:
    """A listening address: PORT (on every interface) or HOST:PORT."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError("PORT or HOST:PORT with a port from 0 to 65535")
    host = (match[1] or "0.0.0.0").removeprefix("[").removesuffix("]")
    return Listen(host, int(match[2]))


_UPSTREAM_FORM = "http://HOST:PORT or http+unix:/PATH"
_TCP = re.compile(r"http://([A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?")
_UNIX = re.compile(r"http\+unix:(/.{1,106})")  # sun_path holds 108 bytes


def upstream(text: str) -> Address:
    """A predictor's address."""
    if text.startswith(("h2c:", "auto:")):
        raise ValueError(f"{_UPSTREAM_FORM}; this version serves HTTP/1.1 and has no h2c or auto upstreams")
    unix = _UNIX.fullmatch(text)
    if unix is not None:
        return Address("", 0, unix[1])
    tcp = _TCP.fullmatch(text)
    if tcp is None or not 0 < int(tcp[2]) < 65536:
        raise ValueError(_UPSTREAM_FORM)
    host = tcp[1].removeprefix("[").removesuffix("]")
    # `localhost` resolves to ::1 first where predictors listen on IPv4 alone.
    return Address("127.0.0.1" if host == "localhost" else host, int(tcp[2]))


def route(text: str) -> Route:
    """Where to listen and where to forward to: LISTEN=UPSTREAM."""
    left, separator, right = text.partition("=")
    if not separator:
        raise ValueError("LISTEN=UPSTREAM, such as 8080=http://127.0.0.1:18080")
    try:
        where = listen(left)
    except ValueError as error:
        raise ValueError(f"LISTEN=UPSTREAM, where LISTEN is {error}") from None
    try:
        return Route(where, upstream(right))
    except ValueError as error:
        raise ValueError(f"LISTEN=UPSTREAM, where UPSTREAM is {error}") from None
