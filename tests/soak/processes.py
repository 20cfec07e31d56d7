"""The agent and the predictor of the soak, each a process of its own, and what the agent shows to the outside."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.soak.predictor import bind

_START_S = 30.0
_ASYNCIO = "import asyncio, sys, uvloop; uvloop.run = asyncio.run; from agent.cli import main; sys.exit(main())"
_PROGRAMS = {"uvloop": ["-m", "agent"], "asyncio": ["-c", _ASYNCIO]}
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class Predictor:
    """Its two ports, and the process behind them, which comes and goes."""

    def __init__(self, folder: Path) -> None:
        self._book = folder / "book"
        self._log = folder / "predictor.log"
        self._holders: list[socket.socket] = [bind(), bind()]
        self._ports = [str(holder.getsockname()[1]) for holder in self._holders]
        self._process: Process
        self.starts = 0

    @property
    def upstream(self) -> str:
        """What the agent forwards to."""
        http, grpc = self._ports
        return f"http://127.0.0.1:{http},h2c://127.0.0.1:{grpc}"

    async def start(self) -> None:
        """Returns when it listens."""
        with self._log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.soak.predictor", *self._ports, str(self._book)),
                stdout=PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _START_S)
        assert line == b"listening\n", line
        self.starts += 1

    def signal(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            raise RuntimeError(f"the predictor has ended by itself: {self.trouble()}")
        self._process.send_signal(number)

    async def wait(self) -> None:
        """Until it has ended."""
        await self._process.wait()

    def trouble(self) -> str:
        """What it complained of, which would be a defect of the soak's own."""
        return self._log.read_text()

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()
        for holder in self._holders:
            holder.close()


class Agent:
    """The agent. What it logs, and its access log, go to files in `folder`."""

    def __init__(self, process: Process, folder: Path, facts: dict[str, Any]) -> None:
        self._process = process
        self.pid = process.pid
        self._log = folder / "agent.log"
        self._live = folder / "live"
        self.address = _address(facts["listen"][0])
        self._admin = _address(facts["admin"])

    @classmethod
    async def start(
        cls,
        upstream: str,
        folder: Path,
        live: str,
        flags: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        loop: str = "uvloop",
    ) -> "Agent":
        """Returns when it serves. `loop` may be asyncio's own; `environment` is added to ours."""
        (folder / "live").write_text(live)
        arguments = ["--route", f"127.0.0.1:0={upstream}", "--admin", "127.0.0.1:0", "--drain-delay", "0"]
        arguments += ["--live-settings", str(folder / "live"), *flags]
        log = folder / "agent.log"
        with log.open("wb") as errors, (folder / "access.log").open("wb") as access:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *_PROGRAMS[loop], "serve", *arguments),
                stdin=DEVNULL,
                stdout=access,
                stderr=errors,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")},
                    **(environment or {}),
                },
            )
        async with asyncio.timeout(_START_S):
            while not log.read_bytes().endswith(b"\n"):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        return cls(process, folder, json.loads(log.read_text().splitlines()[0]))

    async def get(self, path: str) -> str:
        """Ask the admin port."""
        reader, writer = await asyncio.open_connection(*self._admin)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return body.decode()

    async def state(self) -> dict[str, Any]:
        """What /debug/state shows."""
        parsed: dict[str, Any] = json.loads(await self.get("/debug/state"))
        return parsed

    async def settle(self, seconds: float = 30.0) -> dict[str, Any]:
        """Until it serves and is at rest, without clients, or the time is over. Returns the last state."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            state = await self.state()
            busy = (
                state["state"] == "starting"
                or state["inflight"]
                or state["queued"]
                or state["active"]
                or state["connections"]["client"]
            )
            if not busy or asyncio.get_running_loop().time() > until:
                return state
            await asyncio.sleep(0.05)

    def adopt(self, live: str) -> None:
        """Change settings while it serves."""
        self._live.write_text(live)
        self._process.send_signal(signal.SIGHUP)

    def rss_kib(self) -> int:
        """Resident memory."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE_KIB

    def descriptors(self) -> int:
        """How many are open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))  # noqa: PTH208 - without a Path for each

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self) -> list[str]:
        """The lines that it has logged."""
        return self._log.read_text().splitlines()

    async def end(self) -> tuple[int, list[str]]:
        """SIGTERM. Returns the exit code, and those lines of its log that tell of trouble."""
        if self._process.returncode is None:
            self._process.terminate()
        code = await asyncio.wait_for(self._process.wait(), _START_S)
        return code, [line for line in self.log() if _is_trouble(line)]

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


def _is_trouble(line: str) -> bool:
    """Whatever is no event is a warning or traceback of the interpreter."""
    try:
        return json.loads(line)["level"] not in {"info", "debug"}
    except (ValueError, KeyError):
        return True


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
