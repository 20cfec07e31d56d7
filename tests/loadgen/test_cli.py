"""The command as a process of its own, against servers in the test."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen import cli
from loadgen import h2 as frames
from loadgen.exits import Exit
from loadgen.settings import flags_of
from tests.loadgen.peers import SHED, Line, answering, refused_address, serving

# A busy machine makes any run the generator's own; where that is not what is tested, it must not change the exit code.
SLO = ("--fail-on", "slo")
METADATA = json.dumps({"name": "m", "inputs": [{"name": "x", "datatype": "INT32", "shape": [-1, 4]}]}).encode()


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Model:
    """A V2 model: gives metadata, answers inferences while `open` is set, keeps the requests it saw."""

    def __init__(self, metadata: bytes = reply(METADATA)) -> None:
        self.infers: list[bytes] = []
        self.seen = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self._metadata = metadata

    async def __call__(self, line: Line) -> None:
        while True:
            request = await line.request()
            if request.startswith(b"GET /v2/models/m HTTP/1.1\r\n"):
                await line.send(self._metadata)
                continue
            assert request.startswith(b"POST /v2/models/m/infer HTTP/1.1\r\n")
            self.infers.append(request)
            self.seen.set()
            await self.open.wait()
            await line.send(reply(b"{}"))


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadgen", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `headgate-load ARGUMENTS`."""
    process = await start(*arguments)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def bodies(infers: Sequence[bytes]) -> list[bytes]:
    return sorted(infer.partition(b"\r\n\r\n")[2] for infer in infers)


async def test_an_open_loop_run_writes_table_and_json(tmp_path: Path) -> None:
    model = Model()
    file = tmp_path / "result.json"
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        arguments = ["run", url, "-m", "m", "-q", "300", "-z", "300ms", "-H", "X-Tenant: a", "--json", f"{file}"]
        code, out, err = await command(*arguments, "--seed", "11")
    assert err == ""
    # A machine too busy to send on time is told so, by 5; the counts hold all the same.
    assert code in {0, Exit.GENERATOR}
    document = json.loads(file.read_text())
    (level,) = document["levels"]
    assert level["sent"] == level["outcomes"]["ok"]["count"] == len(model.infers) > 40
    assert document["request"]["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [1, 4]}]
    assert "x INT32[1,4]" in out
    assert f"HTTP 200: {len(model.infers)}" in out
    assert all(b"X-Tenant: a\r\n" in infer for infer in model.infers)
    first = model.infers
    model.infers = []
    async with serving(model) as peer:
        await command("run", f"http://127.0.0.1:{peer.address[1]}", *arguments[2:], "--seed", "11")
    assert bodies(model.infers) == bodies(first)


async def test_a_closed_loop_run_of_so_many_requests() -> None:
    model = Model()
    async with serving(model) as peer:
        code, out, _ = await command(
            "run", f"http://127.0.0.1:{peer.address[1]}", "-m", "m", "-c", "3", "-n", "50", *SLO
        )
    assert (code, len(model.infers)) == (0, 50)
    assert "closed loop, 3 callers, at most 50 requests" in out


async def test_a_server_that_refuses_everything_is_measured_all_the_same() -> None:
    async with serving(answering(SHED)) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, out, _ = await command("run", url, "-m", "m", "--shape", "a:2:INT8", "-n", "20", *SLO)
    assert code == 0
    assert "HTTP 503: 20" in out


async def test_a_server_that_only_fails_is_exit_3_with_its_own_words() -> None:
    async with serving(answering(reply(b'{"error": "input x is missing"}', "400 Bad Request"))) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, out, err = await command("run", url, "-m", "m", "--shape", "a:2:INT8", "-n", "20")
    assert code == Exit.UNREACHABLE
    assert "HTTP 400: 20" in out
    assert "none of 20 requests was answered; one more is answered with HTTP 400 ('input x is missing')" in err
    assert "headgate-load inspect" in err


async def test_a_broken_objective_is_exit_99_and_a_kept_one_0() -> None:
    model = Model()
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, out, _ = await command("run", url, "-m", "m", "-n", "50", "--slo", "p50<9s", "--slo", "errors<1%", *SLO)
        assert code == 0
        assert "p50<9s: kept" in out
        code, out, _ = await command("run", url, "-m", "m", "-n", "50", "--slo", "rps>190000", *SLO)
        assert code == Exit.FAILED
        assert "NOT KEPT" in out


async def test_inspect_shows_request_and_answer_with_every_header() -> None:
    async with serving(Model()) as peer:
        code, out, err = await command("inspect", f"http://127.0.0.1:{peer.address[1]}", "-m", "m", "-H", "X-A: b")
    assert (code, err) == (0, "")
    for part in ("inputs   x INT32[1,4]", "POST /v2/models/m/infer HTTP/1.1", "X-A: b", "answer   HTTP 200"):
        assert part in out
    assert "Content-Length: 2" in out


@pytest.mark.parametrize("form", ["json", "csv", "junit", "prom"])
async def test_other_formats_are_all_that_is_printed(form: str, tmp_path: Path) -> None:
    async with serving(Model()) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        more = [*SLO, "--format", form, "--slo", "mean<9s", "-o", f"{tmp_path}"]
        code, out, _ = await command("run", url, "-m", "m", "-n", "60", *more)
    assert code == 0
    if form == "json":
        assert json.loads(out)["levels"][0]["count"] == 60
    elif form == "csv":
        header, row = out.splitlines()
        assert dict(zip(header.split(","), row.split(","), strict=True))["ok_count"] == "60"
    elif form == "junit":
        suite = ET.fromstring(out)
        assert (suite.get("tests"), suite.get("failures"), len(suite)) == ("2", "0", 2)
    else:
        samples = [sample for family in text_string_to_metric_families(out) for sample in family.samples]
        assert {sample.name for sample in samples} >= {"headgate_load_throughput", "headgate_load_requests"}
    assert set(await asyncio.to_thread(os.listdir, tmp_path)) >= {
        "result.json",
        "levels.csv",
        "summary.txt",
        "response.hlog",
    }


async def test_shapes_do_where_there_is_no_metadata() -> None:
    model = Model(reply(b"not json"))
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, _, err = await command("run", url, "-m", "m", "-n", "1")
        assert code == Exit.UNREACHABLE
        assert "GET /v2/models/m answered HTTP 200" in err
        assert "--shape NAME" in err
        assert model.infers == []
        code, _, _ = await command("run", url, "-m", "m", "-n", "1", "--shape", "a:2,3:INT8", *SLO)
        assert code == 0
    assert json.loads(bodies(model.infers)[0])["inputs"][0]["shape"] == [2, 3]


async def test_an_unreachable_target_is_exit_3() -> None:
    address, held = refused_address()
    with held:
        for more in ((), ("--shape", "a:1")):
            code, out, err = await command("run", f"http://127.0.0.1:{address[1]}", "-m", "m", *more)
            assert (code, out) == (Exit.UNREACHABLE, "")
            assert "cannot be" in err
            assert f"http://127.0.0.1:{address[1]}" in err
            assert more or "does it listen there?" in err


@pytest.mark.parametrize(
    ("scheme", "answer", "said"),
    [
        ("grpc", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "is that its gRPC port?"),
        ("http", frames.settings({}), "does it speak gRPC there (grpc://)?"),
        ("https", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "speak TLS"),
        ("http", b"", "it said nothing for 300ms (--timeout)"),
    ],
)
async def test_the_wrong_port_is_told_with_what_to_look_at(scheme: str, answer: bytes, said: str) -> None:
    async def script(line: Line) -> None:
        await line.read()
        await line.send(answer)
        await line.gone()

    async with serving(script) as peer:
        patience = "10s" if answer else "300ms"
        code, _, err = await command("run", f"{scheme}://127.0.0.1:{peer.address[1]}", "-m", "m", "-t", patience)
    assert (code, said in err) == (Exit.UNREACHABLE, True), err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--input-data", "/no/such"], "--input-data /no/such: "),
        (["--input-data", __file__], " is not JSON"),
        (["--arrivals", f"file:{__file__}"], "it holds seconds from the start, one a line"),
    ],
)
async def test_files_that_cannot_be_used_are_bad_settings(more: list[str], said: str) -> None:
    async with serving(Model()) as peer:
        code, out, err = await command("run", f"http://127.0.0.1:{peer.address[1]}", "-m", "m", *more)
    assert (code, out, said in err) == (Exit.USAGE, "", True), err


async def test_an_interrupted_run_prints_what_it_has() -> None:
    model = Model()
    async with serving(model) as peer:
        process = await start("run", f"http://127.0.0.1:{peer.address[1]}", "-m", "m", "-q", "50", "-z", "1h")
        async with asyncio.timeout(30):
            await model.seen.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert b"outcome" in out
    assert err == b""


async def test_a_generator_that_cannot_keep_up_is_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    async with serving(model) as peer:
        # Its schedule is longer than what passes on a busy machine between a request and the signal.
        process = await start(
            "run", f"http://127.0.0.1:{peer.address[1]}", "-m", "m", "-q", "50", "-z", "2s", "-t", "30s"
        )
        async with asyncio.timeout(30):
            await model.seen.wait()
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)  # how long the generator stands still: fifteen requests are late, one in seven
            process.send_signal(signal.SIGCONT)
            out, _ = await process.communicate()
    assert process.returncode == Exit.GENERATOR
    assert b"WARNING  generator-limited: sends were late by" in out


def test_bad_settings_are_exit_64_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "nowhere", "--rate", "x", "--timeout", "5", "--bogus"]) == Exit.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, part in zip(lines, ("--bogus", "URL 'nowhere'", "--rate 'x'", "--timeout '5'"), strict=True):
        assert part in line


@pytest.mark.parametrize("arguments", [[], ["swoop"], ["run", "--rate"], ["run", "--dur", "5s"]])
def test_a_wrong_command_line_is_exit_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == Exit.USAGE
    assert "headgate-load" in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in flags_of("run"):
        assert flag.name in text


async def test_a_result_that_cannot_be_written_is_exit_1(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    model = Model()
    model.open.clear()  # the run does not end before its folder is gone
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        process = await start("run", url, "-m", "m", "-q", "100", "-z", "300ms", "--json", f"{folder / 'r.json'}")
        await model.seen.wait()
        folder.rmdir()
        model.open.set()
        out, err = await process.communicate()
    assert process.returncode == Exit.UNWRITTEN
    assert b"--json" in err
    assert b"outcome" in out


async def test_it_begins_when_it_is_told_to_and_says_when_that_is_past() -> None:
    loads = (("-c", "2"), ("-q", "100"))

    async def late(*load: str) -> None:
        async with serving(Model()) as peer:
            url = f"http://127.0.0.1:{peer.address[1]}"
            past = ("--start-at", "2020-01-01T00:00:00Z")
            code, out, _ = await command("run", url, "-m", "m", *load, "-n", "5", *SLO, *past)
        assert code == 0
        assert re.search(r"WARNING  began \S+ after --start-at", out)

    began = time.monotonic()
    await asyncio.gather(*(late(*load) for load in loads))
    # As often as both need on this machine to come up and to be done with it.
    at = time.time() + 1.0 + 4 * (time.monotonic() - began)

    async def in_time(*load: str) -> None:
        model = Model()
        async with serving(model) as peer:
            url = f"http://127.0.0.1:{peer.address[1]}"
            process = await start("run", url, "-m", "m", *load, "-n", "5", *SLO, "--start-at", f"{at}")
            await model.seen.wait()
            assert at - 0.001 <= time.time()
            out, _ = await process.communicate()
        assert (process.returncode, b"--start-at" in out) == (0, False)

    await asyncio.gather(*(in_time(*load) for load in loads))
