"""The agent's own log: one JSON line an event, on standard error."""

import json
import logging
import sys
import time

_ENCODE = json.JSONEncoder(separators=(",", ":"), default=str).encode


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _ENCODE(line)


def setup(level: str) -> None:
    """Send everything from `level` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A line for every scrape and probe of the admin port says nothing.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def event(name: str, level: int = logging.INFO, **facts: object) -> None:
    """Log an event with its facts as fields."""
    logging.getLogger("headgate").log(level, name, extra={"facts": facts})


def failure(name: str, error: BaseException) -> None:
    """Log an error that was survived, with its traceback."""
    logging.getLogger("headgate").error(name, exc_info=error)


class Rarely:
    """An event that strangers can cause: logged once in a while, with how often it has been left out."""

    def __init__(self, name: str, every_s: float = 1.0) -> None:
        self._name = name
        self._every_s = every_s
        self._next = 0.0
        self._suppressed = 0

    def log(self, **facts: object) -> None:
        now = time.monotonic()
        if now < self._next:
            self._suppressed += 1
            return
        if self._suppressed:
            facts["suppressed"] = self._suppressed
        self._next, self._suppressed = now + self._every_s, 0
        event(self._name, level=logging.WARNING, **facts)
