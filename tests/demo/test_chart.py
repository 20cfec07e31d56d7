"""The chart's cells against a naive drawing in eighths."""

from hypothesis import given
from hypothesis import strategies as st

from agent.demo.chart import ANSWERED, EIGHTHS, FAILED, REFUSED, WAITING, Cell, bar, ruled_rows, spark
from agent.demo.story import Column

counts = st.integers(0, 60)
columns = st.lists(
    st.builds(
        lambda answered, refused, failed, waiting: Column(
            answered + refused + failed + waiting, answered, refused, failed, 0
        ),
        counts,
        counts,
        counts,
        counts,
    ),
    max_size=12,
)
HEIGHT, TOP, RULE = 10, 80.0, 3


def naive_eighths(column: Column) -> list[str]:
    """The colour of every eighth of a column from the bottom up, empty at the top."""
    ends, colours = 0, []
    for count, colour in (
        (column.answered, ANSWERED),
        (column.refused, REFUSED),
        (column.failed, FAILED),
        (column.waiting, WAITING),
    ):
        ends += count
        colours += [colour] * (round(ends * HEIGHT * 8 / TOP) - len(colours))
    return (colours + [""] * HEIGHT * 8)[: HEIGHT * 8]


def expected_cell(eighths: list[str]) -> Cell:
    """What one cell shows: its lowest colour, and above that the next one as the background."""
    lowest = eighths[0]
    same = next((number for number, colour in enumerate(eighths) if colour != lowest), 8)
    if not lowest:
        return Cell(" ")
    return Cell(EIGHTHS[same], lowest, eighths[same] if same < 8 else "")


@given(columns)
def test_cells_equal_the_naive_drawing(drawn: list[Column]) -> None:
    rows = ruled_rows(drawn, 12, HEIGHT, TOP, RULE)
    assert [len(row) for row in rows] == [12] * HEIGHT
    for number, row in enumerate(reversed(rows)):
        for column, cell in zip(drawn, row, strict=False):
            expected = expected_cell(naive_eighths(column)[number * 8 : number * 8 + 8])
            if number == RULE - 1 and expected.glyph in " █":
                assert cell.glyph == "▔"
                assert cell.background == expected.colour
            else:
                assert cell == expected


def test_the_rule_runs_on_to_the_right_of_the_last_column() -> None:
    rows = ruled_rows([], 5, 4, 1.0, 3)
    assert ["".join(cell.glyph for cell in row) for row in rows] == ["     ", "▔▔▔▔▔", "     ", "     "]


def test_a_spark_shows_the_least_value_and_clips_the_greatest() -> None:
    assert spark([0, 0.001, 4, 8, 99], 8.0) == " ▁▄██"


def test_a_bar_is_as_wide_as_asked_and_never_overflows() -> None:
    assert bar(3, 4, 8) == ("██████", "░░")
    assert bar(9, 4, 8) == ("████████", "")
    assert bar(1, 0, 4) == ("", "░░░░")
