"""Metric families as text: Prometheus's format 0.0.4, or OpenMetrics 1.0.

prometheus_client takes 63 ms of the loop for a hundred models and 0.8 for one, this 2.5 and 0.1: a histogram is one
format string, kept from scrape to scrape (`python -m tests.bench.signals --scrape`).
"""

from collections.abc import Sequence
from itertools import accumulate

from agent.observe.counters import BOUNDS, Histogram

_INFINITY = float("inf")
_EDGES = (*map(str, BOUNDS), "+Inf")


PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics, in whatever version: 1.0 is the only one that is written here."""
    return any(one.partition(";")[0].strip() == "application/openmetrics-text" for one in accept.split(","))


def labels(**pairs: str) -> str:
    """Labels as they stand behind a metric's name. Values may hold anything."""
    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in pairs.items()) + "}"


def escape(value: str) -> str:
    """The value of a label between its quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """A value as both formats write it, and Prometheus's own library does: counts have a fraction, too."""
    return "+Inf" if value == _INFINITY else repr(float(value))


class Text:
    """Collects lines. A family begins with `family`; what is added belongs to it."""

    def __init__(self, templates: dict[tuple[str, str], str], *, openmetrics: bool) -> None:
        """`templates` keeps what histograms look like, for the next scrape."""
        self._lines: list[str] = []
        self._templates = templates
        self._openmetrics = openmetrics
        self._name = ""

    def family(self, name: str, kind: str, text: str) -> None:
        """Begin a family; the name of a counter ends with _total, and `text` names the unit."""
        self._name = name
        shown = name.removesuffix("_total") if self._openmetrics else name
        self._lines.append(f"# HELP {shown} {text}\n# TYPE {shown} {kind}")

    def add(self, value: float, of: str = "") -> None:
        """One sample. `of` are its labels, as `labels` makes them."""
        self._lines.append(f"{self._name}{of} {number(value)}")

    def one(self, name: str, kind: str, text: str, value: float) -> None:
        """A family of one sample without labels."""
        self.family(name, kind, text)
        self.add(value)

    def histogram(self, histogram: Histogram, of: str = "") -> None:
        """All samples of a histogram."""
        template = self._templates.get((self._name, of))
        if template is None:
            template = self._templates[self._name, of] = _template(self._name, of)
        counts = tuple(accumulate(histogram.counts))
        self._lines.append(template % (*counts, counts[-1], histogram.total))

    def encoded(self, more: Sequence[str] = ()) -> bytes:
        """Everything, and `more` lines behind it."""
        end = ["# EOF", ""] if self._openmetrics else [""]
        return "\n".join([*self._lines, *more, *end]).encode(errors="replace")


def _template(name: str, of: str) -> str:
    name, of = name.replace("%", "%%"), of.replace("%", "%%")
    inside = "," + of[1:-1] if of else ""
    lines = [f'{name}_bucket{{le="{edge}"{inside}}} %d.0' for edge in _EDGES]
    return "\n".join([*lines, f"{name}_count{of} %d.0", f"{name}_sum{of} %r"])
