"""What every command that loads a target shares: the prepared target, interruption, the view, and the one ending."""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from loadgen import outputs
from loadgen.document import Facts, make_document
from loadgen.exits import Exit
from loadgen.level import Level, generator_problem
from loadgen.places import history_url
from loadgen.prepare import Prepared, UnreachableError, probe, words
from loadgen.record import GrpcStatus, Outcome, Sample, status_name
from loadgen.report import warnings
from loadgen.settings import Settings
from loadgen.view import Loads, View


def version_of_this() -> str | None:
    """The installed version; None where it is not installed."""
    with contextlib.suppress(PackageNotFoundError):
        return version("headgate")
    return None


class Session:
    """One command on its way: `levels` are what it has measured so far, `done` what an earlier one has, and this one
    need not; `notes` are warnings that are not of a level."""

    def __init__(self, settings: Settings, prepared: Prepared, view: View) -> None:
        self.settings = settings
        self.prepared = prepared
        self.view = view
        self.levels: list[Level] = []
        self.done: list[Level] = []
        self.notes: list[str] = []
        self._stopping = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._load: Loads | None = None
        self._started = datetime.now(UTC)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked to end."""
        return self._stopping.is_set()

    def listen(self) -> None:
        """From here on SIGINT and SIGTERM end the load that runs, and what was measured is told; a second one ends the
        program at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        keys = {"q": ("quit", self.stop)}
        if self.settings.command in {"sweep", "search", "tune"}:
            keys |= {"s": ("end this level", self.skip), "p": ("pause before the next", self.hold)}
        self.view.bind(keys)
        # Bodies and schedules never become garbage during a run; without this each full collection walks them.
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """End the load that runs now."""
        self._stopping.set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if self._load is not None:
            self._load.stop()

    def skip(self) -> None:
        """End the load that runs now; what it has shown counts, and the command goes on."""
        if self._load is not None:
            self._load.stop()

    def hold(self) -> None:
        """Pause before the next level, until asked again."""
        if self._going.is_set():
            self._going.clear()
            self.view.say("paused before the next level: p goes on")
        else:
            self._going.set()

    def watch(self, load: Loads) -> None:
        """The load that runs now."""
        self._load = load
        self.view.watch(load)
        if self.is_stopped:
            load.stop()

    async def stopped(self) -> None:
        """Wait until somebody asks to end."""
        await self._stopping.wait()

    async def pause(self, seconds: float) -> None:
        """Let the target come to rest between levels, and wait while held; an interruption ends both."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if not self._going.is_set():
            both = [asyncio.ensure_future(event.wait()) for event in (self._going, self._stopping)]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in both:
                one.cancel()

    @property
    def facts(self) -> Facts:
        """What the document says of it."""
        started = self._started.strftime("%Y-%m-%dT%H:%M:%SZ")
        return Facts(
            name=self.settings.name or f"{self.settings.command}-{self._started:%Y%m%d-%H%M%S}",
            started=started,
            version=version_of_this(),
            tensors=self.prepared.tensors,
            bodies=self.prepared.bodies,
            mean_bytes=self.prepared.mean_bytes,
        )

    async def check_answers(self) -> None:
        """Raises UnreachableError when the target answers one request with anything but success or a refusal: a sweep
        of errors tells nothing."""
        answer = await probe(self.settings, self.prepared.target)
        if answer.outcome not in {Outcome.OK, Outcome.SHED}:
            raise UnreachableError(f"it answers a request with {_told(answer)}; {_ADVICE}")

    async def all_failed(self) -> str:
        """Why nothing but errors came, in the target's own words; empty when something else did."""
        totals = [level.total for level in self.levels]
        ended = sum(total.count for total in totals)
        if (
            self.is_stopped
            or not ended
            or any(t.count_of(o) for t in totals for o in (Outcome.OK, Outcome.SHED, Outcome.CANCELLED))
        ):
            return ""
        answer = await probe(self.settings, self.prepared.target)
        return f"none of {ended} requests was answered; one more is answered with {_told(answer)}; {_ADVICE}"

    def finish(self, text: str, *, extra: Exit = Exit.OK, **parts: object) -> Exit:
        """Print, write and keep the result, of which `text` is what people read; the exit code. `extra` is what the
        command itself found wrong."""
        settings, facts = self.settings, self.facts
        found = [f"{level.name}: {warning}" for level in self.levels for warning in warnings(settings, level)]
        found += self.notes
        # What an interrupted command has not come to again is still there for the next.
        levels = [*self.levels, *self.done] if self.is_stopped else self.levels
        document = make_document(settings, facts, levels, found, summary=text, **parts)
        print(text if settings.format == "text" else outputs.printed(settings.format, document).rstrip("\n"))
        code = self._code(extra)
        try:
            written = outputs.write(settings, document, text, self.levels)
        except OSError as error:
            name = "--json" if settings.json is not None and error.filename == str(settings.json) else "--output"
            print(f"headgate-load: {name} {error.filename}: {error.strerror}", file=sys.stderr)
            return Exit.UNWRITTEN
        if written:
            print(f"files    {written}", file=sys.stderr if settings.format != "text" else sys.stdout)
        self._keep(document)
        return code

    def _keep(self, document: dict[str, Any]) -> None:
        """Put the result into the history; what goes wrong there costs a line, not the result."""
        url = self.settings.history or history_url()
        if url == "off":
            return
        from loadgen.history import History, HistoryError  # noqa: PLC0415 (see places.py)

        try:
            with History.open(url) as history:
                history.add(document)
        except HistoryError as error:
            print(f"headgate-load: not kept in the history: {error}", file=sys.stderr)

    def _code(self, extra: Exit) -> Exit:
        if self.is_stopped:
            return Exit.INTERRUPTED
        if extra in {Exit.UNREACHABLE, Exit.NO_LEVEL}:
            return extra
        fails = self.settings.fail_on
        if "generator" in fails and any(generator_problem(level) for level in self.levels):
            return Exit.GENERATOR
        if "unstable" in fails and any(level.problem for level in self.levels):
            return Exit.UNSTABLE
        return extra


_ADVICE = "see what it expects with `headgate-load inspect`, then set --shape, --input-data, --path or --header"


def _told(answer: Sample) -> str:
    if answer.cause is not None:
        return str(answer.cause)
    told = f"{status_name(answer.status)}{words(answer)}"
    # Triton has no unary call for models that may give several answers.
    is_decoupled = answer.status == GrpcStatus.UNIMPLEMENTED and "decoupled" in told
    return f"{told} (try --protocol grpc-stream)" if is_decoupled else told


def failures(levels: Sequence[Level], settings: Settings) -> Exit:
    """FAILED when an objective is not kept at a level."""
    broken = "slo" in settings.fail_on and any(not level.keeps(settings.slo) for level in levels)
    return Exit.FAILED if settings.slo and broken else Exit.OK
