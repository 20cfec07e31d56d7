"""Every knob: its default, its range, where it may come from, and what is said when it is wrong."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import agent
from agent.errors import SettingsError
from agent.knobs import Knob
from agent.observe.accesslog import Mode
from agent.security import Security
from agent.settings import Settings, knobs, resolve
from agent.values import AUTO, Address, Listen, Page, Route

KNOBS = {knob.flag: knob for knob in knobs()}
ROUTE = "8080=http://127.0.0.1:9000"


class Texts(NamedTuple):
    """A setting's default, texts that it accepts and what they mean, texts that it does not, and its range in words."""

    default: Any
    good: dict[str, Any]
    bad: tuple[str, ...]
    range: str


NOT_DURATIONS = ("", "5", "s", "5 s", "-1s", "1e3s", "5S", "1h30m", "inf")
NOT_SIZES = ("", "64k", "64KB", "-1", "1.5MiB", "1 MiB", "KiB")
NOT_NUMBERS = ("", "-1", "+1", "1.0", "1_000", "0x10", " 1", "9" * 12, "many")

TABLE: dict[str, Texts] = {
    "--route": Texts(
        None,
        {
            ROUTE: Route(Listen("0.0.0.0", 8080), Address("127.0.0.1", 9000)),
            "127.0.0.1:0=http://predictor.ns.svc:80/": Route(Listen("127.0.0.1", 0), Address("predictor.ns.svc", 80)),
            "[::1]:80=http://[::1]:9000": Route(Listen("::1", 80), Address("::1", 9000)),
            "80=http://localhost:9000": Route(Listen("0.0.0.0", 80), Address("127.0.0.1", 9000)),
            "80=http+unix:/run/a=b.sock": Route(Listen("0.0.0.0", 80), Address("", 0, "/run/a=b.sock")),
        },
        (
            "8080",
            "http://127.0.0.1:9000",
            "=http://127.0.0.1:9000",
            "8080=",
            "70000=http://127.0.0.1:9000",
            "a b:80=http://127.0.0.1:9000",
            "80=127.0.0.1:9000",
            "80=tls://127.0.0.1:9000",
            "80=http://127.0.0.1",
            "80=http://127.0.0.1:0",
            "80=http://127.0.0.1:65536",
            "80=http://127.0.0.1:9000/v2",
            "80=http://u@127.0.0.1:9000",
            "80=http://a..b:9000",
            "80=http+unix:run/m.sock",
            "80=http+unix:/" + "x" * 107,
        ),
        "LISTEN=UPSTREAM",
    ),
    "--admin": Texts(
        Listen("0.0.0.0", 8481),
        {"127.0.0.1:0": Listen("127.0.0.1", 0), "9": Listen("0.0.0.0", 9), "[::]:65535": Listen("::", 65535)},
        ("", "off", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:65536", "::1:80", "80 "),
        "PORT or HOST:PORT with a port from 0 to 65535",
    ),
    "--limit": Texts(
        AUTO,
        {"1": 1, "1000000": 1_000_000, "none": None, "auto": AUTO},
        (*NOT_NUMBERS, "0", "1000001", "None"),
        "auto, none, or a whole number from 1 to 1000000",
    ),
    "--model-limit": Texts(
        (),
        {"m=2": ("m", 2), "a=b=3": ("a=b", 3), "m=auto": ("m", AUTO)},
        ("", "m", "m=", "=1", "m=0", "m=x", "m=1000001", "=auto"),
        "NAME=N with N auto or a whole number from 1 to 1000000",
    ),
    "--queue": Texts(1000, {"0": 0, "1000000": 1_000_000}, (*NOT_NUMBERS, "1000001"), "from 0 to 1000000"),
    "--queue-bytes": Texts(
        128 << 20,
        {"64KiB": 1 << 16, "65536": 1 << 16, "1GiB": 1 << 30},
        (*NOT_SIZES, "65535B", "2000GiB"),
        "from 65536 to",
    ),
    "--queued-body": Texts(
        64 << 10, {"1KiB": 1 << 10, "1024B": 1 << 10, "2MiB": 2 << 20}, (*NOT_SIZES, "1023", "2GiB"), "from 1024 to"
    ),
    "--policy": Texts("deadline", {"deadline": "deadline"}, ("", "lifo", "FIFO"), "one of deadline, fifo"),
    "--deadline": Texts(
        10.0, {"1ms": 0.001, "1.5s": 1.5, "24h": 86400.0}, (*NOT_DURATIONS, "0", "25h"), "0.001s to 86400s"
    ),
    "--model-deadline": Texts(
        (),
        {"m=2s": ("m", 2.0), "a=b=30ms": ("a=b", 0.03)},
        ("", "m", "m=", "=1s", "m=0", "m=x", "m=25h"),
        "NAME=DUR with",
    ),
    "--deadline-header": Texts("", {"X-Timeout": "x-timeout"}, ("a b", "a:", "ä"), "the name of a header field"),
    "--priority-header": Texts("", {"x-priority": "x-priority"}, ("a b", "a:"), "the name of a header field"),
    "--tenant-header": Texts("", {"x-tenant": "x-tenant"}, ("a b", "a:"), "the name of a header field"),
    "--v2-hints": Texts(
        (),
        {"timeout": ("timeout",), "rows,priority": ("rows", "priority"), "": ()},
        ("time", "timeout,", "timeout,timeout", "timeout, rows"),
        "some of timeout, priority, rows, each once, with commas between them",
    ),
    "--load-page": Texts(True, {"on": True, "off": False}, ("", "true", "ON"), "one of on, off"),
    "--knative-metrics": Texts(
        None,
        {"0.0.0.0:9090": Listen("0.0.0.0", 9090), "": None},
        ("off", "127.0.0.1", ":80"),
        "PORT or HOST:PORT",
    ),
    "--orca": Texts("off", {"asked": "asked", "always": "always"}, ("", "on", "true"), "one of off, asked, always"),
    "--timeout": Texts(0.0, {"0": 0.0, "0s": 0.0, "2m": 120.0}, (*NOT_DURATIONS, "25h"), "from 0s to 86400s"),
    "--response-timeout": Texts(0.0, {"0": 0.0, "2m": 120.0}, (*NOT_DURATIONS, "25h"), "from 0s to 86400s"),
    "--overload-status": Texts(503, {"503": 503, "429": 429}, ("", "500", "503 ", "x"), "one of 503, 429"),
    "--unknown-route": Texts("bypass", {"bypass": "bypass", "admit": "admit"}, ("", "queue"), "one of bypass, admit"),
    "--retry-stale": Texts(False, {"true": True, "false": False}, ("", "1", "yes", "True"), "one of true, false"),
    "--head-timeout": Texts(10.0, {"100ms": 0.1, "1h": 3600.0}, (*NOT_DURATIONS, "99ms", "2h"), "from 0.1s to 3600s"),
    "--idle-timeout": Texts(300.0, {"5m": 300.0, "100ms": 0.1}, (*NOT_DURATIONS, "99ms", "25h"), "from 0.1s to 86400s"),
    "--min-rate": Texts(1024, {"0": 0, "1GiB": 1 << 30}, (*NOT_SIZES, "2GiB"), "from 0 to 1073741824"),
    "--slow-grace": Texts(
        30.0, {"100ms": 0.1, "1h": 3600.0}, (*NOT_DURATIONS, "0", "99ms", "2h"), "from 0.1s to 3600s"
    ),
    "--max-head": Texts(
        64 << 10, {"1KiB": 1 << 10, "1MiB": 1 << 20}, (*NOT_SIZES, "1023", "2MiB"), "from 1024 to 1048576"
    ),
    "--max-connections": Texts(
        10_000, {"1": 1, "1000000": 1_000_000}, (*NOT_NUMBERS, "0", "1000001"), "from 1 to 1000000"
    ),
    "--ready-when": Texts(
        "reachable", {"listening": "listening"}, ("", "always", "Reachable"), "one of reachable, listening"
    ),
    "--ready-path": Texts(
        "",
        {"": "", "/": "/", "/v2/health/ready?x=%20": "/v2/health/ready?x=%20"},
        ("ready", "http://m/ready", "/a b", "/a\r\nb", "/a#b", "/\xe4", "/" + "x" * 1024),
        "a path such as /v2/health/ready",
    ),
    "--startup-timeout": Texts(0.0, {"0": 0.0, "10m": 600.0}, (*NOT_DURATIONS, "25h"), "from 0s to 86400s"),
    "--drain-delay": Texts(5.0, {"0": 0.0, "1h": 3600.0}, (*NOT_DURATIONS, "2h"), "from 0s to 3600s"),
    "--drain-timeout": Texts(20.0, {"0s": 0.0, "10m": 600.0}, (*NOT_DURATIONS, "25h"), "from 0s to 86400s"),
    "--live-settings": Texts(
        "", {"/dev/null": "/dev/null"}, ("/no/such/file", "/dev"), "the path of a text file that can be read"
    ),
    "--log-level": Texts("info", {"debug": "debug", "error": "error"}, ("", "INFO", "fatal"), "one of debug, info"),
    "--access-log": Texts(Mode.ERRORS, {"off": Mode.OFF, "all": Mode.ALL}, ("", "none"), "one of off, errors, all"),
    "--merge-metrics": Texts(
        (),
        {
            "http://127.0.0.1:8002/metrics": Page(Address("127.0.0.1", 8002), "/metrics"),
            "http://localhost:80/": Page(Address("127.0.0.1", 80), "/"),
            "http://[::1]:8002/m?format=text": Page(Address("::1", 8002), "/m?format=text"),
        },
        (
            "127.0.0.1:8002/metrics",
            "https://127.0.0.1:8002/metrics",
            "h2c://127.0.0.1:8002/metrics",
            "http://127.0.0.1:8002",
            "http://127.0.0.1/metrics",
            "http://u@127.0.0.1:8002/metrics",
            "http://127.0.0.1:8002/metrics#x",
            "http://127.0.0.1:70000/metrics",
        ),
        "http://HOST:PORT/PATH",
    ),
}

GOOD = [(flag, text, value) for flag, texts in TABLE.items() for text, value in texts.good.items()]
BAD = [(flag, text) for flag, texts in TABLE.items() for text in texts.bad]


def resolved(flags: dict[str, list[str]] | None = None, env: dict[str, str] | None = None) -> Settings:
    """Settings from flags by their name on the command line; a route is there unless given."""
    named = {KNOBS[flag].name: texts for flag, texts in (flags or {}).items()}
    needs_route = "routes" not in named and "HEADGATE_ROUTE" not in (env or {})
    return resolve({**({"routes": [ROUTE]} if needs_route else {}), **named}, env or {})


def problems(flags: dict[str, list[str]] | None = None, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        resolved(flags, env)
    return caught.value.problems


def value_of(settings: Settings, knob: Knob) -> Any:
    value = getattr(settings, knob.name)
    return value[0] if knob.repeat and value else value


def test_the_table_has_every_setting() -> None:
    assert [*TABLE, *(knob.flag for knob in knobs(Security))] == list(KNOBS), "Security has a table of its own"
    assert {knob.name for knob in KNOBS.values()} == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize("flag", [flag for flag in TABLE if flag != "--route"])
def test_the_default_is_accepted(flag: str) -> None:
    assert getattr(resolved(), KNOBS[flag].name) == TABLE[flag].default


@pytest.mark.parametrize(("flag", "text", "value"), GOOD)
def test_a_flag_is_parsed(flag: str, text: str, value: Any) -> None:
    assert value_of(resolved({flag: [text]}), KNOBS[flag]) == value


@pytest.mark.parametrize(("flag", "text", "value"), GOOD)
def test_the_environment_says_the_same(flag: str, text: str, value: Any) -> None:
    knob = KNOBS[flag]
    assert knob.env == "HEADGATE_" + flag.removeprefix("--").replace("-", "_").upper()
    assert value_of(resolved(env={knob.env: text}), knob) == value


@pytest.mark.parametrize("flag", TABLE)
def test_a_flag_wins_over_the_environment(flag: str) -> None:
    knob, texts = KNOBS[flag], TABLE[flag]
    good = next(iter(texts.good))
    settings = resolved({flag: [good]}, {knob.env: "not even valid"})
    assert value_of(settings, knob) == texts.good[good]


@pytest.mark.parametrize("flag", [flag for flag in TABLE if not KNOBS[flag].repeat])
def test_the_last_of_a_repeated_flag_wins(flag: str) -> None:
    first, last = next(iter(TABLE[flag].good)), list(TABLE[flag].good)[-1]
    assert value_of(resolved({flag: [first, last]}), KNOBS[flag]) == TABLE[flag].good[last]


@pytest.mark.parametrize(("flag", "text"), BAD)
def test_what_is_not_accepted_is_named_with_the_range(flag: str, text: str) -> None:
    (problem,) = problems({flag: [text]})
    assert problem.startswith(f"{flag} {text!r} is not accepted: expected ")
    assert TABLE[flag].range in problem


def test_only_ascii_digits_are_numbers() -> None:
    arabic = str.maketrans("0123456789", "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669")
    for flag, text, _ in GOOD:
        if any(map(str.isdigit, text)) and "unix" not in text:
            assert problems({flag: [text.translate(arabic)]})


@pytest.mark.parametrize("flag", TABLE)
def test_a_bad_variable_is_named_as_such(flag: str) -> None:
    knob = KNOBS[flag]
    text = next(text for text in TABLE[flag].bad if text and not text.isspace() and " " not in text)
    (problem,) = problems(env={knob.env: text})
    assert problem.startswith(f"{knob.env} {text!r} is not accepted")


def test_repeatable_variables_are_split_at_spaces() -> None:
    settings = resolved(
        env={
            "HEADGATE_ROUTE": "8080=http://127.0.0.1:9000  8081=http+unix:/run/m.sock",
            "HEADGATE_MODEL_LIMIT": "a=1 b=2\tc=3\n",
        }
    )
    assert [str(route.listen) for route in settings.routes] == ["0.0.0.0:8080", "0.0.0.0:8081"]
    assert [str(route.upstream) for route in settings.routes] == ["http://127.0.0.1:9000", "http+unix:/run/m.sock"]
    assert settings.model_limits == (("a", 1), ("b", 2), ("c", 3))


def test_repeatable_flags_add_up() -> None:
    settings = resolved({"--model-limit": ["a=1", "b=2"], "--route": [ROUTE, "8081=http://127.0.0.1:9001"]})
    assert settings.model_limits == (("a", 1), ("b", 2))
    assert len(settings.routes) == 2


@pytest.mark.parametrize("env", [{}, {"HEADGATE_ROUTE": ""}, {"HEADGATE_ROUTE": "  "}])
def test_a_route_is_required(env: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({}, env)
    (problem,) = caught.value.problems
    assert problem.startswith("--route is required: LISTEN=UPSTREAM")


def test_other_variables_do_not_matter() -> None:
    assert resolved(env={"HEADGATE": "x", "HEADGATE_FOO": "x", "LIMIT": "x", "headgate_limit": "x"}) == resolved()


def test_all_problems_are_reported_at_once() -> None:
    bad = {flag: [texts.bad[-1]] for flag, texts in TABLE.items()}
    assert [problem.split()[0] for problem in problems(bad)] == list(TABLE)


def test_every_bad_value_of_a_repeated_flag_is_reported() -> None:
    assert len(problems({"--model-limit": ["a=0", "b=1", "c"], "--route": ["x", ROUTE, "y"]})) == 4


HTTP1, HTTP2 = Address("127.0.0.1", 9000), Address("127.0.0.1", 9001)


@pytest.mark.parametrize(
    ("text", "http1", "http2"),
    [
        ("http://127.0.0.1:9000", HTTP1, None),
        ("h2c://127.0.0.1:9001", None, HTTP2),
        ("auto://127.0.0.1:9000", HTTP1, HTTP1),
        ("http://127.0.0.1:9000,h2c://127.0.0.1:9001", HTTP1, HTTP2),
        ("h2c://localhost:9001,http://localhost:9000/", HTTP1, HTTP2),
        ("http+unix:/run/a,h2c+unix:/run/b", Address("", 0, "/run/a"), Address("", 0, "/run/b")),
    ],
)
def test_a_route_says_where_each_protocol_goes(text: str, http1: Address | None, http2: Address | None) -> None:
    (route,) = resolved({"--route": [f"8080={text}"]}).routes
    assert (route.http1, route.http2) == (http1, http2)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:1,http://127.0.0.1:2",
        "auto://127.0.0.1:1,h2c://127.0.0.1:2",
        "http://127.0.0.1:1,https://127.0.0.1:2",
        "h2://127.0.0.1:1,h2c://127.0.0.1:2",
        "auto://127.0.0.1:1,h2://127.0.0.1:2",
        "http://127.0.0.1:1,h2c://127.0.0.1:2,h2c://127.0.0.1:3",
    ],
)
def test_two_upstreams_are_one_of_each_protocol(text: str) -> None:
    (problem,) = problems({"--route": [f"8080={text}"]})
    assert "one http or https and one h2c or h2 upstream" in problem


CONTRADICTIONS = {
    "two routes on one port": ({"--route": [ROUTE, "8080=http://127.0.0.1:9001"]}, "port 8080 is listened on twice"),
    "a route on the admin port": ({"--route": ["8481=http://127.0.0.1:9000"]}, "port 8481 is listened on twice"),
    "an interface and all interfaces": (
        {"--route": [ROUTE, "127.0.0.1:8080=http://127.0.0.1:9001"]},
        "port 8080 is listened on twice",
    ),
    "all interfaces of both families": (
        {"--route": [ROUTE, "[::]:8080=http://127.0.0.1:9001"]},
        "port 8080 is listened on twice",
    ),
    "a route to itself": ({"--route": ["8080=http://127.0.0.1:8080"]}, "forwards to a port that the agent itself"),
    "a route to itself by name": ({"--route": ["8080=http://localhost:8080"]}, "forwards to a port that the agent"),
    "a route to another route": (
        {"--route": [ROUTE, "8081=http://127.0.0.1:8080"]},
        "--route 0.0.0.0:8081=http://127.0.0.1:8080 forwards to a port that the agent itself listens on",
    ),
    "a route to the admin port": (
        {"--route": ["8080=http://127.0.0.1:8481"]},
        "forwards to a port that the agent itself",
    ),
    "a route to itself over IPv6": ({"--route": ["[::]:8080=http://[::1]:8080"]}, "forwards to a port that the agent"),
    "Knative's port on the admin port": ({"--knative-metrics": ["8481"]}, "port 8481 is listened on twice"),
    "a model limit above the limit": (
        {"--limit": ["4"], "--model-limit": ["m=5"]},
        "--model-limit m=5 is above --limit 4",
    ),
    "a search without predictions": ({"--policy": ["fifo"]}, "--policy fifo needs a --limit that is a number or none"),
    "a search for a model without predictions": (
        {"--policy": ["fifo"], "--limit": ["8"], "--model-limit": ["m=auto"]},
        "--policy fifo needs a --limit that is a number or none",
    ),
    "deadlines without predictions": (
        {"--policy": ["fifo"], "--limit": ["8"], "--deadline-header": ["x-timeout"]},
        "--deadline-header needs --policy deadline",
    ),
    "work without predictions": (
        {"--policy": ["fifo"], "--limit": ["8"], "--v2-hints": ["timeout,rows"]},
        "--v2-hints rows needs --policy deadline",
    ),
    "models' deadlines without predictions": (
        {"--policy": ["fifo"], "--limit": ["8"], "--model-deadline": ["m=1s"]},
        "--model-deadline needs --policy deadline",
    ),
    "a model with two deadlines": ({"--model-deadline": ["m=1s", "m=2s"]}, "--model-deadline names 'm' twice"),
    "metrics of itself": (
        {"--merge-metrics": ["http://localhost:8481/metrics"]},
        "--merge-metrics http://127.0.0.1:8481/metrics is a page of the agent itself",
    ),
    "metrics of its own data port": (
        {"--merge-metrics": ["http://127.0.0.1:8080/metrics"]},
        "--merge-metrics http://127.0.0.1:8080/metrics is a page of the agent itself",
    ),
    "a page of metrics twice": (
        {"--merge-metrics": ["http://localhost:8002/metrics", "http://127.0.0.1:8002/metrics"]},
        "--merge-metrics names http://127.0.0.1:8002/metrics twice",
    ),
    "a path that nobody asks for": (
        {"--ready-path": ["/ready"], "--ready-when": ["listening"]},
        "--ready-path /ready is not asked with --ready-when listening",
    ),
    "a path of a port without paths": (
        {"--route": ["8080=h2c://127.0.0.1:9000"], "--ready-path": ["/ready"]},
        "--ready-path /ready needs an upstream that speaks HTTP/1.1",
    ),
    "a start that outlasts every exchange": (
        {"--startup-timeout": ["2m"], "--timeout": ["30s"]},
        "--startup-timeout 120s is above --timeout 30s",
    ),
    "a model with two limits": ({"--model-limit": ["m=1", "m=2"]}, "--model-limit names 'm' twice"),
    "a body above the queue's bytes": (
        {"--queued-body": ["128KiB"], "--queue-bytes": ["64KiB"]},
        "--queued-body 131072 is above --queue-bytes 65536",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_settings_that_cannot_hold_together(case: str) -> None:
    flags, text = CONTRADICTIONS[case]
    (problem,) = problems(flags)
    assert text in problem


def test_contradictions_are_reported_beside_bad_values() -> None:
    found = problems({"--route": [ROUTE, ROUTE], "--limit": ["2"], "--model-limit": ["m=3"], "--queue": ["x"]})
    assert len(found) == 3


@pytest.mark.parametrize(
    "flags",
    [
        {"--route": ["0=http://127.0.0.1:9000", "0=http://127.0.0.1:9001"], "--admin": ["0"]},
        {"--route": ["127.0.0.1:80=http://127.0.0.1:9000", "127.0.0.2:80=http://127.0.0.1:9001"]},
        {"--route": ["127.0.0.1:80=http://10.0.0.1:80"]},
        {"--route": ["127.0.0.1:80=http://127.0.0.2:80"]},
        {"--route": ["80=http+unix:/run/m.sock"], "--admin": ["81"]},
        {"--limit": ["none"], "--model-limit": ["m=1000"]},
        {"--limit": ["4"], "--model-limit": ["m=4"]},
        {"--queued-body": ["64KiB"], "--queue-bytes": ["64KiB"]},
        {"--startup-timeout": ["2m"]},
        {"--startup-timeout": ["30s"], "--timeout": ["30s"]},
        {"--route": ["8080=auto://127.0.0.1:9000"], "--ready-path": ["/ready"]},
    ],
)
def test_settings_that_only_look_like_a_contradiction(flags: dict[str, list[str]]) -> None:
    resolved(flags)


@pytest.mark.parametrize(
    ("text", "authority", "shown"),
    [
        ("http://10.0.0.1:80", b"10.0.0.1:80", "http://10.0.0.1:80"),
        ("http://[::1]:90", b"[::1]:90", "http://[::1]:90"),
        ("http+unix:/run/m.sock", b"localhost", "http+unix:/run/m.sock"),
        ("auto://localhost:90", b"127.0.0.1:90", "auto://127.0.0.1:90"),
        ("h2c://m:81,http://m:80", b"m:80", "http://m:80,h2c://m:81"),
        ("h2://m:443,https://m:443", b"m:443", "https://m:443,h2://m:443"),
    ],
)
def test_a_predictors_address_names_it_to_itself_and_to_people(text: str, authority: bytes, shown: str) -> None:
    (route,) = resolved({"--route": [f"[::]:80={text}"]}).routes
    assert route.http1 is not None
    assert (route.http1.authority, route.upstream) == (authority, shown)
    assert str(route.listen) == "[::]:80"


def test_a_file_of_live_settings_overrides_flags_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "live"
    file.write_text("# for the night\n\nlimit = 3\nmodel-limit=a=1\nmodel-limit=b=auto\nmodel-deadline=m=2s\n")
    flags = {"--limit": ["9"], "--queue": ["7"], "--live-settings": [str(file)]}
    settings = resolved(flags, {"HEADGATE_MODEL_LIMIT": "c=2"})
    assert (settings.limit, settings.queue) == (3, 7)
    assert settings.model_limits == (("a", 1), ("b", AUTO))
    assert settings.model_deadlines == (("m", 2.0),)


def test_what_is_wrong_in_a_file_of_live_settings_is_named_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "live"
    file.write_text("limit=0\nqueue\nadmin=127.0.0.1:1\nqueue-bytes=1\n")
    found = problems({"--live-settings": [str(file)]})
    assert len(found) == 4
    assert f"{file}: limit '0' is not accepted: expected auto, none, or a whole number from 1 to 1000000" in found
    assert any(one.startswith(f"{file}: 'admin=127.0.0.1:1' is not accepted: expected NAME=VALUE") for one in found)


def test_the_last_file_of_live_settings_counts(tmp_path: Path) -> None:
    for name, limit in (("a", 1), ("b", 2)):
        (tmp_path / name).write_text(f"limit={limit}")
    env = {"HEADGATE_LIVE_SETTINGS": str(tmp_path / "a")}
    assert resolved(env=env).limit == 1
    assert resolved({"--live-settings": [str(tmp_path / "b")]}, env).limit == 2


# The documents

README = (Path(agent.__file__).parent / "README.md").read_text().partition("\n## The scaler\n")[0]
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1] for line in README.splitlines() if re.match(r"\| `--", line)]
DOCUMENTED = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in ROWS}


def test_every_setting_has_a_row_in_the_documents_in_order() -> None:
    assert list(DOCUMENTED) == list(KNOBS)


@pytest.mark.parametrize("flag", KNOBS)
def test_the_row_of_a_setting_says_its_form_and_its_default(flag: str) -> None:
    knob, cells = KNOBS[flag], DOCUMENTED[flag]
    assert len(cells) == 3, "a | inside a cell needs a backslash"
    form, default, meaning = cells
    assert form == ("`" + knob.form.replace("|", "\\|") + "`" if knob.form else "switch")
    assert default == (f"`{knob.default}`" if knob.default else "required" if knob.default is None else "none")
    assert len(meaning) > 10
