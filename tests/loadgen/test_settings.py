"""Every flag: what it accepts, what it refuses, and that all problems come at once."""

import argparse
import math
from pathlib import Path

import pytest

from loadgen.payload import Tensor
from loadgen.schedule import Arrivals, Step
from loadgen.settings import (
    FLAGS,
    REPEATABLE,
    SettingsError,
    Url,
    parse_header,
    parse_shape,
    parse_steps,
    parse_url,
    read_settings,
)


def given(
    url: str | None = "http://127.0.0.1:8480", model: str | None = "m", **flags: str | list[str]
) -> argparse.Namespace:
    namespace = argparse.Namespace(url=url)
    for flag, *_ in FLAGS:
        setattr(namespace, flag[2:], None)
    namespace.model = model
    for name, text in flags.items():
        setattr(namespace, name, text)
    return namespace


def problems_of(namespace: argparse.Namespace) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings(namespace)
    return caught.value.problems


def test_defaults_are_one_caller_for_ten_seconds() -> None:
    settings = read_settings(given())
    assert (settings.concurrency, settings.steps, settings.duration_s, settings.limit) == (1, (), 10.0, math.inf)
    assert (settings.timeout_s, settings.shapes, settings.headers, settings.json) == (10.0, (), (), None)


def test_a_random_seed_is_drawn_for_each_run() -> None:
    assert len({read_settings(given()).seed for _ in range(5)}) > 1
    assert read_settings(given(seed="7")).seed == 7


def test_a_count_alone_has_no_duration() -> None:
    settings = read_settings(given(requests="50"))
    assert (settings.duration_s, settings.limit) == (math.inf, 50)
    both = read_settings(given(requests="50", duration="2s"))
    assert (both.duration_s, both.limit) == (2.0, 50)


def test_a_rate_is_a_schedule_of_one_step() -> None:
    settings = read_settings(given(rate="50", duration="2s", arrivals="constant"))
    assert (settings.steps, settings.arrivals, settings.concurrency) == ((Step(50.0, 2.0),), Arrivals.CONSTANT, 0)
    assert read_settings(given(rate="50", requests="5")).steps == (Step(50.0, math.inf),)
    assert read_settings(given(rate="50")).arrivals is Arrivals.POISSON


def test_every_flag_is_read() -> None:
    settings = read_settings(
        given(
            url="http://[::1]:9000/prefix/",
            steps="100:5s,0:1s,300.5:500ms",
            timeout="250ms",
            seed="3",
            shape=["a:1,2:INT8", "b:4"],
            header=["X-A: 1", "Host: model.example"],
            json="result.json",
        )
    )
    assert settings.url == Url("::1", 9000, "/prefix")
    assert str(settings.url) == "http://[::1]:9000/prefix"
    assert settings.steps == (Step(100.0, 5.0), Step(0.0, 1.0), Step(300.5, 0.5))
    assert (settings.timeout_s, settings.seed, settings.json) == (0.25, 3, Path("result.json"))
    assert settings.shapes == (Tensor("a", "INT8", (1, 2)), Tensor("b", "", (4,)))
    assert settings.headers == (("X-A", "1"), ("Host", "model.example"))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("concurrency", "0"),
        ("concurrency", "10001"),
        ("concurrency", "2.5"),
        ("rate", "0"),
        ("rate", "200001"),
        ("rate", "nan"),
        ("rate", "fast"),
        ("steps", "100"),
        ("steps", "0:5s"),
        ("steps", "100:5"),
        ("steps", "100:5s,"),
        ("steps", ",".join(["1:1s"] * 1001)),
        ("arrivals", "gamma"),
        ("duration", "10"),
        ("duration", "99ms"),
        ("duration", "25h"),
        ("requests", "0"),
        ("requests", "20000001"),
        ("timeout", "0s"),
        ("timeout", "2h"),
        ("seed", "-1"),
        ("seed", "4294967296"),
        ("json", "/no/such/folder/result.json"),
        ("json", "/tmp"),
        ("json", ""),
        ("model", ""),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(flag: str, text: str) -> None:
    extra = {"rate": "5"} if flag == "arrivals" else {}
    (problem,) = problems_of(given(**{flag: text}, **extra))
    assert problem.startswith(f"--{flag} {text!r}; accepted: ")


@pytest.mark.parametrize("flag", ["shape", "header"])
def test_each_bad_value_of_a_repeated_flag_is_named(flag: str) -> None:
    assert f"--{flag}" in REPEATABLE
    problems = problems_of(given(**{flag: ["??", "!!"]}))
    assert [problem.split(";")[0] for problem in problems] == [f"--{flag} '??'", f"--{flag} '!!'"]


def test_all_problems_come_at_once() -> None:
    problems = problems_of(given(url="ftp://x", model=None, rate="x", duration="5", timeout="-1s", shape=["a"]))
    assert [problem.split()[0] for problem in problems] == [
        "URL",
        "--model",
        "--duration",
        "--rate",
        "--timeout",
        "--shape",
    ]


def test_missing_ones_are_named() -> None:
    problems = problems_of(given(url=None, model=None))
    assert [problem.split(";")[0] for problem in problems] == ["URL is missing", "--model is missing"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"rate": "5", "concurrency": "2"}, "--rate and --concurrency: only one of them"),
        ({"rate": "5", "steps": "1:1s"}, "--rate and --steps: only one of them"),
        ({"steps": "1:1s", "duration": "5s"}, "--steps and --duration: only one of them"),
        ({"concurrency": "2", "arrivals": "poisson"}, "--arrivals and --concurrency: only one of them"),
        ({"arrivals": "poisson"}, "--arrivals: only with --rate or --steps"),
        ({"rate": "200000", "duration": "1h"}, "720000000 requests planned; accepted: at most 20000000"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: dict[str, str], problem: str) -> None:
    assert problem in problems_of(given(**flags))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a", Url("a", 80, "")),
        ("http://a/", Url("a", 80, "")),
        ("http://a:1/p/q", Url("a", 1, "/p/q")),
        ("HTTP://A:1", Url("a", 1, "")),
    ],
)
def test_urls_are_taken_apart(text: str, url: Url) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:80",
        "https://a",
        "http://",
        "http://a:x",
        "http://a:70000",
        "http://u@a",
        "http://a?q",
        "http://a#f",
        "http://a/\u00fc",
        "http://a/b c",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url(text)


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:1,", "a:1:FP99", "a:-1", "a:1:FP32:x", "a:50000001"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_shape(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a b: c", ": c", "a: b\r\nc: d", "Content-Length: 5", "transfer-encoding: chunked", "Connection: close"],
)
def test_what_is_no_header_or_frames_the_request_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_header(text)


def test_steps_need_a_rate_somewhere() -> None:
    assert parse_steps("0:1s,5:1s") == (Step(0.0, 1.0), Step(5.0, 1.0))
    with pytest.raises(ValueError):
        parse_steps("0:1s,0:2s")


def test_host_headers_name_the_port_only_where_it_is_not_the_default() -> None:
    assert Url("a", 80, "").authority == "a"
    assert Url("::1", 8080, "").authority == "[::1]:8080"
