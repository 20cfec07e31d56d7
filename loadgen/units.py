"""Durations as people write them on a command line, and numbers as they read them in a table."""

import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

NS_PER_S = 1_000_000_000


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `2s`, `1.5m`, `1h`, `80us`. Raises ValueError; a bare number has no unit and is refused."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 10s or 2m")
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """`seconds` in the largest unit that keeps it at 1 or above: 0.05 -> 50ms, 90 -> 1.5m."""
    for unit in ("h", "m", "s", "ms"):
        if seconds >= _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.6g}{unit}"
    return f"{seconds / _SECONDS['us']:.6g}us"


def format_latency(ns: float) -> str:
    """`ns` nanoseconds with three significant digits: 84us, 1.52ms, 83.1ms, 2.61s."""
    for unit, size in (("us", 1e3), ("ms", 1e6)):
        if ns < 999.5 * size:
            return f"{_three_digits(ns / size)}{unit}"
    return f"{_three_digits(ns / NS_PER_S)}s"


def format_rate(per_second: float) -> str:
    """A rate with three significant digits, or all digits of its whole part."""
    if not per_second:
        return "0/s"
    return f"{_three_digits(per_second)}/s"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
