"""PURE: what is written on the command line, read. Every parser raises ValueError for what it does not accept."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from loadgen.payload import DATATYPES, MAX_ELEMENTS, Tensor
from loadgen.schedule import Arrivals, Step, planned_arrivals
from loadgen.units import format_rate, parse_duration

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PREFIX = re.compile(r"[\x21-\x7e]*")
_SHAPE = re.compile(r"([^:]+):(\d+(?:,\d+)*)(?::([A-Z0-9]+))?")
_SLO = re.compile(r"(p\d{1,2}(?:\.\d{1,3})?|mean|max|ttft|errors|shed|timeouts|rps)\s*([<>])\s*(\S+)")
# The client frames bodies itself; a second Content-Length would make requests that peers rightly refuse.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "expect", "upgrade"})

RATE = (0.01, 200_000.0)
CONCURRENCY = (1, 10_000)
DURATION_S = (0.1, 86_400.0)
TIMEOUT_S = (0.001, 3_600.0)
MAX_STEPS = 1_000
MAX_LEVELS = 200
_RATE_LEVELS = 8

_N = TypeVar("_N", int, float)

_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


class Url(NamedTuple):
    """`SCHEME://HOST[:PORT][/PREFIX]`, taken apart."""

    host: str
    port: int
    prefix: str
    scheme: str = "http"

    @property
    def authority(self) -> str:
        """The Host header that goes with it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_tls(self) -> bool:
        """Whether the scheme asks for TLS."""
        return self.scheme in {"https", "grpcs"}

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


class Protocol(StrEnum):
    """What is said to the server."""

    HTTP = "http"  # V2 over HTTP/1.1
    GRPC = "grpc"  # V2 ModelInfer
    GRPC_STREAM = "grpc-stream"  # V2 ModelStreamInfer
    V1 = "v1"
    OPENAI = "openai"  # chat completions, streamed
    POST = "post"  # any body to any path


class Slo(NamedTuple):
    """`metric` must stay below (`above`: stay above) `bound`: seconds, a share, or requests a second."""

    metric: str
    bound: float
    above: bool
    text: str

    @property
    def quantile(self) -> float | None:
        """The quantile of a percentile's metric (0..1)."""
        return float(self.metric[1:]) / 100 if self.metric[0] == "p" else None

    def holds(self, value: float | None) -> bool:
        """Whether `value` keeps it; nothing measured keeps nothing."""
        return value is not None and (value > self.bound if self.above else value < self.bound)


class Spread(NamedTuple):
    """How open-loop requests are spread: `cv` is gamma's, `file` holds the times instead."""

    kind: Arrivals
    cv: float = 1.0
    file: Path | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"arrivals of {self.file}"
        return f"{self.kind} (cv {self.cv:g}) arrivals" if self.kind is Arrivals.GAMMA else f"{self.kind} arrivals"


def parse_url(text: str) -> Url:
    """`http://HOST[:PORT][/PREFIX]`, or https, grpc, grpcs."""
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(text)
    if not _PREFIX.fullmatch(parts.path):
        raise ValueError(text)
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Url(parts.hostname, port, parts.path.rstrip("/"), parts.scheme)


def parse_models(text: str) -> tuple[tuple[str, float], ...]:
    """`resnet50`, or `a=3,b=1`: three requests to a for each to b."""
    if "=" not in text:
        return ((parse_text(text), 1.0),)
    models = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        models.append((parse_text(name), number((0.001, 1_000_000.0))(weight)))
    if len({name for name, _ in models}) < len(models):
        raise ValueError(text)
    return tuple(models)


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None or parts.path or "@" in parts.netloc:
        raise ValueError(text)
    return parts.hostname, parts.port


def parse_moment(text: str) -> float:
    """`2026-01-01T12:00:00Z`, or seconds since 1970; as the latter."""
    try:
        moment = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text).astimezone().timestamp()
    if not 0 <= moment < math.inf:
        raise ValueError(text)
    return moment


def parse_steps(text: str) -> tuple[Step, ...]:
    """`100:5s,300:5s,300-50:10s`: a rate or a change of it, and for how long."""
    steps = []
    for part in text.split(","):
        rates, colon, duration = part.partition(":")
        first, dash, last = rates.partition("-")
        if not colon:
            raise ValueError(part)
        read = number((0.0, RATE[1]))
        steps.append(Step(read(first), duration_within(DURATION_S)(duration), read(last) if dash else None))
    if len(steps) > MAX_STEPS or not planned_arrivals(steps):
        raise ValueError(text)
    return tuple(steps)


def describe_step(step: Step) -> str:
    """`100/s`, or `100/s to 300/s`."""
    return format_rate(step.rate) + ("" if step.end_rate is None else f" to {format_rate(step.end_rate)}")


def describe_steps(steps: Sequence[Step]) -> str:
    """The text that `parse_steps` reads as these."""
    return ",".join(
        f"{step.rate:.9g}{'' if step.end_rate is None else f'-{step.end_rate:.9g}'}:{step.duration_s * 1e3:.9g}ms"
        for step in steps
    )


def parse_spread(text: str) -> Spread:
    """`poisson`, `constant` (or `const`), `gamma:CV`, `file:PATH`."""
    kind, colon, rest = text.partition(":")
    if kind == "gamma" and colon:
        return Spread(Arrivals.GAMMA, number((0.05, 20.0))(rest))
    if kind == "file" and colon:
        return Spread(Arrivals.CONSTANT, file=parse_file(rest))
    if colon or kind == "gamma":
        raise ValueError(text)
    return Spread(Arrivals.CONSTANT if kind == "const" else Arrivals(kind))


def parse_callers(text: str) -> tuple[int, ...]:
    """Levels of callers: `8`, `1,2,4`, `1:64` (1 2 3 4 6 8 12 16 ...) or `8:64:8`."""
    read = integer(*CONCURRENCY)
    if ":" not in text:
        return _ascending(tuple(read(part) for part in text.split(",")))
    low, high, step = _range(text, read)
    if step is not None:
        return _ascending(tuple(range(int(low), int(high) + 1, int(step))))
    ladder = sorted({n for power in range(15) for n in (1 << power, 3 << power)} | {int(low), int(high)})
    return tuple(n for n in ladder if low <= n <= high)


def parse_rates(text: str) -> tuple[float, ...]:
    """Levels of rates: `50`, `50,100`, `50:500` (eight, evenly in proportion) or `50:500:50`."""
    read = number(RATE)
    if ":" not in text:
        return _ascending(tuple(read(part) for part in text.split(",")))
    low, high, step = _range(text, read)
    if step is not None:
        return _ascending(tuple(low + step * n for n in range(math.floor((high - low) / step + 1e-9) + 1)))
    growth = (high / low) ** (1 / (_RATE_LEVELS - 1))
    return tuple(float(f"{low * growth**n:.4g}") for n in range(_RATE_LEVELS))


def _range(text: str, read: Callable[[str], float]) -> tuple[float, float, float | None]:
    low, high, *step = (read(part) for part in text.split(":"))
    if not low < high or len(step) > 1:
        raise ValueError(text)
    return low, high, step[0] if step else None


def _ascending(levels: tuple[_N, ...]) -> tuple[_N, ...]:
    if len(levels) > MAX_LEVELS or list(levels) != sorted(set(levels)):
        raise ValueError(levels)
    return levels


def parse_shape(text: str) -> Tensor:
    """`NAME:3,224,224[:FP32]`; without a datatype it is empty."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    tensor = Tensor(match[1], match[3] or "", tuple(int(dim) for dim in match[2].split(",")))
    if tensor.datatype not in ("", *DATATYPES) or not 1 <= tensor.elements <= MAX_ELEMENTS:
        raise ValueError(text)
    return tensor


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value` as a pair; what would change the framing is refused."""
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value) or name.lower() in _FRAMING:
        raise ValueError(text)
    return name, value.strip()


def parse_slo(text: str) -> Slo:
    """`p99<250ms`, `mean<20ms`, `ttft<1s` (its p99), `errors<1%`, `shed<5%`, `timeouts<1%`, `rps>300`."""
    match = _SLO.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    metric, sign, bound = match.groups()
    above = metric == "rps"
    if (sign == ">") != above:
        raise ValueError(text)
    if metric in {"errors", "shed", "timeouts"}:
        limit = number((0.0, 100.0))(bound.removesuffix("%")) / 100 if bound.endswith("%") else number((0, 1))(bound)
    else:
        limit = number(RATE)(bound) if above else parse_duration(bound)
    return Slo(metric, limit, above, text.strip())


def parse_cancel(text: str) -> tuple[float, float]:
    """`5%@100ms` or `0.05@100ms`: the share of requests that are taken back, and after how long."""
    share, at, delay = text.partition("@")
    if not at:
        raise ValueError(text)
    value = number((0.0, 100.0))(share[:-1]) / 100 if share.endswith("%") else number((0.0, 1.0))(share)
    return value, duration_within((0.0, 3600.0))(delay)


def parse_tag(text: str) -> tuple[str, str]:
    """`key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(text)
    return key, value


def parse_text(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError(text)
    return text


def parse_file(text: str) -> Path:
    """A file that exists."""
    path = Path(text)
    if not path.is_file():
        raise ValueError(text)
    return path


def parse_output(text: str) -> Path:
    """A file that can be written, in a folder that exists."""
    path = Path(text)
    if not text or path.is_dir() or not path.parent.is_dir():
        raise ValueError(text)
    return path


def parse_folder(text: str) -> Path:
    """A folder that is there or can be made in one that is."""
    path = Path(text)
    if not text or path.is_file() or not (path.is_dir() or path.parent.is_dir()):
        raise ValueError(text)
    return path


def parse_there(text: str) -> Path:
    """A folder that is there."""
    path = Path(text)
    if not text or not path.is_dir():
        raise ValueError(text)
    return path


def parse_share(text: str) -> float:
    """`5%` or `0.05`."""
    return number((0.0, 100.0))(text[:-1]) / 100 if text.endswith("%") else number((0.0, 1.0))(text)


def parse_record(text: str) -> float:
    """`none`, `all` or `sample:1%`, as a share."""
    if text in {"none", "all"}:
        return float(text == "all")
    kind, colon, share = text.partition(":")
    if kind != "sample" or not colon:
        raise ValueError(text)
    return parse_share(share)


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


def words_of(*words: str) -> Callable[[str], frozenset[str]]:
    """Some of these words, with commas; `none` is no word."""

    def parse(text: str) -> frozenset[str]:
        found = frozenset() if text == "none" else frozenset(text.split(","))
        if not found <= set(words):
            raise ValueError(text)
        return found

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number in these bounds."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def number(accepted: tuple[float, float]) -> Callable[[str], float]:
    """A number in these bounds."""

    def parse(text: str) -> float:
        value = float(text)
        if not accepted[0] <= value <= accepted[1]:
            raise ValueError(text)
        return value

    return parse


def duration_within(accepted: tuple[float, float]) -> Callable[[str], float]:
    """A duration in these bounds, in seconds."""

    def parse(text: str) -> float:
        value = parse_duration(text)
        if not accepted[0] <= value <= accepted[1]:
            raise ValueError(text)
        return value

    return parse
