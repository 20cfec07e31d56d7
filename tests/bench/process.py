"""Child processes of a benchmark: pinned to cores, metered through /proc, ended by their own id."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The measurement cannot be taken or cannot be trusted; the message says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: `proxy` for the process under test alone, `client` for load, backend and this program."""

    proxy: frozenset[int]
    client: frozenset[int]

    @classmethod
    def split(cls) -> Self:
        """Give the last core of this process to the proxy. A single core is shared, and latencies mean little then."""
        *rest, last = sorted(os.sched_getaffinity(0))
        return cls(frozenset({last}), frozenset(rest or [last]))


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute: `env` is added to this program's environment."""

    argv: Sequence[str]
    env: Mapping[str, str]


class Child:
    """A running process. Use it as a context manager: it is ended on the way out, whatever happened."""

    def __init__(self, command: Command, cores: frozenset[int], log: Path) -> None:
        pinned = ["taskset", "-c", ",".join(map(str, sorted(cores))), *command.argv]
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **command.env},
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # draining is not what is measured, and takes queue-proxy half a minute
        self._process.wait()

    def require_alive(self) -> None:
        """Raises BenchError with the end of the process's log once it has ended."""
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-600:].strip()
            raise BenchError(f"{self._process.args!r} ended with code {self._process.returncode}: {tail}")

    def cpu_s(self) -> float:
        """CPU seconds of the whole process so far, user and system, all threads, to 10 ms."""
        # The name in parentheses may hold spaces; fields 14 and 15 of proc(5) are the 12th and 13th after it.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most resident memory since the process began, as the kernel saw it."""
        return self._status("VmHWM")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
        raise BenchError(f"/proc/{self.pid}/status has no {key}")


def busy_s(cores: frozenset[int]) -> float:
    """Seconds that cores have spent on anything at all, or were denied by the hypervisor, since boot, to 10 ms."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Meter:
    """What a process under test and its cores had spent when this was made."""

    child: Child
    cores: frozenset[int]
    own_before_s: float
    busy_before_s: float

    @classmethod
    def start(cls, child: Child, cores: frozenset[int]) -> Self:
        """Read the counters."""
        return cls(child, cores, child.cpu_s(), busy_s(cores))

    def read(self, count: int, elapsed_s: float) -> dict[str, float]:
        """Since the start: cpu_us for each of `count`, and the shares of the cores for the process and for others.

        Raises BenchError if the process has ended.
        """
        spent, busy = self.child.cpu_s() - self.own_before_s, busy_s(self.cores) - self.busy_before_s
        self.child.require_alive()
        return {
            "cpu_us": spent * 1e6 / count,
            "cpu_share": spent / elapsed_s,
            "others_share": max(0.0, busy - spent) / elapsed_s,
        }


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different; for programs that cannot report a port they chose."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


def accepts(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def output(argv: Sequence[str]) -> str:
    """What a short command prints, both streams; empty if it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout + done.stderr).strip()


def poll_until(deadline: float, child: Child) -> None:
    """One turn of a poll: yields the core for 1 ms. Raises BenchError past `deadline` or if the child ended."""
    child.require_alive()
    if time.monotonic() > deadline:
        raise BenchError(f"process {child.pid} is not where it should be in time")
    time.sleep(0.001)
