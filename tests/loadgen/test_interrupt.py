"""An interruption: every command tells what it has measured, says what is not proved, and exits with 130."""

import asyncio
import json
import signal
from pathlib import Path

from loadgen.exits import Exit
from tests.loadgen.peers import Line, serving
from tests.loadgen.test_cli import Model, command, start
from tests.loadgen.test_tune import QUICK, SLOTS, predictor


async def interrupted(process: asyncio.subprocess.Process, after: str = "") -> tuple[str, str]:
    """Standard output and error of a command that is interrupted once a line on standard error begins with a word that
    ends so."""
    assert process.stderr is not None
    seen = ["" if after else "now"]
    async with asyncio.timeout(30):
        while not seen[-1].lstrip(" !").partition(" ")[0].endswith(after):
            seen.append((await process.stderr.readline()).decode())
            assert seen[-1], seen
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == Exit.INTERRUPTED, err
    return out.decode(), err.decode()


async def test_a_sweep_tells_the_levels_that_were_done_and_goes_on_from_them(tmp_path: Path) -> None:
    async with predictor(*SLOTS) as url:
        arguments = ["sweep", url, "-m", "m", *QUICK]
        out, _ = await interrupted(await start(*arguments, "-c", "1:64", "-o", f"{tmp_path}"), after="1")
        assert out.splitlines()[3].lstrip(" !").split()[0] == "1"
        first = json.loads((tmp_path / "result.json").read_text())
        code, out, _ = await command(*arguments, "-c", "1,2", "--resume", f"{tmp_path}", "--fail-on", "none")
        assert code == 0
    second = json.loads((tmp_path / "result.json").read_text())
    assert [level["name"] for level in second["levels"]] == ["1 caller", "2 callers"]
    assert second["levels"][0]["outcomes"] == first["levels"][0]["outcomes"]
    assert second["settings"]["seed"] == first["settings"]["seed"]


async def test_tune_tells_what_it_knows_before_and_inside_the_proof(tmp_path: Path) -> None:
    async def cut(name: str, after: str) -> str:
        async with predictor(*SLOTS) as url:
            more = ["-c", "4,6", "--slo", "p90<400ms", "--proof", "direct", "-o", f"{tmp_path / name}", *QUICK]
            out, _ = await interrupted(await start("tune", url, "-m", "m", *more), after)
        return out

    early, late = await asyncio.gather(cut("early", "6"), cut("late", "/s"))
    assert "UNPROVED: interrupted before the proof" in early
    assert "proof  none yet" in early
    assert "UNPROVED: interrupted during the proof" in late
    advice = json.loads((tmp_path / "late" / "result.json").read_text())["advice"]
    assert advice["proved"] is False
    assert f"RESULT   limit {advice['limit']} " in late
    assert f"apply  headgate serve --limit {advice['limit']}" in late
    # What can be applied as it stands must have been proved.
    assert not {"headgate.args", "patch.yaml", "keda.yaml"} & {file.name for file in (tmp_path / "late").iterdir()}


async def test_a_search_says_that_its_border_is_not_the_last_word(tmp_path: Path) -> None:
    async with predictor(*SLOTS) as url:
        arguments = ["-c", "2:64", "--slo", "p50<9s", "-o", f"{tmp_path}", *QUICK]
        out, _ = await interrupted(await start("search", url, "-m", "m", *arguments), after="2")
    assert "RESULT   interrupted; so far 2 callers keep the objectives; nothing above was measured" in out


async def test_workers_are_interrupted_with_their_parent() -> None:
    model = Model()
    async with serving(model) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        process = await start("run", url, "-m", "m", "-q", "100", "-z", "60s", "-w", "2", "--format", "json")
        await model.seen.wait()
        out, err = await interrupted(process)
    assert json.loads(out)["levels"][0]["count"] > 0, err


async def test_workers_that_have_not_begun_are_no_error() -> None:
    asked = asyncio.Event()

    seen = 0

    async def script(line: Line) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:  # the parent's
            await Model()(line)
        else:  # the workers ask and get no answer
            await line.request()
            asked.set()
            await line.gone()

    async with serving(script) as peer:
        url = f"http://127.0.0.1:{peer.address[1]}"
        process = await start("run", url, "-m", "m", "-c", "2", "-z", "60s", "-w", "2")
        await asked.wait()
        out, err = await interrupted(process)
    assert (out, "interrupted before anything was sent" in err) == ("", True)
