"""Picking a part of the grid."""

from itertools import pairwise

import pytest

from .grid import CONTESTANTS, LOADS, PREDICTORS, PROTOCOLS, Cell, Panel, select

WHOLE = len(PREDICTORS) * len(PROTOCOLS) * len(CONTESTANTS) * len(LOADS)


def test_without_a_word_everything_is_picked_once() -> None:
    cells = select(())
    assert len(cells) == len(set(cells)) == WHOLE


@pytest.mark.parametrize(
    ("word", "share"),
    [("demo", 2), ("triton", 2), ("http", 2), ("grpc", 2), ("auto", 6), ("none", 6), ("4x", 4), ("4", 4)],
)
def test_a_word_bounds_its_own_axis_alone(word: str, share: int) -> None:
    assert len(select([word])) == WHOLE / share


def test_words_of_all_axes_pick_one_cell() -> None:
    assert select(["1.2x", "grpc", "fifo", "triton"]) == [Cell(Panel("triton", "grpc"), "fifo", 1.2)]


def test_two_words_of_an_axis_pick_both_in_the_order_of_the_grid() -> None:
    assert [cell.load for cell in select(["demo", "http", "none", "4x", "0.8"])] == [0.8, 4.0]


@pytest.mark.parametrize("word", ["nginx", "", "3x", "demox", "deadlinex"])
def test_a_word_of_no_axis_is_refused_by_name(word: str) -> None:
    with pytest.raises(ValueError, match=f"no such part: {word};"):
        select(["demo", word])


def test_the_cells_of_a_panel_and_of_a_contestant_follow_each_other() -> None:
    for key in (lambda cell: cell.panel, lambda cell: (cell.panel, cell.contestant)):
        seen = [key(cell) for cell in select(())]
        changes = sum(one != other for one, other in pairwise(seen))
        assert changes + 1 == len(set(seen))
