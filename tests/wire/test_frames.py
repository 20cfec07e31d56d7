"""Frames as the agent writes them, beside the same frames written by hand."""

import pytest

from agent.wire import frames
from agent.wire.frames import Code, Setting
from tests.wire import frames_by_hand as by_hand
from tests.wire.frames_by_hand import END_HEADERS, END_STREAM, Frame

BUILT = {
    "empty": (frames.frame(6, 1, 0), by_hand.frame(6, 0, b"", 1)),
    "kind, flags, stream": (frames.frame(0xFE, 0xFD, 2**31 - 1, b"xyz"), by_hand.frame(0xFE, 2**31 - 1, b"xyz", 0xFD)),
    "long": (frames.frame(0, 0, 1, b"x" * 70_000), by_hand.frame(0, 1, b"x" * 70_000)),
    "no settings": (frames.settings([]), by_hand.settings()),
    "settings": (frames.settings([(1, 2), (0xFFFF, 2**32 - 1)]), by_hand.settings((1, 2), (0xFFFF, 2**32 - 1))),
    "settings by name": (frames.settings({Setting.MAX_FRAME_SIZE: 5}.items()), by_hand.settings((5, 5))),
    "settings ack": (frames.SETTINGS_ACK, by_hand.SETTINGS_ACK),
    "rst_stream": (frames.rst_stream(7, Code.REFUSED_STREAM), by_hand.rst_stream(7, 7)),
    "window_update": (frames.window_update(0, 2**31 - 1), by_hand.window_update(0, 2**31 - 1)),
    "goaway": (frames.goaway(5, Code.ENHANCE_YOUR_CALM), by_hand.goaway(5, 11)),
}


@pytest.mark.parametrize("case", BUILT)
def test_frames_are_what_the_rfc_draws(case: str) -> None:
    built, expected = BUILT[case]
    assert built == expected


def test_settings_are_read_as_they_were_written() -> None:
    pairs = [(1, 2), (0xFFFF, 2**32 - 1), (1, 3)]
    assert frames.read_settings(by_hand.settings(*pairs)[9:]) == pairs
    assert frames.read_settings(b"") == []


def test_numbers_are_the_registered_ones() -> None:
    assert [code.value for code in Code] == list(range(14))
    assert (Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR, Code.STREAM_CLOSED, Code.FRAME_SIZE_ERROR) == (1, 3, 5, 6)
    assert (Code.REFUSED_STREAM, Code.CANCEL, Code.COMPRESSION_ERROR, Code.ENHANCE_YOUR_CALM) == (7, 8, 9, 11)
    assert [setting.value for setting in Setting] == list(range(1, 7))
    assert (Setting.INITIAL_WINDOW_SIZE, Setting.MAX_FRAME_SIZE) == (4, 5)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 201, 1000])
def test_a_header_block_takes_as_many_frames_as_it_needs(size: int, end: bool) -> None:
    block = bytes(range(250)) * 4
    block = block[:size]
    written = by_hand.parse(frames.header_block(3, block, end=end, max_frame=100))
    assert b"".join(frame.payload for frame in written) == block
    assert len(written) == max(1, -(-size // 100))
    assert all(len(frame.payload) <= 100 for frame in written)
    last = len(written) - 1
    assert written == [
        Frame(
            by_hand.CONTINUATION if at else by_hand.HEADERS,
            (END_HEADERS if at == last else 0) | (END_STREAM if end and not at else 0),
            3,
            frame.payload,
        )
        for at, frame in enumerate(written)
    ]
