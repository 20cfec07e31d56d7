"""`--record`: what was asked and answered, request by request, in a file that `replay` reads.

A line for each request as it ends: `t` in seconds from the start, `model`, `body` where it is text, and how it ended:
`outcome`, `status` or `cause`, `ms` from the intended time, `answer` where that is text.
"""

import json
import random
from pathlib import Path
from types import TracebackType
from typing import Self

from loadgen.record import Sample
from loadgen.run import ClosedLoop, OpenLoop
from loadgen.target import Target, Wire
from loadgen.units import NS_PER_S

FILE = "requests.jsonl"


class Journal:
    """An open file of the folder `folder`, which is made where it is not there. Raises OSError."""

    def __init__(self, folder: Path, share: float, target: Target, seed: int) -> None:
        folder.mkdir(exist_ok=True)
        self._file = (folder / FILE).open("w")
        self._share = share
        self._source = random.Random(seed)
        self._models = target.models
        self._is_http = target.wire in {Wire.HTTP, Wire.EVENTS}
        self._load: OpenLoop | ClosedLoop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._file.close()

    def follow(self, load: OpenLoop | ClosedLoop) -> None:
        """The load whose requests these are."""
        self._load = load

    def __call__(self, sample: Sample) -> None:
        """A request has ended."""
        if self._share < 1.0 and self._source.random() >= self._share:
            return
        assert self._load is not None, "it is followed from before its first request"
        due_ns = sample.origin_ns or sample.intended_ns
        line: dict[str, object] = {"t": round((due_ns - self._load.started_ns) / NS_PER_S, 6)}
        if self._models:
            line["model"] = self._models[sample.model]
        if self._is_http and (body := _text(sample.request.partition(b"\r\n\r\n")[2])) is not None:
            line["body"] = body
        line["outcome"] = sample.outcome
        if sample.cause is None:
            line["status"] = sample.status
        else:
            line["cause"] = sample.cause
        line["ms"] = round(sample.response_ns / 1e6, 3)
        if (answer := _text(sample.body)) is not None:
            line["answer"] = answer
        self._file.write(json.dumps(line) + "\n")


def _text(data: bytes) -> str | None:
    """None for nothing, and for what is no text: binary tensors, messages of gRPC."""
    try:
        return data.decode() or None
    except UnicodeDecodeError:
        return None
