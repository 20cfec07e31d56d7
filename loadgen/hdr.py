"""Histograms as the HdrHistogram library's, for its text and log formats, which other tools read and plot."""

from collections.abc import Mapping
from pathlib import Path

from hdrh.histogram import HdrHistogram

from loadgen.histogram import Histogram
from loadgen.units import NS_PER_S

_HIGHEST_NS = 48 * 3600 * NS_PER_S
_DIGITS = 2


def to_hdr(histogram: Histogram) -> HdrHistogram:
    """The same counts; the two layouts have the same indexes, so nothing moves."""
    made = HdrHistogram(1, _HIGHEST_NS, _DIGITS)
    for upper, number in histogram.buckets():
        made.record_value(min(upper, _HIGHEST_NS), number)
    return made


def from_hdr(other: HdrHistogram) -> Histogram:
    """Back again; smallest, largest and total are those of the buckets."""
    made = Histogram()
    for item in other.get_recorded_iterator():
        made.add_many(item.value_iterated_to, item.count_at_value_iterated_to)
    return made


def encode(histogram: Histogram) -> str:
    """HdrHistogram's compressed form (V2, base64)."""
    return bytes(to_hdr(histogram).encode()).decode()


def decode(text: str) -> Histogram:
    """Raises ValueError for anything that is no HdrHistogram."""
    try:
        return from_hdr(HdrHistogram.decode(text))
    except Exception as error:  # the library raises its own, zlib's and binascii's
        raise ValueError(f"not an HdrHistogram: {error}") from error


def write_log(path: Path, histograms: Mapping[str, tuple[float, float, Histogram]]) -> None:
    """An HdrHistogram log (format 1.2): for each tag the start and end in seconds of what its histogram counted.

    The library's own writer leaves out the tags, which tell the levels apart.
    """
    lines = [
        "#[Histogram log format version 1.2]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for tag, (start_s, end_s, histogram) in histograms.items():
        longest_ms = histogram.max / 1e6
        lines.append(f"Tag={tag},{start_s:.3f},{end_s - start_s:.3f},{longest_ms:.3f},{encode(histogram)}")
    path.write_text("\n".join(lines) + "\n")
