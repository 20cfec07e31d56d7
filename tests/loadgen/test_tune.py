"""`sweep`, `search` and `tune` as commands against predictors of known capacity, and the ways they can fail."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadgen.exits import Exit
from tests.loadgen.known import KNOWN, SLOTS
from tests.loadgen.peers import SHED, answering, serving
from tests.loadgen.test_cli import Model, command, reply

QUICK = ["--warmup", "100ms", "--window", "100ms", "--cooldown", "0s", "--max-level-time", "1500ms", "--stable", "10%"]

# By the URL of a predictor, where it speaks gRPC too.
GRPC_PORTS: dict[str, int] = {}


@asynccontextmanager
async def predictor(*arguments: str) -> AsyncIterator[str]:
    """The URL of a predictor that runs as a process."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            listening = json.loads(await process.stdout.readline())
        url = f"http://127.0.0.1:{listening['port']}"
        GRPC_PORTS[url] = listening.get("grpc_port", 0)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def test_the_recommended_limit_is_near_that_of_the_predictor(tmp_path: Path) -> None:
    # How near depends on what else runs: `make bench-load` wants the very number.
    async def tuned(name: str) -> None:
        arguments, levels, _, near = KNOWN[name]
        folder = tmp_path / name
        more = ["-c", levels, "--slo", "p90<400ms", "--proof", "none", "-o", f"{folder}", *QUICK]
        async with predictor(*arguments) as url:
            code, out, _ = await command("tune", url, "-m", "m", "--fail-on", "none", *more)
        document: dict[str, Any] = json.loads((folder / "result.json").read_text())
        assert code == 0, out
        assert document["advice"]["limit"] in near, out
        # Both sides of the border were measured twice.
        callers = [level["callers"] for level in document["levels"]]
        knee = document["knee"]["throughput"]
        assert all(callers.count(each) > 1 for each in (knee, max(each for each in callers if each < knee))), out
        assert f"RESULT   limit {document['advice']['limit']}" in out
        assert f"--limit {document['advice']['limit']}" in (folder / "headgate.args").read_text()

    # They mostly wait, so they can do so together.
    await asyncio.gather(*map(tuned, KNOWN))


async def test_the_settings_are_proved_through_a_headgate_that_has_them(tmp_path: Path) -> None:
    async with predictor(*SLOTS) as url:
        folder = tmp_path / "out"
        more = ["-c", "4,6,12", "--slo", "p90<300ms", "--proof", "gate", "-o", f"{folder}", *QUICK]
        code, out, err = await command("tune", url, "-m", "m", "--fail-on", "none", *more)
    document = json.loads((folder / "result.json").read_text())
    advice, proofs = document["advice"], [level for level in document["levels"] if level["kind"] == "proof"]
    assert code == 0, (out, err)
    assert advice["proof"].startswith("headgate serve --limit")
    beyond = max(proofs, key=lambda level: level["rate"])
    assert beyond["outcomes"]["shed"]["share"] > 0.15  # half more than the capacity: a third is refused
    assert advice["scaling"]["container_concurrency"] == advice["limit"]
    patch = (folder / "patch.yaml").read_text()
    assert f"containerConcurrency: {advice['limit']}" in patch
    assert f'target-utilization-percentage: "{advice["scaling"]["utilisation_percent"]}"' in patch
    assert f'threshold: "{advice["scaling"]["concurrency"]}"' in (folder / "keda.yaml").read_text()


async def test_an_objective_that_nothing_keeps_is_exit_6_and_says_what_to_do(tmp_path: Path) -> None:
    async with predictor(*SLOTS) as url:
        quick = ["-m", "m", "--slo", "p90<10ms", *QUICK, "--fail-on", "none", "-o"]
        ended = await asyncio.gather(
            command("tune", url, "-c", "1,2", *quick, f"{tmp_path / 'a'}"),
            command("search", url, "-c", "1:4", *quick, f"{tmp_path / 'b'}"),
        )
    (code, out, _), (search_code, search_out, _) = ended
    assert code == search_code == Exit.NO_LEVEL
    assert "RESULT   no limit keeps p90<10ms" in out
    assert "no setting helps" in out
    assert "no level keeps the objectives" in search_out


async def test_search_finds_the_border(tmp_path: Path) -> None:
    # With 4 slots of 20 ms the p50 of N callers is N * 5 ms from 4 on: 60 ms is kept up to 11.
    async with predictor(*SLOTS) as url:
        more = ["-c", "6:16", "--slo", "p50<59ms", "-o", f"{tmp_path}", *QUICK, "--fail-on", "none"]
        code, out, _ = await command("search", url, "-m", "m", *more)
    found = json.loads((tmp_path / "result.json").read_text())["search"]
    assert code == 0, out
    assert found["passing"] in {10, 11}
    assert found["failing"] in {11, 12, 13}
    assert found["kind"] == "smooth"


async def test_a_sweep_of_rates_and_of_callers_is_a_table(tmp_path: Path) -> None:
    async with predictor(*SLOTS) as first, predictor(*SLOTS) as second:
        quick = ["-m", "m", *QUICK, "--fail-on", "none", "-o"]
        ended = await asyncio.gather(
            command("sweep", first, "-q", "50,100", "--slo", "p50<9s", *quick, f"{tmp_path / 'rates'}"),
            command("sweep", second, "-c", "1,2", *quick, f"{tmp_path / 'callers'}"),
        )
    (code, out, err), (_, callers_out, _) = ended
    assert code == 0
    assert [line.lstrip(" !").split()[0] for line in out.splitlines()[3:5]] == ["50.0/s", "100/s"]
    assert len(err.splitlines()) == 3  # a heading and a line for each level, as they come
    assert "knee     throughput 2" in callers_out
    _, *rows = (tmp_path / "callers" / "levels.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["1 caller", "2 callers"]


@pytest.mark.parametrize("name", ["sweep", "search", "tune"])
async def test_a_target_that_only_fails_is_not_swept(name: str) -> None:
    async with serving(answering(reply(b'{"error":"bad input"}', "400 Bad Request"))) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, _, err = await command(name, url, "-m", "m", "--shape", "a:1", "--slo", "p99<1s")
    assert code == Exit.UNREACHABLE
    assert "it answers a request with HTTP 400 ('bad input')" in err
    assert "headgate-load inspect" in err


async def test_a_target_that_only_refuses_keeps_nothing(tmp_path: Path) -> None:
    async with serving(answering(SHED)) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        arguments = ["-m", "m", "--shape", "a:1", "--slo", "p99<1s", "-c", "1,2", "--fail-on", "none", *QUICK]
        code, out, _ = await command("tune", url, *arguments, "-o", f"{tmp_path}")
    assert code == Exit.NO_LEVEL
    assert "RESULT   no limit keeps" in out


async def test_tune_needs_a_bound_on_the_latency() -> None:
    async with serving(Model()) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        code, _, err = await command("tune", url, "-m", "m", "--slo", "errors<1%")
        assert code == Exit.USAGE
        assert "tune needs a bound on the latency" in err
        code, _, err = await command("tune", url, "-m", "m", "--slo", "p99<1s", "--proof", "ftp://x")
        assert code == Exit.USAGE
        assert "--proof 'ftp://x'" in err
