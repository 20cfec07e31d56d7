"""Durations in, durations and rates out."""

import pytest

from loadgen.units import format_duration, format_latency, format_rate, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("2s", 2.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("80us", 8e-5),
        (".5s", 0.5),
        (" 3s ", 3.0),
        ("0s", 0.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1e3s", "5S", "1s2s", "nan", "inf s", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.05, "50ms"), (1.0, "1s"), (10.0, "10s"), (90.0, "1.5m"), (3600.0, "1h"), (5e-5, "50us")]
)
def test_durations_are_written_so_that_they_can_be_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.00us"),
        (84_000, "84.0us"),
        (999_400, "999us"),
        (999_500, "1.00ms"),
        (1_518_000, "1.52ms"),
        (83_110_000, "83.1ms"),
        (99_950_000, "100ms"),
        (999_600_000, "1.00s"),
        (2_610_000_000, "2.61s"),
    ],
)
def test_latencies_keep_three_digits(ns: int, text: str) -> None:
    assert format_latency(ns) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0/s"), (0.5, "0.50/s"), (12.34, "12.3/s"), (1234.4, "1234/s")])
def test_rates_keep_three_digits(rate: float, text: str) -> None:
    assert format_rate(rate) == text
