"""Reads a server's own metrics before and after a level, to tell waiting from computing.

Known are Headgate's and Triton's. What a page does not have is not guessed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loadgen.client import Address
from loadgen.http_client import fetch, resolve
from loadgen.level import Split
from loadgen.payload import encode_request
from loadgen.record import Outcome
from loadgen.values import Url

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)")
_TIMEOUT_S = 2.0


class _Source(NamedTuple):
    """Which sums are waiting and computing, of how many requests; `unit` is in seconds."""

    name: str
    queue: tuple[str, ...]
    compute: tuple[str, ...]
    queued: str
    computed: str
    unit: float


_SOURCES = (
    _Source(
        "Headgate",
        ("headgate_queue_wait_seconds_sum",),
        ("headgate_upstream_seconds_sum",),
        "headgate_queue_wait_seconds_count",
        "headgate_upstream_seconds_count",
        1.0,
    ),
    _Source(
        "Triton",
        ("nv_inference_queue_duration_us",),
        (
            "nv_inference_compute_input_duration_us",
            "nv_inference_compute_infer_duration_us",
            "nv_inference_compute_output_duration_us",
        ),
        "nv_inference_request_success",
        "nv_inference_request_success",
        1e-6,
    ),
)


def read_metrics(text: str) -> dict[str, float]:
    """The sum over all labels of each sample of a Prometheus page; what is no number is left out."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#") or not (match := _LINE.match(line)):
            continue
        try:
            sums[match[1]] = sums.get(match[1], 0.0) + float(match[2])
        except ValueError:
            continue
    return sums


def split_of(before: Mapping[str, float], after: Mapping[str, float]) -> Split | None:
    """Mean waiting and computing of the requests between the two; None where no known source counted any."""
    for source in _SOURCES:
        queued = after.get(source.queued, 0.0) - before.get(source.queued, 0.0)
        computed = after.get(source.computed, 0.0) - before.get(source.computed, 0.0)
        if queued > 0 and computed > 0:
            waited, worked = (
                sum(after.get(name, 0.0) - before.get(name, 0.0) for name in names) * source.unit
                for names in (source.queue, source.compute)
            )
            return Split(waited / queued, worked / computed, source.name)
    return None


class Scraper:
    """Reads pages; a page that cannot be read costs the split, never the level."""

    def __init__(self, urls: Sequence[Url]) -> None:
        self._urls = urls
        self._addresses: dict[Url, Address] = {}

    async def read(self) -> dict[str, float]:
        """The sums of all pages."""
        sums: dict[str, float] = {}
        for url in self._urls:
            for name, value in read_metrics(await self._page(url)).items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    async def _page(self, url: Url) -> str:
        try:
            if url not in self._addresses:
                self._addresses[url] = await resolve(url.host, url.port)
        except OSError:
            return ""
        request = encode_request("GET", url.authority, url.prefix or "/metrics", (("Accept", "text/plain"),))
        answer = await fetch(self._addresses[url], request, _TIMEOUT_S)
        return answer.body.decode(errors="replace") if answer.outcome is Outcome.OK else ""
