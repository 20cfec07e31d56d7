"""The settings of every command: each flag once, read from text, all problems reported together."""

import argparse
import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.flags import FLAGS, POSITIONAL, Flag
from loadgen.payload import Tensor
from loadgen.schedule import MAX_ARRIVALS, Arrivals, Step, planned_arrivals
from loadgen.values import Protocol, Slo, Spread, Url

_SEED_BITS = 32
_LOADS = frozenset({"run", "sweep", "search", "tune", "replay"})
_POISSON = Spread(Arrivals.POISSON)
DEFAULT_CALLERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class SettingsError(Exception):
    """Bad settings; `problems` names each flag, its value and what is accepted."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One command that loads a target.

    `concurrency` and `rate` hold the levels, one for `run`; closed loop has no rate and no `steps`, and where neither
    is given one caller (or a ladder of them) is. `requests` is math.inf where only the duration ends the run,
    `duration` is math.inf where only the count does. Times are in seconds. `share` is (number, of how many) where this
    is a part of a load that several processes make.
    """

    command: str
    url: Url
    model: tuple[tuple[str, float], ...] = ()
    model_version: str = ""
    protocol: Protocol = Protocol.HTTP
    path: str = ""
    header: tuple[tuple[str, str], ...] = ()
    authority: str = ""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False
    concurrency: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()
    arrivals: Spread = _POISSON
    duration: float = 10.0
    requests: float = math.inf
    ramp: float = 0.0
    max_in_flight: int = 10_000
    connections: int = 0
    streams: int = 64
    seed: int = 0
    trace: Path | None = None
    speed: float = 1.0
    input_data: str = "random"
    pool: int = 0
    shape: tuple[Tensor, ...] = ()
    batch: int = 1
    string_length: int = 16
    max_tokens: int = 64
    tensor_format: str = "auto"
    shm: str = "none"
    data: str = ""
    data_file: Path | None = None
    warmup: float = 0.0
    window: float = 1.0
    stable: float = 0.03
    max_level_time: float = 30.0
    cooldown: float = 0.0
    slo: tuple[Slo, ...] = ()
    fail_on: frozenset[str] = frozenset({"slo", "generator"})
    timeout: float = 10.0
    cancel: tuple[float, float] = (0.0, 0.0)
    retry: int = 0
    retry_after: str = "honour"
    scrape: tuple[Url, ...] = ()
    proof: str = "auto"
    growth: float = 0.005
    startup: float = 30.0
    preferred_batch: int = 1
    output: Path | None = None
    format: str = "text"
    json: Path | None = None
    tag: tuple[tuple[str, str], ...] = ()
    no_tui: bool = False
    quiet: bool = False
    workers: int = 1
    share: tuple[int, int] = (0, 1)
    listen: tuple[str, int] | None = None
    start_at: float | None = None
    history: str = ""
    name: str = ""
    file: Path | None = None
    resume: Path | None = None
    record: float = 0.0

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models, in order."""
        return tuple(name for name, _ in self.model)

    @property
    def has_tensors(self) -> bool:
        """Whether requests are V2, whose inputs the model's metadata tells."""
        return self.protocol in {Protocol.HTTP, Protocol.GRPC, Protocol.GRPC_STREAM}

    @property
    def is_grpc(self) -> bool:
        """Whether requests go over gRPC."""
        return self.protocol in {Protocol.GRPC, Protocol.GRPC_STREAM}

    @property
    def is_stream(self) -> bool:
        """Whether they are messages of streams."""
        return self.protocol is Protocol.GRPC_STREAM


def read_settings(command: str, given: argparse.Namespace) -> Settings:
    """The settings that `given` describes: per flag its text, a list of texts, or None.

    Raises SettingsError with every problem found.
    """
    reader = _Reader(given)
    values = {flag.field: reader.read(flag) for flag in (*POSITIONAL, *FLAGS) if command in flag.commands}
    reader.check(command, values)
    if reader.problems:
        raise SettingsError(reader.problems)
    return Settings(command=command, **_completed(command, values, reader.has))


def _completed(command: str, values: dict[str, Any], has: Callable[[str], bool]) -> dict[str, Any]:
    """What follows from the rest where it was not said."""
    url: Url = values["url"]
    if values["protocol"] is None:
        values["protocol"] = Protocol.GRPC if url.scheme in {"grpc", "grpcs"} else Protocol.HTTP
    if values["seed"] is None:
        values["seed"] = secrets.randbits(_SEED_BITS)
    if command == "run":
        if has("requests") and not has("duration"):
            values["duration"] = math.inf
        if values["rate"]:
            values["steps"] = _ramped(values["rate"][0], values["duration"], values["ramp"])
        if not values["steps"] and values["arrivals"].file is None and not values["concurrency"]:
            values["concurrency"] = (1,)
    if command in {"sweep", "search", "tune"} and not values.get("rate") and not values["concurrency"]:
        values["concurrency"] = DEFAULT_CALLERS
    if values.get("scrape"):
        values["scrape"] = tuple(values["scrape"])
    return values


def _ramped(rate: float, duration_s: float, ramp_s: float) -> tuple[Step, ...]:
    flat = Step(rate, duration_s)
    return (Step(0.0, ramp_s, rate), flat) if ramp_s else (flat,)


class _Reader:
    """Reads flag after flag and gathers what is wrong."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.problems: list[str] = []
        self._given = given

    def has(self, field: str) -> bool:
        """Whether the flag was given."""
        return getattr(self._given, field, None) not in (None, False, [])

    def read(self, flag: Flag) -> Any:
        given = getattr(self._given, flag.field, None)
        if flag.many:
            return tuple(value for text in given or () if (value := self._parsed(flag, text)) is not None)
        if given is None:
            if flag.required:
                self.problems.append(f"{flag.name} is missing; accepted: {flag.accepted}")
            return flag.default
        if flag.parse is None:
            return bool(given)
        return self._parsed(flag, given)

    def _parsed(self, flag: Flag, text: str) -> Any:
        assert flag.parse is not None
        try:
            return flag.parse(text)
        except ValueError:
            self.problems.append(f"{flag.name} {text!r}; accepted: {flag.accepted}")
            return None if flag.many else flag.default

    def check(self, command: str, values: dict[str, Any]) -> None:
        """Find flags that do not go together."""
        self._exclude("rate", "steps", "concurrency")
        self._exclude("steps", "duration")
        self._exclude("data", "data_file")
        if values.get("record"):
            if not self.has("output"):
                self.problems.append("--record: only with --output")
            if values.get("workers", 1) > 1:
                self.problems.append("--record: not with --workers")
        if self.has("listen") and not self.has("workers"):
            self.problems.append("--listen: only with --workers")
        if command == "run":
            self._exclude("arrivals", "concurrency")
            if self.has("arrivals") and values["arrivals"].file is None and not (self.has("rate") or self.has("steps")):
                self.problems.append("--arrivals: only with --rate or --steps")
            limit = values["requests"]
            for step in values["rate"]:
                self._bound(min(step * values["duration"] if not self.has("requests") else limit, limit))
            self._bound(min(planned_arrivals(values["steps"]), limit))
        if command in _LOADS | {"inspect"} and values["url"] is not None:
            self._check_target(values)
        if command != "run" and "arrivals" in values and values["arrivals"].file is not None:
            self.problems.append("--arrivals file:F: only with run, for levels need rates")
        if command in {"search", "tune"} and not values["slo"] and not any("--slo" in p for p in self.problems):
            self.problems.append("--slo is missing; accepted: such as 'p99<250ms'")
        if values.get("cert") and not values.get("key"):
            self.problems.append("--cert: only with --key")

    def _check_target(self, values: dict[str, Any]) -> None:
        protocol, scheme = values["protocol"], values["url"].scheme
        if protocol is not None and (protocol in {Protocol.GRPC, Protocol.GRPC_STREAM}) != scheme.startswith("grpc"):
            self.problems.append(f"--protocol {protocol} does not go with {scheme}://")
        needs_model = protocol is not Protocol.POST and "trace" not in values
        if needs_model and not values["model"] and not any("--model" in p for p in self.problems):
            self.problems.append("--model is missing; accepted: a model name, or weights such as a=3,b=1")
        if values["shm"] != "none" and protocol in {Protocol.V1, Protocol.OPENAI, Protocol.POST}:
            self.problems.append(f"--shm {values['shm']}: only with V2, not {protocol}")
        if protocol is Protocol.POST and not (self.has("data") or self.has("data_file") or self.has("input_data")):
            self.problems.append("--protocol post needs a body: --data, --data-file or --input-data")

    def _bound(self, planned: float) -> None:
        if planned > MAX_ARRIVALS and not math.isinf(planned):
            self.problems.append(f"{planned:.0f} requests planned; accepted: at most {MAX_ARRIVALS}")

    def _exclude(self, *fields: str) -> None:
        found = [f"--{field.replace('_', '-')}" for field in fields if self.has(field)]
        if len(found) > 1:
            self.problems.append(f"{' and '.join(found)}: only one of them")


def flags_of(command: str) -> Iterable[Flag]:
    """The flags that `command` takes."""
    return (flag for flag in FLAGS if command in flag.commands)
