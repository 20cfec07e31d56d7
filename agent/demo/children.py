"""The demo's child processes: started until they listen, watched, and ended without a trace."""

import asyncio
import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Sequence

_START_S = 20.0
_TAIL_LINES = 8
# The demo must play the same on a machine whose environment configures a real agent.
_SETTINGS_PREFIX = "HEADGATE_"


class ChildError(Exception):
    """A child did not start or ended early; the text carries its last words."""


class Child:
    """A process that prints `{"event": "listening", ...}` as a line of JSON once it serves.

    Its standard output and error are one stream, read until the end so that it never blocks on a full pipe.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.listening: dict[str, object] = {}
        self._process = process
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, name: str, command: Sequence[str]) -> "Child":
        """Run `command` and wait until it listens. Raises ChildError."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)},
            # Away from the terminal's Ctrl-C: the demo ends its children itself, in order.
            start_new_session=True,
        )
        child = cls(name, process)
        try:
            async with asyncio.timeout(_START_S):
                await child._await_listening()
        except TimeoutError:
            await child.stop()
            raise ChildError(f"{name} did not listen within {_START_S:g} s{child._last_words()}") from None
        except BaseException:
            await child.stop()
            raise
        child._reader = asyncio.create_task(child._drain())
        return child

    def check(self) -> None:
        """Raises ChildError when the process has ended by itself."""
        if self._process.returncode is not None:
            raise ChildError(f"{self.name} ended with code {self._process.returncode}{self._last_words()}")

    async def stop(self, grace_s: float = 0.0) -> None:
        """End the process: politely for `grace_s` seconds, then for certain."""
        with contextlib.suppress(ProcessLookupError):
            if grace_s:
                self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
        if self._reader is not None:
            await self._reader
        else:
            await self._drain()
        await self._process.wait()

    async def _await_listening(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._tail.append(line.decode(errors="replace").rstrip())
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and record.get("event") == "listening":
                    self.listening = record
                    return
        code = await self._process.wait()
        raise ChildError(f"{self.name} ended with code {code} before it listened{self._last_words()}")

    async def _drain(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._tail.append(line.decode(errors="replace").rstrip())

    def _last_words(self) -> str:
        return "".join(f"\n    {line}" for line in self._tail)
