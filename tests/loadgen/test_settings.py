"""Every flag: what it accepts, what it refuses, and that all problems come at once."""

import argparse
import math
from pathlib import Path

import pytest

from loadgen.flags import FLAGS, POSITIONAL
from loadgen.payload import Tensor
from loadgen.schedule import Arrivals, Step
from loadgen.settings import Settings, SettingsError, flags_of, read_settings
from loadgen.values import Protocol, Url

README = (Path(__file__).parents[2] / "loadgen" / "README.md").read_text()


def given(command: str = "run", **flags: object) -> Settings:
    """What a command line means: a flag is None where it is not on it."""
    namespace = argparse.Namespace(url="http://127.0.0.1:8480", model="m", trace=None)
    for flag in (*POSITIONAL, *FLAGS):
        if not hasattr(namespace, flag.field):
            setattr(namespace, flag.field, None)
    for name, text in flags.items():
        setattr(namespace, name, text)
    return read_settings(command, namespace)


def problems_of(command: str = "run", **flags: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        given(command, **flags)
    return caught.value.problems


def test_defaults_are_one_caller_for_ten_seconds() -> None:
    settings = given()
    assert (settings.concurrency, settings.steps, settings.duration, settings.requests) == ((1,), (), 10.0, math.inf)
    assert (settings.timeout, settings.shape, settings.header, settings.json) == (10.0, (), (), None)
    assert (settings.protocol, settings.warmup, settings.retry) == (Protocol.HTTP, 0.0, 0)


def test_a_random_seed_is_drawn_for_each_run() -> None:
    assert len({given().seed for _ in range(5)}) > 1
    assert given(seed="7").seed == 7


def test_a_count_alone_has_no_duration() -> None:
    settings = given(requests="50")
    assert (settings.duration, settings.requests) == (math.inf, 50)
    both = given(requests="50", duration="2s")
    assert (both.duration, both.requests) == (2.0, 50)


def test_a_rate_is_a_schedule_of_one_step_and_a_ramp_comes_before_it() -> None:
    settings = given(rate="50", duration="2s", arrivals="constant")
    assert (settings.steps, settings.arrivals.kind, settings.concurrency) == ((Step(50, 2),), Arrivals.CONSTANT, ())
    assert given(rate="50", requests="5").steps == (Step(50.0, math.inf),)
    assert given(rate="50").arrivals.kind is Arrivals.POISSON
    assert given(rate="50", duration="2s", ramp="1s").steps == (Step(0.0, 1.0, 50.0), Step(50.0, 2.0))


def test_levels_belong_to_the_commands_that_have_them() -> None:
    assert given("sweep", concurrency="1:8").concurrency == (1, 2, 3, 4, 6, 8)
    assert given("sweep", rate="100,200").rate == (100.0, 200.0)
    assert given("sweep").concurrency[-1] == 64
    assert given("tune", slo=["p99<250ms"]).warmup == 2.0
    assert problems_of(concurrency="1:8") == ["--concurrency '1:8'; accepted: a whole number from 1 to 10000"]
    assert problems_of("search") == ["--slo is missing; accepted: such as 'p99<250ms'"]


def test_levels_need_rates() -> None:
    (problem,) = problems_of("sweep", arrivals=f"file:{__file__}", rate="1,2")
    assert problem.startswith("--arrivals file:F: only with run")


def test_the_scheme_says_the_protocol() -> None:
    assert given(url="grpc://h:1").protocol is Protocol.GRPC
    assert given(url="grpc://h:1", protocol="grpc-stream").protocol is Protocol.GRPC_STREAM
    assert problems_of(url="grpc://h:1", protocol="v1") == ["--protocol v1 does not go with grpc://"]
    assert problems_of(protocol="grpc") == ["--protocol grpc does not go with http://"]


def test_every_flag_is_read() -> None:
    settings = given(
        url="http://[::1]:9000/prefix/",
        steps="100:5s,0:1s,300.5:500ms",
        timeout="250ms",
        seed="3",
        shape=["a:1,2:INT8", "b:4"],
        header=["X-A: 1", "Host: model.example"],
        json="result.json",
        insecure=True,
    )
    assert settings.url == Url("::1", 9000, "/prefix")
    assert str(settings.url) == "http://[::1]:9000/prefix"
    assert settings.steps == (Step(100.0, 5.0), Step(0.0, 1.0), Step(300.5, 0.5))
    assert (settings.timeout, settings.seed, settings.json) == (0.25, 3, Path("result.json"))
    assert settings.shape == (Tensor("a", "INT8", (1, 2)), Tensor("b", "", (4,)))
    assert settings.header == (("X-A", "1"), ("Host", "model.example"))
    assert settings.insecure


BAD = [
    ("run", "concurrency", "0"),
    ("run", "concurrency", "10001"),
    ("run", "concurrency", "2.5"),
    ("run", "rate", "0"),
    ("run", "rate", "nan"),
    ("run", "rate", "fast"),
    ("run", "steps", "100"),
    ("run", "steps", "0:5s"),
    ("run", "steps", "100:5s,"),
    ("run", "steps", ",".join(["1:1s"] * 1001)),
    ("run", "arrivals", "gamma"),
    ("run", "arrivals", "gamma:0"),
    ("run", "arrivals", "file:/no/such"),
    ("run", "duration", "10"),
    ("run", "duration", "99ms"),
    ("run", "requests", "20000001"),
    ("run", "timeout", "0s"),
    ("run", "seed", "4294967296"),
    ("run", "json", "/no/such/folder/result.json"),
    ("run", "json", ""),
    ("run", "model", "a=0"),
    ("run", "protocol", "smtp"),
    ("run", "cancel", "5%"),
    ("run", "retry", "-1"),
    ("run", "retry_after", "obey"),
    ("run", "tensor_format", "xml"),
    ("run", "format", "yaml"),
    ("run", "ca", "/no/such"),
    ("run", "fail_on", "mondays"),
    ("sweep", "concurrency", "8:1"),
    ("sweep", "rate", "9,3"),
    ("sweep", "stable", "3x"),
    ("tune", "preferred_batch", "0"),
    ("replay", "speed", "0"),
]


@pytest.mark.parametrize(("command", "field", "text"), BAD)
def test_a_bad_value_is_named_with_what_is_accepted(command: str, field: str, text: str) -> None:
    extra: dict[str, object] = {"rate": "5"} if field == "arrivals" else {}
    extra |= {"trace": __file__} if command == "replay" else {"slo": ["p99<1s"]} if command == "tune" else {}
    (problem,) = problems_of(command, **{field: text}, **extra)
    assert problem.startswith(f"--{field.replace('_', '-')} {text!r}; accepted: ")


@pytest.mark.parametrize("field", ["shape", "header", "slo", "tag"])
def test_each_bad_value_of_a_repeated_flag_is_named(field: str) -> None:
    problems = problems_of(**{field: ["??", "!!"]})
    assert [problem.split(";")[0] for problem in problems] == [f"--{field} '??'", f"--{field} '!!'"]


def test_all_problems_come_at_once() -> None:
    problems = problems_of(url="ftp://x", rate="x", duration="5", timeout="-1s", shape=["a"])
    assert [problem.split()[0] for problem in problems] == ["URL", "--rate", "--duration", "--shape", "--timeout"]


def test_missing_ones_are_named() -> None:
    assert problems_of(url=None)[0].startswith("URL is missing")
    assert problems_of(model=None)[0].startswith("--model is missing")
    assert problems_of("replay")[0].startswith("TRACE is missing")
    assert "needs a body" in problems_of(model=None, protocol="post")[0]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"rate": "5", "concurrency": "2"}, "--rate and --concurrency: only one of them"),
        ({"rate": "5", "steps": "1:1s"}, "--rate and --steps: only one of them"),
        ({"steps": "1:1s", "duration": "5s"}, "--steps and --duration: only one of them"),
        ({"concurrency": "2", "arrivals": "poisson"}, "--arrivals and --concurrency: only one of them"),
        ({"arrivals": "poisson"}, "--arrivals: only with --rate or --steps"),
        ({"rate": "200000", "duration": "1h"}, "720000000 requests planned; accepted: at most 20000000"),
        ({"cert": __file__}, "--cert: only with --key"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: dict[str, str], problem: str) -> None:
    assert problem in problems_of(**flags)


@pytest.mark.parametrize("command", ["run", "sweep", "search", "tune", "replay", "inspect"])
def test_no_command_has_a_flag_twice_and_all_defaults_are_accepted(command: str) -> None:
    names = [flag.name for flag in flags_of(command)]
    assert len(names) == len(set(names))
    more: dict[str, object] = {"slo": ["p99<1s"]} if command in {"search", "tune"} else {}
    assert given(command, trace=__file__ if command == "replay" else None, **more).command == command


@pytest.mark.parametrize("flag", sorted({flag.name for flag in FLAGS}))
def test_the_readme_has_every_flag(flag: str) -> None:
    assert f"`{flag}`" in README
