"""--record: every request as it was sent and how it ended, in a file that replay reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen import cli
from loadgen.exits import Exit
from tests.loadgen.peers import SHED, Line, answering, serving
from tests.loadgen.test_cli import METADATA, SLO, Model, bodies, command, reply
from tests.loadgen.test_protocols import demo
from tests.loadgen.test_tune import GRPC_PORTS, predictor


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


async def test_what_was_recorded_is_replayed_as_it_was(tmp_path: Path) -> None:
    model = Model()
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, _, err = await command(
            "run", url, "-m", "m", "-q", "200", "-z", "200ms", "--record", "all", "-o", f"{tmp_path}", *SLO
        )
        assert code == 0, err
        lines, sent = lines_of(tmp_path), bodies(model.infers)
        assert sorted(line["body"].encode() for line in lines) == sent
        assert {(line["model"], line["outcome"], line["status"], line["answer"]) for line in lines} == {
            ("m", "ok", 200, "{}")
        }
        assert all(0 <= line["t"] < 0.2 and line["ms"] > 0 for line in lines)
        model.infers = []
        code, _, err = await command("replay", url, f"{tmp_path / 'requests.jsonl'}", *SLO)
        assert code == 0, err
    assert bodies(model.infers) == sent


async def test_refusals_and_failures_are_recorded_too(tmp_path: Path) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.reset()

    for name, peer_script, said in (("shed", answering(SHED), ("shed", 503)), ("gone", script, ("error", None))):
        async with serving(peer_script) as peer:
            url = f"http://127.0.0.1:{peer.address[1]}"
            more = ["--shape", "a:1", "-n", "3", "--record", "all", "-o", f"{tmp_path / name}", *SLO]
            await command("run", url, "-m", "m", *more)
        assert [(line["outcome"], line.get("status")) for line in lines_of(tmp_path / name)] == [said] * 3
        assert ["cause" in line for line in lines_of(tmp_path / name)] == [said[1] is None] * 3


async def test_a_sample_is_a_part_and_grpc_has_no_text(tmp_path: Path) -> None:
    async with predictor(*demo()) as url:
        more = ["-m", "m", "-n", "200", "-c", "4", "--record", "sample:20%", "-o", f"{tmp_path}", "--seed", "5", *SLO]
        code, _, err = await command("run", f"grpc://127.0.0.1:{GRPC_PORTS[url]}", *more)
    assert code == 0, err
    lines = lines_of(tmp_path)
    assert 15 <= len(lines) <= 70
    assert all("body" not in line and line["status"] == 0 for line in lines)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--record", "all"], "--record: only with --output"),
        (["--record", "all", "-o", ".", "-w", "2", "-c", "2"], "--record: not with --workers"),
        (["--record", "some", "-o", "."], "--record 'some'; accepted: none, sample:SHARE or all"),
    ],
)
def test_what_cannot_be_recorded_is_a_bad_setting(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "http://127.0.0.1:1", "-m", "m", "-n", "1", *flags]) == Exit.USAGE
    assert said in capsys.readouterr().err


async def test_a_folder_that_cannot_be_made_is_a_bad_setting() -> None:
    async with serving(answering(reply(METADATA))) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, _, err = await command("run", url, "-m", "m", "-n", "1", "--record", "all", "-o", "/proc/x")
    assert (code, "--record: /proc/x: " in err) == (Exit.USAGE, True), err
