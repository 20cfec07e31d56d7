"""Histograms as the HdrHistogram library's, for its text and log formats, which other tools read and plot."""

from collections.abc import Mapping
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

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
    """An HdrHistogram log: for each tag the start and end, in seconds of the epoch, of what its histogram counted."""
    with path.open("w") as file:
        writer = HistogramLogWriter(file)
        writer.output_log_format_version()
        writer.output_legend()
        for tag, (start_s, end_s, histogram) in histograms.items():
            made = to_hdr(histogram)
            made.set_tag(tag)
            writer.output_interval_histogram(made, start_s, end_s, max_value_unit_ratio=1_000_000.0)
