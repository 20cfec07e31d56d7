"""Loads that several processes share: together they send what one would, and their results are one."""

import asyncio
import json
import socket

import pytest

from loadgen import cli
from loadgen.exits import Exit
from loadgen.messages import MAX_STRANGER, read_message
from loadgen.workers import TOKEN
from tests.loadgen.peers import answering, serving
from tests.loadgen.test_cli import Model, bodies, command, reply, start

JSON = ("--format", "json", "--fail-on", "none")


async def test_callers_and_requests_are_divided() -> None:
    model = Model()
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, out, err = await command("run", url, "-m", "m", "-c", "5", "-n", "101", "-w", "2", *JSON)
    assert code == 0, err
    (level,) = json.loads(out)["levels"]
    assert (level["callers"], level["count"], len(model.infers)) == (5, 101, 101)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-w", "3", "-n", "2"], "--workers 3: at most one for each of 1 callers"),
        (["-w", "3", "-n", "2"], "--workers 3: at most one for each of 2 requests"),
        (["-w", "2", "-q", "5", "--listen", "127.0.0.1:0"], f"--listen: set {TOKEN} here and for the workers"),
        (["--listen", "127.0.0.1:0"], "--listen: only with --workers"),
        (["-w", "2", "-q", "5", "--listen", "here"], "--listen 'here'; accepted: HOST:PORT"),
    ],
)
def test_what_cannot_be_shared_is_a_bad_setting(more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "http://127.0.0.1:1", "-m", "m", *more]) == Exit.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nowhere", "host:port", ""])
def test_a_bad_address_is_a_bad_setting(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["worker", "--join", text]) == Exit.USAGE
    assert f"--join {text!r}; accepted: HOST:PORT" in capsys.readouterr().err


async def test_all_together_send_the_requests_of_one() -> None:
    async def sent(arrivals: str, workers: int) -> list[bytes]:
        model = Model()
        async with serving(model) as peer:
            url = f"http://127.0.0.1:{peer.address[1]}"
            arguments = ["-q", "100", "-z", "300ms", "--arrivals", arrivals, "--seed", "3", "-w", f"{workers}"]
            code, out, err = await command("run", url, "-m", "m", *arguments, *JSON)
        assert code == 0, err
        (level,) = json.loads(out)["levels"]
        assert level["count"] == len(model.infers)
        assert level["rate"] == pytest.approx(level["count"] / 0.3)
        return bodies(model.infers)

    kinds = ("constant", "poisson")
    seen = await asyncio.gather(*(sent(kind, workers) for kind in kinds for workers in (1, 2)))
    assert (seen[0], seen[2]) == (seen[1], seen[3])
    assert seen[0] != seen[2]


async def test_workers_elsewhere_join_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    async with serving(model) as peer:
        arguments = ["-m", "m", "-c", "2", "-n", "40", "-w", "2", "--listen", "127.0.0.1:0", *JSON]
        url = f"http://127.0.0.1:{peer.address[1]}"
        monkeypatch.setenv(TOKEN, "secret")
        whole = await start("run", url, *arguments)
        assert whole.stderr is not None
        at = (await whole.stderr.readline()).decode().split()[-1]
        monkeypatch.setenv(TOKEN, "guess")
        code, _, err = await command("worker", "--join", at)
        assert (code, "the token is wrong" in err) == (Exit.UNREACHABLE, True)
        monkeypatch.setenv(TOKEN, "secret")
        parts = await asyncio.gather(*(command("worker", "--join", at) for _ in range(2)))
        out, _ = await whole.communicate()
    assert parts == [(0, "", "")] * 2
    assert json.loads(out)["levels"][0]["count"] == len(model.infers) == 40


async def test_a_worker_that_fails_is_told_of_and_the_others_end() -> None:
    asked = 0

    async def script(line: object) -> None:
        nonlocal asked
        asked += 1
        # The first asks for this load's own description, one of the others finds the model gone.
        await (answering(reply(b"{}", "404 Not Found")) if asked == 2 else Model())(line)  # type: ignore[arg-type]

    async with serving(script) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, out, err = await command("run", url, "-m", "m", "-c", "2", "-z", "60s", "-w", "2")
    assert (code, out) == (Exit.UNREACHABLE, "")
    assert "a worker has failed" in err
    assert "HTTP 404" in err


async def test_one_that_is_sent_away_is_exit_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = await start("worker", "--join", f"127.0.0.1:{listening.getsockname()[1]}")
        accepted = await asyncio.to_thread(listening.accept)
        accepted[0].close()
        _, err = await process.communicate()
    assert (process.returncode, b"nobody has work" in err) == (Exit.UNREACHABLE, True)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"\0\0\0\2{}", {}),
        (b"\0\0\0\x0d" + b'{"token":"x"}', {"token": "x"}),
        (b"\0\0\0\2[]", None),
        (b"\0\0\0\2{x", None),
        (b"\xff\xff\xff\xff", None),  # a stranger cannot have 4 GB kept for it
        (b"\0\0\x10\1", None),
        (b"\0\0\0\5{}", None),
        (b"", None),
    ],
)
async def test_a_message_is_read_whole_and_no_longer_than_it_may_be(sent: bytes, read: object) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(sent)
    reader.feed_eof()
    assert await read_message(reader, MAX_STRANGER) == read
