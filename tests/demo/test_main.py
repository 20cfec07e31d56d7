"""`headgate demo` as a newcomer meets it: as a command, in a pipe and in a terminal, to its end or interrupted."""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import pty
import re
import signal
import stat
import sys
import uuid
from pathlib import Path

import pytest

from agent.demo import callers, main
from agent.demo.live import LiveView
from agent.demo.story import PHASES
from agent.demo.view import PlainView

MARK = "DEMO_TEST_MARK"
COMMAND = [sys.executable, "-m", "agent", "demo", "--duration", "4s"]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(arguments)


def marked_environment() -> dict[str, str]:
    return {**os.environ, MARK: uuid.uuid4().hex, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}


def left_over(environment: dict[str, str]) -> list[str]:
    """Command lines of processes that inherited the mark."""
    mark = f"{MARK}={environment[MARK]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return found


async def test_the_whole_demo_in_a_pipe() -> None:
    environment = marked_environment()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--plain", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    text = out.decode()
    assert (process.returncode, err) == (0, b"")
    for phase in PHASES:
        assert f"{phase.name}, {phase.factor:g}x capacity: " in text
    table = text.partition("executing + queued\n")[2].partition("\n\n")[0]
    rows = {line[:9].strip(): line[9:].split() for line in table.splitlines()}
    assert list(rows) == [phase.name for phase in PHASES]
    assert rows["flood"][0] == "3x"
    answered, refused, gave_up = (int(cell.strip("<%")) for cell in rows["flood"][2:5])
    # Three times capacity: about a third is answered, the rest refused, and nobody waits in vain.
    assert 20 <= answered <= 45
    assert 50 <= refused <= 80
    assert gave_up <= 2
    flat = " ".join(text.split())
    counted = re.search(r"and (\d+) refusals in headgate_rejected_total \(the load counted (\d+)\)", flat)
    assert counted is not None
    assert counted[1] == counted[2] != "0"
    called = re.search(r"20/s: (\d+) answered, (\d+) refused \(UNAVAILABLE, typically in \S+\), (\d+) late\.", flat)
    assert called is not None
    # 64 calls in 3.2 s; of the 28 in the overload and the flood about half are refused.
    calls_answered, calls_refused, calls_late = map(int, called.groups())
    assert calls_answered + calls_refused + calls_late == 64
    assert 5 <= calls_refused <= 25
    assert calls_late <= 2
    assert "headgate serve --route 8480=http://127.0.0.1:8080" in text
    assert left_over(environment) == []


async def test_the_live_page_in_a_terminal() -> None:
    environment = marked_environment()
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    async with asyncio.timeout(60):
        text = await asyncio.get_running_loop().run_in_executor(None, _read_all, ours)
        assert await process.wait() == 0
    assert "headgate demo" in text
    assert "What happened" in text
    for part in ("executing", "queued", "waiting inside", "gRPC", "capacity", "slowest"):
        assert part in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor hidden once and given back
    assert "Traceback" not in text
    assert left_over(environment) == []


def _read_all(descriptor: int) -> str:
    """Everything written to a terminal until its last writer has closed it."""
    chunks = []
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while True:
            try:
                chunk = terminal.read(65536)
            except OSError:  # EIO is how Linux says that the other side is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupt_ends_everything_at_once(number: signal.Signals) -> None:
    environment = marked_environment()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--plain",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while not (await process.stdout.readline()).startswith(b"busy"):
            pass
        assert len(left_over(environment)) == 3  # the demo, the predictor and the agent
    started = asyncio.get_running_loop().time()
    ending = asyncio.create_task(process.communicate())
    while not ending.done():
        # To the whole group, as a terminal does it, and again and again, as an impatient user does it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        await asyncio.wait([ending], timeout=0.01)
    _, err = await ending
    assert (process.returncode, err) == (main.EXIT_INTERRUPTED, b"stopped\n")
    assert asyncio.get_running_loop().time() - started < 3
    assert left_over(environment) == []


async def test_nobody_reading_on_is_no_traceback() -> None:
    environment = marked_environment()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--plain", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]
        assert await process.stderr.read() == b""
        assert await process.wait() == main.EXIT_FAILED
    assert left_over(environment) == []


@pytest.mark.parametrize("part", ["agent.demo.predictor", "serve"])
def test_a_part_that_does_not_start_is_exit_1(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "python"
    broken.write_text(
        f'#!/bin/sh\ncase "$*" in *{part}*) echo "no luck today"; exit 7;; esac\nexec {sys.executable} "$@"\n'
    )
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert main.run(parsed("--duration", "4s", "--plain")) == main.EXIT_FAILED
    name = "the agent" if part == "serve" else "the predictor"
    assert capsys.readouterr().err == f"headgate demo: {name} ended with code 7 before it listened\n    no luck today\n"


def test_an_agent_that_speaks_no_http2_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = tmp_path / "python"
    listening = '{"event": "listening", "listen": ["127.0.0.1:1"], "admin": "127.0.0.1:1"}'
    deaf.write_text(
        f'#!/bin/sh\ncase "$*" in *serve*) echo \'{listening}\'; exec sleep 60;; esac\nexec {sys.executable} "$@"\n'
    )
    deaf.chmod(deaf.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(deaf))
    monkeypatch.setattr(callers, "_CONNECT_S", 0.3)
    assert main.run(parsed("--duration", "4s", "--plain")) == main.EXIT_FAILED
    assert capsys.readouterr().err == "headgate demo: no gRPC on 127.0.0.1:1 within 0.3 s\n"


def test_an_agent_that_dies_in_the_middle_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frail = tmp_path / "python"
    frail.write_text(
        f'#!/bin/sh\ncase "$*" in *serve*) {sys.executable} "$@" & sleep 1.5; kill -9 $!; wait; exit 9;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    frail.chmod(frail.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(frail))
    assert main.run(parsed("--duration", "4s", "--plain")) == main.EXIT_FAILED
    assert "headgate demo: the agent ended with code 9" in capsys.readouterr().err


def test_defaults_are_a_twenty_second_demo() -> None:
    script, problems = main.read_script(parsed())
    assert problems == []
    assert (script.duration_s, script.slots, script.service_s, script.seed, script.capacity) == (
        20.0,
        16,
        0.05,
        1,
        320.0,
    )


def test_bad_settings_are_exit_64_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parsed("--duration", "1s", "--slots", "0", "--service-time", "x", "--seed", "-1")
    assert main.run(arguments) == main.EXIT_USAGE
    flags = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert flags == ["--duration", "--slots", "--service-time", "--seed"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--duration", "11m"], "--duration '11m'; accepted: 2s to 10m"),
        (["--slots", "257"], "--slots '257'; accepted: a whole number from 1 to 256"),
        (["--service-time", "300ms"], "--service-time '300ms'; accepted: 1ms to 266ms, a 75th of the duration"),
        (["--seed", "one"], "--seed 'one'; accepted: a whole number from 0 to 4294967295"),
        (
            ["--slots", "11", "--service-time", "10ms"],
            (
                "--slots 11 with --service-time 10ms makes 1100 answers/s; "
                "accepted: at most 1000, what the built-in predictor can give"
            ),
        ),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(arguments: list[str], problem: str) -> None:
    assert main.read_script(parsed(*arguments))[1] == [problem]


@pytest.mark.parametrize("arguments", [["--slots", "10", "--service-time", "10ms"], ["--service-time", "266ms"]])
def test_the_edges_are_accepted(arguments: list[str]) -> None:
    assert main.read_script(parsed(*arguments))[1] == []


class Terminal:
    """Standard output as a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_view_follows_flag_terminal_and_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, _ = main.read_script(parsed())
    assert isinstance(main._choose_view(script, plain=False), PlainView)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(main._choose_view(script, plain=True), PlainView)
    assert isinstance(main._choose_view(script, plain=False), LiveView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(main._choose_view(script, plain=False), PlainView)
    monkeypatch.setenv("TERM", "xterm")
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "rich", None)
    assert importlib.util.find_spec("rich") is None
    assert isinstance(main._choose_view(script, plain=False), PlainView)
    assert capsys.readouterr().err.count("pip install 'headgate[demo]'") == 1


def test_serving_and_the_plain_view_load_no_rich() -> None:
    code = "import sys, agent.demo.main, agent.cli; sys.exit('rich' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
