"""PURE: the chart over time, as rows of (glyph, colour, background) cells.

One column per slice of time, as high as the requests due in it, stacked by how they ended. Each cell is eight eighths
high and shows at most two colours: a partial block in the lower one's colour on the upper one's background.
"""

from collections.abc import Sequence
from typing import NamedTuple

from agent.demo.story import Column

EIGHTHS = " ▁▂▃▄▅▆▇█"
_RULE = "▔"

ANSWERED, REFUSED, FAILED, WAITING = "green", "yellow", "red", "bright_black"


class Cell(NamedTuple):
    """One character of the chart; an empty colour means the terminal's own."""

    glyph: str
    colour: str = ""
    background: str = ""


def ruled_rows(columns: Sequence[Column], width: int, height: int, top: float, rule: int) -> list[list[Cell]]:
    """`height` rows of `width` cells, the highest first; a column of `top` requests fills all of them.

    A thin line lies on the upper edge of row `rule`, counted from 1 at the bottom, wherever a cell is empty or full.
    """
    stacks = [_edges(column, height * 8 / top) for column in columns]
    stacks += [[]] * (width - len(stacks))
    rows = [[_cell(edges, row * 8) for edges in stacks] for row in range(height)]
    rows[rule - 1] = [_ruled(cell) for cell in rows[rule - 1]]
    return rows[::-1]


def spark(values: Sequence[float], top: float) -> str:
    """One row of bars; `top` and above is a full block, anything above 0 at least the lowest."""
    return "".join(EIGHTHS[min(8, max(1, round(8 * value / top)))] if value > 0 else " " for value in values)


def bar(value: float, limit: float, width: int) -> tuple[str, str]:
    """A horizontal gauge as (filled, empty) text of `width` characters together."""
    filled = round(width * min(1.0, value / limit)) if limit else 0
    return "█" * filled, "░" * (width - filled)


def _edges(column: Column, scale: float) -> list[tuple[int, str]]:
    """(upper edge in eighths, colour) from the bottom up, empty parts left out."""
    edges, total, below = [], 0, 0
    parts = (
        (column.answered, ANSWERED),
        (column.refused, REFUSED),
        (column.failed, FAILED),
        (column.waiting, WAITING),
    )
    for count, colour in parts:
        total += count
        edge = round(total * scale)
        if edge > below:
            edges.append((edge, colour))
            below = edge
    return edges


def _cell(edges: Sequence[tuple[int, str]], bottom: int) -> Cell:
    inside = [(edge, colour) for edge, colour in edges if edge > bottom]
    if not inside:
        return Cell(" ")
    edge, colour = inside[0]
    if edge >= bottom + 8:
        return Cell("█", colour)
    return Cell(EIGHTHS[edge - bottom], colour, inside[1][1] if len(inside) > 1 else "")


def _ruled(cell: Cell) -> Cell:
    if cell.glyph == " ":
        return Cell(_RULE, "bright_black")
    return Cell(_RULE, "bright_white", cell.colour) if cell.glyph == "█" else cell
