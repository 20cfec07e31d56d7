"""The settings of `headgate-load run`: every flag once, read from text, all problems reported together."""

import argparse
import math
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from loadgen.payload import DATATYPES, MAX_ELEMENTS, Tensor
from loadgen.schedule import MAX_ARRIVALS, Arrivals, Step, planned_arrivals
from loadgen.units import parse_duration

_T = TypeVar("_T")
_D = TypeVar("_D")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PREFIX = re.compile(r"[\x21-\x7e]*")
_SHAPE = re.compile(r"([^:]+):(\d+(?:,\d+)*)(?::([A-Z0-9]+))?")
# The client frames bodies itself; a second Content-Length would make requests that peers rightly refuse.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "expect", "upgrade"})

RATE = (0.01, 200_000.0)
CONCURRENCY = (1, 10_000)
DURATION_S = (0.1, 86_400.0)
TIMEOUT_S = (0.001, 3_600.0)
SEED = (0, 2**32 - 1)
MAX_STEPS = 1_000

# flag, short form, metavar, help; the defaults stand in `read_settings`.
FLAGS: tuple[tuple[str, str, str, str], ...] = (
    ("--model", "-m", "NAME", "model to send to (required)"),
    ("--concurrency", "-c", "N", "closed loop: N callers, each sends when its last request has ended (default: 1)"),
    ("--rate", "-q", "R", "open loop: R requests a second, whatever the target does"),
    ("--steps", "", "R:DUR,...", "open loop with a rate that changes, such as 100:5s,300:5s"),
    ("--arrivals", "", "KIND", "open loop: poisson (default) or constant"),
    ("--duration", "-z", "DUR", "how long to send (default: 10s, or until --requests were sent)"),
    ("--requests", "-n", "N", "how many requests to send at most"),
    ("--timeout", "-t", "DUR", "a caller's patience, from the intended send time (default: 10s)"),
    (
        "--shape",
        "",
        "NAME:DIMS[:TYPE]",
        "an input's shape, such as input-0:3,224,224:FP32; repeatable; default: metadata",
    ),
    ("--header", "-H", "NAME: VALUE", "a header to add; repeatable"),
    ("--seed", "", "N", "repeat the arrivals and inputs of an earlier run (default: random, printed)"),
    ("--json", "", "FILE", "write the whole result there"),
)
REPEATABLE = frozenset({"--shape", "--header"})
_REQUIRED = frozenset({"url", "--model"})


class SettingsError(Exception):
    """Bad settings; `problems` names each flag, its value and what is accepted."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Url:
    """`http://HOST[:PORT][/PREFIX]`, taken apart."""

    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """The Host header that goes with it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. `steps` is empty in closed loop, `concurrency` is 0 in open loop; `limit` is math.inf where only the
    duration ends the run, `duration_s` is math.inf where only the count does."""

    url: Url
    model: str
    concurrency: int
    steps: tuple[Step, ...]
    arrivals: Arrivals
    duration_s: float
    limit: float
    timeout_s: float
    shapes: tuple[Tensor, ...]
    headers: tuple[tuple[str, str], ...]
    seed: int
    json: Path | None


def read_settings(given: argparse.Namespace) -> Settings:
    """The settings that `given` describes: `url` and, per flag, its text, a list of texts, or None.

    Raises SettingsError with every problem found.
    """
    reader = _Reader(given)
    url = reader.read("url", parse_url, "http://HOST[:PORT][/PREFIX]", None, name="URL")
    model = reader.read("--model", _parse_name, "a model name", None)
    limit = reader.read("--requests", _integer(1, MAX_ARRIVALS), f"a whole number from 1 to {MAX_ARRIVALS}", math.inf)
    duration_s = reader.read(
        "--duration", _duration(DURATION_S), "a duration from 100ms to 24h", 10.0 if math.isinf(limit) else math.inf
    )
    rate = reader.read("--rate", _number(RATE), f"requests per second from {RATE[0]:g} to {RATE[1]:g}", 0.0)
    steps = reader.read(
        "--steps", parse_steps, f"RATE:DURATION[,...], rates from 0 to {RATE[1]:g}, at most {MAX_STEPS}", ()
    )
    arrivals = reader.read("--arrivals", Arrivals, " or ".join(Arrivals), Arrivals.POISSON)
    concurrency = reader.read(
        "--concurrency", _integer(*CONCURRENCY), "a whole number from {} to {}".format(*CONCURRENCY), 0
    )
    timeout_s = reader.read("--timeout", _duration(TIMEOUT_S), "a duration from 1ms to 1h", 10.0)
    seed = reader.read("--seed", _integer(*SEED), "a whole number from {} to {}".format(*SEED), None)
    shapes = reader.read_all(
        "--shape", parse_shape, f"NAME:DIM,DIM[:DATATYPE] with DATATYPE one of {', '.join(DATATYPES)}"
    )
    headers = reader.read_all("--header", parse_header, "'NAME: VALUE', and none that frames the request")
    json = reader.read("--json", _parse_output, "a file in a folder that exists", None)
    if rate:
        steps = (Step(rate, duration_s),)
    reader.check_together(steps, limit)
    if reader.problems or url is None or model is None:
        raise SettingsError(reader.problems)
    return Settings(
        url=url,
        model=model,
        concurrency=0 if steps else concurrency or 1,
        steps=steps,
        arrivals=arrivals,
        duration_s=duration_s,
        limit=limit,
        timeout_s=timeout_s,
        shapes=tuple(shapes),
        headers=tuple(headers),
        seed=secrets.randbelow(SEED[1] + 1) if seed is None else seed,
        json=json,
    )


class _Reader:
    """Reads flag after flag and gathers what is wrong."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.problems: list[str] = []
        self._given = given

    def _has(self, flag: str) -> bool:
        return self._text(flag) is not None

    def read(self, flag: str, parse: Callable[[str], _T], accepted: str, default: _D, *, name: str = "") -> _T | _D:
        text = self._text(flag)
        if text is None:
            if default is None and flag in _REQUIRED:
                self.problems.append(f"{name or flag} is missing; accepted: {accepted}")
            return default
        try:
            return parse(text)
        except ValueError:
            self.problems.append(f"{name or flag} {text!r}; accepted: {accepted}")
            return default

    def read_all(self, flag: str, parse: Callable[[str], _T], accepted: str) -> list[_T]:
        values = []
        for text in getattr(self._given, _attribute(flag)) or ():
            try:
                values.append(parse(text))
            except ValueError:
                self.problems.append(f"{flag} {text!r}; accepted: {accepted}")
        return values

    def check_together(self, steps: tuple[Step, ...], limit: float) -> None:
        """Find flags that do not go together; `steps` is what is planned."""
        self._exclude("--rate", "--steps", "--concurrency")
        self._exclude("--arrivals", "--concurrency")
        self._exclude("--steps", "--duration")
        if self._has("--arrivals") and not (self._has("--rate") or self._has("--steps")):
            self.problems.append("--arrivals: only with --rate or --steps")
        if min(planned_arrivals(steps), limit) > MAX_ARRIVALS:
            self.problems.append(f"{planned_arrivals(steps):.0f} requests planned; accepted: at most {MAX_ARRIVALS}")

    def _exclude(self, *flags: str) -> None:
        found = [flag for flag in flags if self._has(flag)]
        if len(found) > 1:
            self.problems.append(f"{' and '.join(found)}: only one of them")

    def _text(self, flag: str) -> str | None:
        text: str | None = getattr(self._given, _attribute(flag))
        return text


def _attribute(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def parse_url(text: str) -> Url:
    """Raises ValueError for anything but http://HOST[:PORT][/PREFIX]."""
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(text)
    if not _PREFIX.fullmatch(parts.path):
        raise ValueError(text)
    return Url(parts.hostname, 80 if parts.port is None else parts.port, parts.path.rstrip("/"))


def parse_steps(text: str) -> tuple[Step, ...]:
    """`100:5s,300:5s` as steps. Raises ValueError."""
    steps = []
    for part in text.split(","):
        rate, colon, duration = part.partition(":")
        if not colon:
            raise ValueError(part)
        steps.append(Step(_number((0.0, RATE[1]))(rate), _duration(DURATION_S)(duration)))
    if len(steps) > MAX_STEPS or not planned_arrivals(steps):
        raise ValueError(text)
    return tuple(steps)


def parse_shape(text: str) -> Tensor:
    """`NAME:3,224,224[:FP32]`; without a datatype it is empty. Raises ValueError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    tensor = Tensor(match[1], match[3] or "", tuple(int(dim) for dim in match[2].split(",")))
    if tensor.datatype not in ("", *DATATYPES) or not 1 <= tensor.elements <= MAX_ELEMENTS:
        raise ValueError(text)
    return tensor


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value` as a pair. Raises ValueError for what is no header, or would change the framing."""
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value) or name.lower() in _FRAMING:
        raise ValueError(text)
    return name, value.strip()


def _parse_name(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _parse_output(text: str) -> Path:
    path = Path(text)
    if not text or path.is_dir() or not path.parent.is_dir():
        raise ValueError(text)
    return path


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _number(accepted: tuple[float, float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not accepted[0] <= value <= accepted[1]:
            raise ValueError(text)
        return value

    return parse


def _duration(accepted: tuple[float, float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = parse_duration(text)
        if not accepted[0] <= value <= accepted[1]:
            raise ValueError(text)
        return value

    return parse
