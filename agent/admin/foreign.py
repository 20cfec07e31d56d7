"""PURE: the metrics of somebody else, read leniently and told strictly in Prometheus's text format.

Predictors expose what their libraries wrote: Triton's counters lack _total, MLServer answers in OpenMetrics when asked,
others repeat series or break lines. One bad line must cost no more than itself, or a scrape would lose our own metrics
with it. Time stamps and exemplars are left out: they mean nothing to whoever scrapes us.
"""

import re
from collections.abc import Iterator

from agent.admin.text import escape

# Ours are ours, whoever claims one of them.
RESERVED = "headgate_"
# Which of several pages a series came from; with one page nothing is added to what it says.
SOURCE = "headgate_source"
# Longer ones are no metrics.
MAX_LINE = 16 * 1024

_BLANK = " \t"
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
# Possessive throughout, so that no line takes more than one pass. Labels that begin with __ are Prometheus's own.
_LABEL_NAME = r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*+"
_EQUALS = r"[ \t]*+=[ \t]*+"
_LABEL_VALUE = r'"(?:[^"\\]|\\.)*+"'
_LABELS = rf"(?:{_LABEL_NAME}{_EQUALS}{_LABEL_VALUE}[ \t]*+(?:,[ \t]*+|(?=\}})))*+"
_NUMBER = r"[+-]?(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+|[iI]nf|[nN]a[nN])"
_SAMPLE = re.compile(
    rf"({_NAME})[ \t]*+(?:\{{[ \t]*+({_LABELS})\}})?+[ \t]*+({_NUMBER})"
    r"(?:[ \t]++[+-]?[0-9][0-9.eE+-]*+)?+[ \t]*+(?:#.*+)?+"
)
_PAIRS = re.compile(rf"({_LABEL_NAME}){_EQUALS}({_LABEL_VALUE})")
_META = re.compile(rf"#[ \t]*+(HELP|TYPE)[ \t]++({_NAME})(?:[ \t]++(.*+))?+")

_KINDS = {"counter", "gauge", "histogram", "summary", "untyped"}
_OPEN_METRICS_KINDS = {"unknown": "untyped", "info": "gauge", "stateset": "gauge"}
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


class Family:
    """A name, what it is, and its samples: values by series."""

    __slots__ = ("help", "kind", "samples")

    def __init__(self) -> None:
        self.help = ""
        self.kind = "untyped"
        self.samples: dict[str, str] = {}


class Families:
    """Everything that was read, family by family, in the order of their first samples."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def reader(self, source: str = "") -> "Reader":
        """Reads one more page. `source` names it in every series of it; empty names nothing."""
        return Reader(self._families, source)

    def lines(self) -> Iterator[str]:
        """The text, a family at a time."""
        for name, family in self._families.items():
            if not family.samples:
                continue
            if family.help:
                yield f"# HELP {name} {family.help}"
            yield f"# TYPE {name} {family.kind}"
            yield "\n".join(f"{series} {value}" for series, value in family.samples.items())


class Reader:
    """Reads one page, line by line. `samples` counts what was taken, `dropped` the lines that made no sense."""

    def __init__(self, families: dict[str, Family], source: str) -> None:
        self._families = families
        self._source = f'{SOURCE}="{escape(source)}"' if source else ""
        self._helps: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        # The name of a sample -> its family, or None where it is left out.
        self._known: dict[str, Family | None] = {}
        self.samples = 0
        self.dropped = 0

    def feed(self, line: str) -> None:
        """Take one line, without its end."""
        line = line.strip(_BLANK)
        if not line:
            return
        if len(line) > MAX_LINE:
            self.dropped += 1
        elif line.startswith("#"):
            self._describe(line)
        else:
            self._sample(line)

    def _describe(self, line: str) -> None:
        match = _META.fullmatch(line.rstrip(_BLANK))
        if match is None:
            return  # a comment, # UNIT or # EOF
        what, name, text = match.groups()
        if what == "HELP":
            self._helps.setdefault(name, text or "")
        else:
            self._kinds.setdefault(name, (text or "").strip(_BLANK))

    def _sample(self, line: str) -> None:
        match = _SAMPLE.fullmatch(line)
        if match is None:
            self.dropped += 1
            return
        name, labels, value = match.groups()
        try:
            family = self._known[name]
        except KeyError:
            family = self._known[name] = self._family(name)
        if family is None:
            return
        pairs = _PAIRS.findall(labels) if labels else []
        # One spelling for each series: neither the order of labels nor the white space means anything.
        told = [f"{label}={text}" for label, text in sorted(pairs)]
        if self._source:
            told.append(self._source)
        series = f"{name}{{{','.join(told)}}}" if told else name
        names = {label for label, _ in pairs}
        if series in family.samples or len(names) != len(pairs) or (self._source and SOURCE in names):
            self.dropped += 1  # either would cost the whole scrape
            return
        family.samples[series] = value
        self.samples += 1

    def _family(self, name: str) -> Family | None:
        """Where samples of this name belong."""
        if name.startswith(RESERVED):
            return None
        told, base = name, name
        kind = self._kinds.get(name)
        if kind is None:
            base, kind = self._base(name)
            if not kind:
                return None
            if kind in _PARTS:
                known = self._families.get(base)
                if known is None or known.kind == kind:
                    told = base
                else:
                    kind = "untyped"  # somebody has said before that the base is something else
        elif kind == "histogram":
            return None  # which has no such sample
        kind = _OPEN_METRICS_KINDS.get(kind, kind)
        family = self._families.get(told)
        if family is None:
            family = self._families[told] = Family()
            family.kind = kind if kind in _KINDS else "untyped"
            family.help = self._helps.get(base) or self._helps.get(told, "")
        return family

    def _base(self, name: str) -> tuple[str, str]:
        """The family that a name which has none of its own belongs to, and its type; "" is left out."""
        base, _, part = name.rpartition("_")
        kind = self._kinds.get(base, "")
        if part == "created" and kind in {"counter", "histogram", "summary"}:
            return name, ""
        if "_" + part in _PARTS.get(kind, ()) or (part, kind) in {("total", "counter"), ("info", "info")}:
            return base, kind
        return name, "untyped"
