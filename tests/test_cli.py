"""The command line: what each command prints, its exit code, and that nothing starts when something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__
from agent.cli import EX_USAGE, main
from agent.settings import knobs

ROOT = Path(__file__).parent.parent
ROUTE = ("--route", "127.0.0.1:0=http://127.0.0.1:9000")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADGATE"):
            monkeypatch.delenv(name)


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m agent`, or a text of code, as a process of its own."""
    command = ["-c", code] if code else ["-m", "agent", *arguments]
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """The effective settings that --check-config prints."""
    assert main(["serve", *arguments, "--check-config"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert isinstance(shown, dict)
    return shown


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said about a command line that argparse refuses."""
    with pytest.raises(SystemExit) as exited:
        main(list(arguments))
    assert exited.value.code == EX_USAGE == 64
    return capsys.readouterr().err


def test_bad_settings_end_with_64_and_every_problem_before_anything_starts() -> None:
    ended = run("serve", "--limit", "0", "--deadline", "soon", "--route", "80=tcp://127.0.0.1:1", "--frobnicate", "7")
    assert (ended.returncode, ended.stdout) == (64, "")
    lines = ended.stderr.splitlines()
    assert lines[0] == "headgate serve: 5 problems with the settings:"
    for text in ("--limit '0'", "--deadline 'soon'", "--route '80=tcp://127.0.0.1:1'", "'--frobnicate'", "'7'"):
        assert sum(text in line for line in lines) == 1
    assert "listening" not in ended.stderr


def test_nothing_of_the_data_plane_is_even_loaded_for_bad_settings() -> None:
    ended = run(
        code="import sys; from agent.cli import main; code = main(['serve', '--limit', '0']);"
        "print(code, sorted({'uvloop', 'asyncio', 'agent.net.server'} & set(sys.modules)))"
    )
    assert ended.stdout == "64 []\n"


def test_one_problem_is_one_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 64
    first, problem = capsys.readouterr().err.splitlines()
    assert first == "headgate serve: 1 problem with the settings:"
    assert problem.startswith("  --route is required")


def test_check_config_prints_the_effective_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_QUEUE", "7")
    monkeypatch.setenv("HEADGATE_LIMIT", "99")
    arguments = ("--limit", "3", "--model-limit", "m=2", "--deadline=500ms", "--retry-stale", "--max-head", "8KiB")
    shown = checked(capsys, *ROUTE, "--route", "8080=http+unix:/run/m.sock", *arguments)
    assert list(shown) == [knob.name for knob in knobs()]
    assert shown["routes"] == ["127.0.0.1:0=http://127.0.0.1:9000", "0.0.0.0:8080=http+unix:/run/m.sock"]
    assert (shown["admin"], shown["limit"], shown["model_limits"]) == ("0.0.0.0:8481", 3, {"m": 2})
    assert (shown["queue"], shown["deadline"], shown["retry_stale"], shown["max_head"]) == (7, 0.5, True, 8192)
    assert (shown["access_log"], shown["timeout"]) == ("errors", 0.0)


def test_what_check_config_prints_as_routes_is_accepted_as_routes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = checked(capsys, "--route", "[::1]:0=http://[::1]:9000", "--route", "0=http+unix:/run/m.sock")
    again = [argument for route in shown["routes"] for argument in ("--route", route)]  # type: ignore[attr-defined]
    assert checked(capsys, *again) == shown


def test_check_config_finds_problems_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *ROUTE, "--check-config", "--limit", "x"]) == 64
    assert capsys.readouterr().out == ""


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_help_names_every_setting_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["serve", "--help"])
    assert exited.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for knob in knobs():
        assert f"{knob.flag} " in text
        assert f"[{knob.env}]" in text
        assert not knob.default or f"(default {knob.default})" in text


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("serve", "--limit")])
def test_a_command_line_without_meaning_ends_with_64(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert "usage: headgate" in usage_error(capsys, *arguments)


@pytest.mark.parametrize("arguments", [("--lim", "3"), ("--queue-b", "64KiB"), ("--check",), ("extra",), ("--", "x")])
def test_nothing_is_guessed(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert main(["serve", *ROUTE, *arguments]) == 64
    assert f"unknown argument {arguments[-1]!r}" in capsys.readouterr().err


def test_a_negative_number_is_a_value_and_not_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *ROUTE, "--limit", "-1"]) == 64
    assert "--limit '-1' is not accepted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["version", "demo"])
def test_other_commands_take_no_unknown_arguments(capsys: pytest.CaptureFixture[str], command: str) -> None:
    usage_error(capsys, command, "--frobnicate")
