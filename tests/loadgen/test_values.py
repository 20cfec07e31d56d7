"""What is written on the command line, read: tables of what is accepted and what is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen.schedule import Arrivals, Step
from loadgen.values import (
    Slo,
    Spread,
    Url,
    parse_callers,
    parse_cancel,
    parse_folder,
    parse_header,
    parse_models,
    parse_rates,
    parse_shape,
    parse_share,
    parse_slo,
    parse_spread,
    parse_steps,
    parse_tag,
    parse_url,
    words_of,
)

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    (parse_url, "http://a", Url("a", 80, "")),
    (parse_url, "http://a:1/p/q/", Url("a", 1, "/p/q")),
    (parse_url, "HTTPS://A", Url("a", 443, "", "https")),
    (parse_url, "grpcs://a", Url("a", 443, "", "grpcs")),
    (parse_models, "resnet", (("resnet", 1.0),)),
    (parse_models, "a=3,b=0.5", (("a", 3.0), ("b", 0.5))),
    (parse_steps, "0:1s,5:1s", (Step(0.0, 1.0), Step(5.0, 1.0))),
    (parse_steps, "10-50:1m", (Step(10.0, 60.0, 50.0),)),
    (parse_spread, "const", Spread(Arrivals.CONSTANT)),
    (parse_spread, "gamma:2", Spread(Arrivals.GAMMA, 2.0)),
    (parse_callers, "8", (8,)),
    (parse_callers, "1,2,4", (1, 2, 4)),
    (parse_callers, "1:20", (1, 2, 3, 4, 6, 8, 12, 16, 20)),
    (parse_callers, "8:32:8", (8, 16, 24, 32)),
    (parse_rates, "50:200:50", (50.0, 100.0, 150.0, 200.0)),
    (parse_rates, "10:1280", (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)),
    (parse_slo, "p99<250ms", Slo("p99", 0.25, False, "p99<250ms")),
    (parse_slo, "p99.9 < 1s", Slo("p99.9", 1.0, False, "p99.9 < 1s")),
    (parse_slo, "errors<1%", Slo("errors", 0.01, False, "errors<1%")),
    (parse_slo, "rps>300", Slo("rps", 300.0, True, "rps>300")),
    (parse_cancel, "5%@100ms", (0.05, 0.1)),
    (parse_cancel, "0.5@2s", (0.5, 2.0)),
    (parse_share, "3%", 0.03),
    (parse_tag, "a=b=c", ("a", "b=c")),
    (words_of("a", "b"), "none", frozenset()),
    (words_of("a", "b"), "a,b", frozenset("ab")),
]

REFUSED: list[tuple[Callable[[str], Any], str]] = [
    *((parse_url, text) for text in ("", "a:80", "ftp://a", "http://", "http://a:x", "http://a:70000", "http://u@a")),
    *((parse_url, text) for text in ("http://a?q", "http://a#f", "http://a/\u00fc", "http://a/b c")),
    *((parse_models, text) for text in ("", "=1", "a=x", "a=1,b", "a=1,a=2")),
    *((parse_steps, text) for text in ("0:1s,0:2s", "1-x:1s", "1:1s:1s", "x")),
    *((parse_spread, text) for text in ("uniform", "poisson:2", "gamma", "gamma:x", "file:")),
    *((parse_callers, text) for text in ("", "2,1", "1,1", "4:4", "1:8:2:2", "a:b", "1:10001")),
    *((parse_shape, text) for text in ("a", "a:", ":1", "a:0", "a:1,", "a:1:FP99", "a:-1", "a:1:FP32:x", "a:50000001")),
    *((parse_header, text) for text in ("", "a", "a b: c", ": c", "a: b\r\nc: d", "Content-Length: 5")),
    *((parse_header, text) for text in ("transfer-encoding: chunked", "Connection: close")),
    *((parse_slo, text) for text in ("", "p99", "p99>1s", "p999<1s", "rps<3", "p99<5", "errors<200%", "x<1s")),
    *((parse_cancel, text) for text in ("5%", "200%@1s", "x@1s", "5%@1")),
    (parse_tag, "=b"),
    (parse_folder, "/no/such/folder/x"),
    (parse_folder, __file__),
    (words_of("a"), "b"),
]


@pytest.mark.parametrize(("parse", "text", "value"), ACCEPTED)
def test_what_is_accepted(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), REFUSED)
def test_what_is_refused(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_host_headers_name_the_port_only_where_it_is_not_the_default() -> None:
    assert Url("a", 80, "").authority == "a"
    assert Url("a", 80, "", "https").authority == "a:80"
    assert Url("::1", 8080, "").authority == "[::1]:8080"


def test_an_objective_is_kept_on_its_own_side_and_never_by_nothing() -> None:
    assert parse_slo("p99<1s").holds(0.99)
    assert not parse_slo("p99<1s").holds(1.0)
    assert parse_slo("rps>5").holds(5.1)
    assert not parse_slo("rps>5").holds(None)
    assert parse_slo("p99.9<1s").quantile == pytest.approx(0.999)
    assert parse_slo("mean<1s").quantile is None


def test_a_file_of_arrivals_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "times"
    file.write_text("0 1 2")
    assert parse_spread(f"file:{file}").file == file
