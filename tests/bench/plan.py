"""What one run of the benchmark measures with."""

from dataclasses import dataclass
from pathlib import Path

from .peers import Peer
from .process import Cores


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure. `seconds` is the length of one round."""

    seconds: int
    rounds: int
    latency_rounds: int
    starts: int
    uploads: int
    upload_bytes: int
    stream_bytes: int


DEFAULT = Effort(
    seconds=3, rounds=7, latency_rounds=7, starts=7, uploads=1000, upload_bytes=10_000_000, stream_bytes=4 << 30
)
# A megabyte a client, and half a gigabyte a stream, are still far beyond what the agent may hold, and take less time.
QUICK = Effort(
    seconds=1, rounds=3, latency_rounds=3, starts=3, uploads=1000, upload_bytes=1_000_000, stream_bytes=512 << 20
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The means of a row: the peers (agent first), the backend's port, a directory for files, the effort to spend."""

    effort: Effort
    cores: Cores
    directory: Path
    backend: int
    peers: list[Peer]
