"""PURE: the chart as SVG: goodput by offered load, a panel for each predictor and protocol, a line for each contestant.

No script and no font of its own. Colours tell apart for colour-blind eyes, and each line has marks of its own shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import NamedTuple

from .figures import DEADLINE_S, Figures
from .grid import CONTESTANTS, LOADS, Cell, Panel

_STYLE = """
.back { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, sans-serif }
.title { font-size: 13px; font-weight: 600 } .small { font-size: 11px; fill: #59636e }
.grid { stroke: #d1d9e0; stroke-width: 1 } .ideal { stroke: #59636e; stroke-dasharray: 2 3; fill: none }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 } text { fill: #f0f6fc } .small { fill: #9198a1 } .grid { stroke: #3d444d }
.ideal { stroke: #9198a1 }
}
"""
# After Okabe and Ito, lightened or darkened until they stand out from white and from near black alike.
_COLOURS = {
    "deadline": "#1f78d1",
    "auto": "#0a9b76",
    "fifo": "#c98a00",
    "haproxy": "#c266a0",
    "envoy": "#d9622b",
    "none": "#8b949e",
}
_SHAPES = {
    "deadline": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "auto": "M0,-5L5,4H-5z",
    "fifo": "M-4,-4H4V4H-4z",
    "haproxy": "M0,-5L5,0L0,5L-5,0z",
    "envoy": "M0,5L5,-4H-5z",
    "none": "M-4,-1.5H4V1.5H-4z",
}
_WIDTH, _HEIGHT = 300, 190  # of the area of a panel that is drawn in
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 34, 20, 44
_LEGEND = 74
_CAPTION = (
    f"Answers within {DEADLINE_S * 1000:.0f} ms, in % of what the predictor can answer. Dotted: all that could be had."
)
_COLUMNS = 2
_PER_ROW = 3
_HIGHEST = 1.1


class _Spot(NamedTuple):
    x: float
    y: float


def draw(results: Mapping[Cell, Figures]) -> str:
    """The chart of all cells that were measured."""
    panels = list(dict.fromkeys(cell.panel for cell in results))
    names = [name for name in CONTESTANTS if any(cell.contestant == name for cell in results)]
    columns = max(1, min(_COLUMNS, len(panels)))
    rows = -(-len(panels) // columns)
    cell_width, cell_height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    width, height = max(2, columns) * cell_width, _LEGEND + rows * cell_height
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Goodput by offered load">',
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        f'<text class="small" x="{_LEFT - 12}" y="20">{_CAPTION}</text>',
        *_legend(names, width),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts.append(f'<g transform="translate({column * cell_width + _LEFT},{_LEGEND + row * cell_height + _TOP})">')
        parts += _axes(panel)
        # Ours are drawn last, on top.
        for name in reversed(names):
            mine = sorted(
                (cell.load, figures.goodput)
                for cell, figures in results.items()
                if cell.panel == panel and cell.contestant == name
            )
            parts += _line(name, mine)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _spot(load: float, goodput: float) -> _Spot:
    low, high = log2(LOADS[0]), log2(LOADS[-1])
    return _Spot((log2(load) - low) / (high - low) * _WIDTH, _HEIGHT * (1 - min(goodput, _HIGHEST) / _HIGHEST))


def _legend(names: Sequence[str], width: int) -> Iterable[str]:
    step = (width - _LEFT) / _PER_ROW
    for number, name in enumerate(names):
        row, column = divmod(number, _PER_ROW)
        colour = _COLOURS[name]
        yield f'<g transform="translate({_LEFT + column * step:.0f},{40 + row * 20})">'
        yield f'<path d="M-12,0H12" stroke="{colour}" stroke-width="2"/><path d="{_SHAPES[name]}" fill="{colour}"/>'
        yield f'<text x="18" y="4">{CONTESTANTS[name]}</text></g>'


def _axes(panel: Panel) -> Iterable[str]:
    yield f'<text class="title" y="-12">{panel.title}</text>'
    for percent in (0, 25, 50, 75, 100):
        y = _spot(1, percent / 100).y
        yield f'<path class="grid" d="M0,{y:.1f}H{_WIDTH}"/>'
        yield f'<text class="small" x="-8" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>'
    for load in LOADS:
        x = _spot(load, 0).x
        yield f'<text class="small" x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{load:g}x</text>'
    yield (
        f'<text class="small" x="{_WIDTH / 2}" y="{_HEIGHT + 32}" text-anchor="middle">'
        "offered load, in multiples of capacity</text>"
    )
    ideal = " ".join(f"{spot.x:.1f},{spot.y:.1f}" for spot in (_spot(load, min(load, 1)) for load in (0.8, 1, 4)))
    yield f'<polyline class="ideal" points="{ideal}"/>'


def _line(name: str, points: Sequence[tuple[float, float]]) -> Iterable[str]:
    spots = [_spot(*point) for point in points]
    colour = _COLOURS[name]
    path = " ".join(f"{spot.x:.1f},{spot.y:.1f}" for spot in spots)
    yield f'<polyline class="line" stroke="{colour}" points="{path}"/>'
    for spot in spots:
        yield f'<path d="{_SHAPES[name]}" fill="{colour}" transform="translate({spot.x:.1f},{spot.y:.1f})"/>'
