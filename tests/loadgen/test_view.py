"""What is shown on the way: lines, or a page that redraws; and that an interruption keeps what was measured."""

import asyncio
import functools
import io
import os
import termios
from dataclasses import replace

import pytest
from rich.console import Console

from loadgen.ladder import Ladder
from loadgen.live import LiveView
from loadgen.prepare import Prepared
from loadgen.run import ClosedLoop, Extras
from loadgen.session import Session
from loadgen.view import LineView, PlainView, QuietView, make_view, progress
from tests.loadgen.peers import answering, serving
from tests.loadgen.test_numbers import closed
from tests.loadgen.test_report import settings
from tests.loadgen.test_run import eventually, target


async def test_the_page_shows_what_runs_and_keeps_what_is_done() -> None:
    out = io.StringIO()
    view = LiveView(settings(), Console(file=out, force_terminal=True, width=100))
    async with serving(answering()) as peer:
        load = ClosedLoop(target(peer.address), 2, limit=300, extras=Extras(window_s=0.05))
        with view:
            view.plan("run: 2 callers", 10.0)
            view.watch(load)
            view.add(closed(2, 50.0), "a row")
            await load.run()
            page = Console(file=io.StringIO(), width=100, record=True)
            page.print(view.render())
    text = page.export_text()
    assert "run: 2 callers" in text
    assert "ok 300" in text
    assert "this window: p50" in text
    assert "left" in text
    assert "a row" in out.getvalue()


async def test_progress_counts_outcomes_and_tells_the_time_left() -> None:
    async with serving(answering()) as peer:
        load = ClosedLoop(target(peer.address), 1, limit=5)
        await load.run()
    assert progress(load, 65.0).endswith("ok 5   1m05s left")
    assert "left" not in progress(load, 0.2)


def test_the_view_suits_where_the_output_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_view(settings(quiet=True)), QuietView)
    assert type(make_view(settings())) is PlainView
    with PlainView() as plain, LineView() as lines:
        plain.add(closed(2, 50.0), "one")
        lines.add(closed(2, 50.0), "two")
    assert capsys.readouterr().err == "one\ntwo\n"


async def test_keys_do_what_they_are_bound_to_and_the_terminal_is_left_as_it_was() -> None:
    pressed: asyncio.Queue[str] = asyncio.Queue()
    keyboard, terminal = os.openpty()
    try:
        before = termios.tcgetattr(terminal)
        view = LiveView(settings(), Console(file=io.StringIO(), force_terminal=True, width=100), terminal)
        view.bind(
            {key: (word, functools.partial(pressed.put_nowait, key)) for key, word in (("q", "quit"), ("s", "skip"))}
        )
        with view:
            os.write(keyboard, b"xsq")
            async with asyncio.timeout(5):
                assert [await pressed.get(), await pressed.get()] == ["s", "q"]
            page = Console(file=io.StringIO(), width=100, record=True)
            page.print(view.render())
            assert "q quit   s skip   ctrl-c" in page.export_text()
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(keyboard)
        os.close(terminal)


async def test_a_level_may_end_early_and_the_next_be_held_back() -> None:
    """The keys s and p, as a session does what they ask."""
    async with serving(answering()) as peer:
        chosen = replace(settings(), command="sweep", window=0.05, warmup=0.1, max_level_time=60.0, stable=0.0)
        prepared = Prepared(target(peer.address), [], 1, 1.0, "")
        session = Session(chosen, prepared, QuietView())
        ladder = Ladder(session)
        measuring = asyncio.create_task(ladder.callers(2))
        await eventually(
            lambda: session._load is not None and session._load.started_ns and len(session._load.windows()) > 6
        )
        session.hold()
        session.skip()
        first = await measuring
        assert first.problem == "ended early on request"
        assert 0 < len(first.windows) * 0.05 <= first.seconds + 1e-9
        measuring = asyncio.create_task(ladder.rate(200.0))
        for _ in range(20):  # held back, it gets no further however often the loop goes round
            await asyncio.sleep(0)
        assert session._load is not None
        assert not session._load.open_loop
        session.hold()
        await eventually(lambda: session._load is not None and session._load.open_loop and session._load.sent > 60)
        session.skip()
        second = await measuring
        assert second.problem == "ended early on request"
        assert (second.total.count > 0, 0 < second.seconds < 30) == (True, True)
    assert session.levels == [first, second]
