"""The chart, read as XML: what is drawn where."""

from dataclasses import replace
from xml.etree.ElementTree import Element, fromstring

import pytest

from .chart import draw
from .figures import summarise
from .grid import CONTESTANTS, Cell, Panel, select

SVG = "{http://www.w3.org/2000/svg}"
NOTHING = summarise([], capacity=1, seconds=1)


def chart(goodput: dict[Cell, float]) -> Element:
    return fromstring(draw({cell: replace(NOTHING, goodput=value) for cell, value in goodput.items()}))


def line(root: Element) -> list[tuple[float, float]]:
    (found,) = root.findall(f".//{SVG}polyline[@class='line']")
    return [(float(x), float(y)) for x, _, y in (spot.partition(",") for spot in found.attrib["points"].split())]


def texts(root: Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_more_load_is_further_right_and_more_goodput_higher() -> None:
    panel = Panel("demo", "http")
    spots = line(chart({Cell(panel, "auto", load): good for load, good in ((4.0, 0.9), (0.8, 0.0), (2.0, 0.5))}))
    assert [x for x, _ in spots] == sorted(x for x, _ in spots)
    assert [y for _, y in spots] == sorted((y for _, y in spots), reverse=True)


def test_equal_ratios_of_load_are_equal_distances() -> None:
    panel = Panel("demo", "http")
    (a, _), (b, _), (c, _) = line(chart({Cell(panel, "auto", load): 1.0 for load in (0.8, 2.0, 4.0)}))
    assert (c - b) / (b - a) == pytest.approx(0.7565, abs=0.01)  # log 2 / log 2.5


def test_what_is_beyond_the_scale_stays_inside() -> None:
    ((_, y),) = line(chart({Cell(Panel("demo", "http"), "auto", 2.0): 3.0}))
    assert y == 0


def test_every_panel_and_contestant_is_named_once() -> None:
    root = chart(dict.fromkeys(select(()), 0.5))
    shown = texts(root)
    for name in (*CONTESTANTS.values(), "demo predictor, HTTP", "demo predictor, gRPC", "Triton, HTTP", "Triton, gRPC"):
        assert shown.count(name) == 1
    assert len(root.findall(f".//{SVG}polyline[@class='line']")) == 4 * len(CONTESTANTS)


def test_a_line_has_the_cells_of_its_own_panel() -> None:
    root = chart({Cell(Panel(predictor, "http"), "auto", 2.0): 0.5 for predictor in ("demo", "triton")})
    lines = root.findall(f".//{SVG}polyline[@class='line']")
    assert [len(line.attrib["points"].split()) for line in lines] == [1, 1]


def test_what_was_not_measured_is_not_named() -> None:
    shown = texts(chart({Cell(Panel("triton", "grpc"), "fifo", 2.0): 0.5}))
    assert "Headgate, fifo, queue 10 x limit" in shown
    assert not {"no gate", "demo predictor, HTTP"} & set(shown)


def test_no_script_and_colours_for_dark_and_light() -> None:
    svg = draw({Cell(Panel("demo", "http"), "auto", 2.0): NOTHING})
    assert "script" not in svg
    assert "prefers-color-scheme: dark" in svg
    assert len(svg) < 4000


def test_everything_lies_inside_the_picture() -> None:
    root = chart(dict.fromkeys(select(()), 0.0))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for group in root.findall(f"{SVG}g"):
        x, y = map(float, group.attrib["transform"].removeprefix("translate(").rstrip(")").split(","))
        assert 0 <= x < width
        assert 0 <= y < height
