"""Both views, drawn for a frame made by hand."""

import io

import pytest
from rich.console import Console

from agent.demo.live import LiveView
from agent.demo.story import FLOOD, NO_GATE, PHASES, Calls, Column, Frame, Script
from agent.demo.view import PlainView
from tests.demo.test_story import SCRIPT, frame
from tests.demo.test_summary import chapters

COLUMNS = tuple(Column(offered=320, answered=107, refused=200, failed=3, slowest_ns=150_000_000) for _ in range(40))


def console(width: int = 80, height: int = 24) -> Console:
    return Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )


def page(view: LiveView, drawn_on: Console) -> list[str]:
    lines = drawn_on.render_lines(view.render(), drawn_on.options)
    return ["".join(segment.text for segment in line) for line in lines]


def live(shown: Frame, width: int = 80, height: int = 24) -> list[str]:
    drawn_on = console(width, height)
    view = LiveView(SCRIPT, drawn_on)
    view.show(shown)
    return page(view, drawn_on)


@pytest.mark.parametrize("phase", range(len(PHASES)))
@pytest.mark.parametrize("height", [24, 30, 60])
def test_the_page_fits_the_terminal_for_every_phase(phase: int, height: int) -> None:
    lines = live(frame(phase, COLUMNS), height=height)
    assert len(lines) < height
    assert {len(line) for line in lines} == {80}
    text = "\n".join(lines)
    assert "…" not in text
    assert PHASES[phase].text in text
    assert "12.3 of 20s" in text


def test_the_page_shows_gate_model_rates_and_latencies() -> None:
    text = " ".join(" ".join(live(frame(FLOOD, COLUMNS))).split())
    assert "▶ flood 3x capacity: 960/s" in text
    assert "executing ████████████████ 16/16" in text
    assert "queued ████████████████ 31/32" in text
    assert "waiting inside 1733" in text
    assert "offered 954/s answered 312/s refused 640/s (67%) gave up 2.00/s" in text
    assert "answers take p50 154ms, p99 - refusals p50 420us" in text
    assert "gRPC answered 123 refused 45 (p50 820us) late 6 on the same port" in text
    for name in (
        "answered",
        "refused at once",
        "gave up",
        "waiting",
        "capacity",
        "2x",
        *(each.name for each in PHASES),
    ):
        assert name in text


def test_grpc_calls_that_failed_are_not_hidden() -> None:
    worst = Calls(answered=9600, refused=9600, late=9600, failed=9600, refusal_p50="12.3ms")
    text = " ".join(" ".join(live(frame(FLOOD, COLUMNS)._replace(calls=worst))).split())
    assert "gRPC answered 9600 refused 9600 (p50 12.3ms) late 9600 failed 9600" in text


def test_without_the_gate_the_page_says_so() -> None:
    text = "\n".join(live(frame(NO_GATE, COLUMNS)))
    assert "gate   not in the way" in text
    assert "queued" not in text.replace("it queues", "")


def test_the_page_before_the_first_frame_says_what_it_waits_for() -> None:
    drawn_on = console()
    assert "starting" in "\n".join(page(LiveView(SCRIPT, drawn_on), drawn_on))


def test_a_narrow_or_low_terminal_is_no_error() -> None:
    assert {len(line) for line in live(frame(FLOOD, COLUMNS), width=40, height=10)} == {40}


def test_the_live_summary_fits_eighty_columns() -> None:
    drawn_on = console()
    LiveView(SCRIPT, drawn_on).finish(chapters(), 3041.0)
    assert isinstance(drawn_on.file, io.StringIO)
    text = drawn_on.file.getvalue()
    assert "…" not in text
    assert "headgate serve --route 8480=http://127.0.0.1:8080" in text
    for name in ("calm", "flood", "no gate"):
        assert name in text


def test_the_plain_view_prints_a_heading_per_phase_and_a_line_per_beat() -> None:
    out = io.StringIO()
    with PlainView(Script(20.0, 16, 0.05, 1), out) as view:
        for tenth in range(61):
            elapsed_s = tenth / 10
            view.show(frame(0 if elapsed_s < 3 else 1)._replace(elapsed_s=elapsed_s))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("a model with 16 slots")
    assert [line for line in lines if "capacity:" in line] == [
        f"calm, 0.5x capacity: {PHASES[0].text}",
        f"busy, 0.8x capacity: {PHASES[1].text}",
    ]
    assert [line.split()[0] for line in lines if line.startswith("  ") and "time" not in line] == [
        "1.0s", "2.0s", "4.0s", "5.0s", "6.0s",
    ]  # fmt: skip


def test_the_plain_summary_holds_table_sentences_and_next_steps() -> None:
    out = io.StringIO()
    PlainView(SCRIPT, out).finish(chapters(), 3041.0)
    text = out.getvalue()
    assert "flood       3x    960/s      33%      67%       0%" in text
    assert "* With the gate, the flood got 320/s answered" in text
    assert "* gRPC calls on the same port, 20/s: 164 answered" in text
    assert "headgate-load run http://127.0.0.1:8480" in text
    assert max(map(len, text.splitlines())) <= 100
