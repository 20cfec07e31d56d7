"""What is shown on the way: lines, or a page that redraws; and that an interruption keeps what was measured."""

import io

import pytest
from rich.console import Console

from loadgen.live import LiveView
from loadgen.run import ClosedLoop, Extras
from loadgen.view import LineView, PlainView, QuietView, make_view, progress
from tests.loadgen.peers import answering, serving
from tests.loadgen.test_numbers import closed
from tests.loadgen.test_report import settings
from tests.loadgen.test_run import target


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
