"""Child processes: started until they listen, watched, ended for certain."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agent.demo import children
from agent.demo.children import Child, ChildError

LISTEN = "import json, sys; print('warming up'); print(json.dumps({'event': 'listening', 'port': 7}), flush=True)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_child_is_started_when_it_listens_and_gone_when_stopped() -> None:
    child = await Child.start(
        "it",
        python(f"{LISTEN}; import os; print(os.getpid(), flush=True); sys.stdin.read(); import time; time.sleep(60)"),
    )
    assert child.listening["port"] == 7
    child.check()
    pid = child._process.pid
    assert is_alive(pid)
    await child.stop()
    assert not is_alive(pid)


async def test_a_polite_stop_lets_the_child_end_by_itself(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = (
        "import pathlib, signal, sys\n"
        f"def end(*_): pathlib.Path({str(note)!r}).write_text('bye'); sys.exit(0)\n"
        f"signal.signal(signal.SIGTERM, end)\n{LISTEN}\nsignal.pause()"
    )
    child = await Child.start("it", python(code))
    await child.stop(grace_s=10.0)
    assert note.read_text() == "bye"


async def test_a_child_that_ignores_the_polite_stop_is_killed() -> None:
    code = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LISTEN}\nwhile True: signal.pause()"
    child = await Child.start("it", python(code))
    pid = child._process.pid
    async with asyncio.timeout(10):
        await child.stop(grace_s=0.05)
    assert not is_alive(pid)


async def test_a_child_that_ends_before_it_listens_is_reported_with_its_last_words() -> None:
    with pytest.raises(ChildError) as caught:
        await Child.start("the agent", python("import sys; print('no such setting', file=sys.stderr); sys.exit(64)"))
    assert str(caught.value) == "the agent ended with code 64 before it listened\n    no such setting"


async def test_a_child_that_never_listens_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_START_S", 0.3)
    with pytest.raises(ChildError, match=r"did not listen within 0\.3 s"):
        await Child.start("the agent", python("import time; print('hello', flush=True); time.sleep(60)"))


async def test_a_child_that_dies_later_is_noticed() -> None:
    child = await Child.start("the agent", python(f"{LISTEN}; print('out of luck'); sys.exit(3)"))
    assert child._reader is not None
    await child._reader
    await child._process.wait()
    with pytest.raises(ChildError, match=r"the agent ended with code 3\n(.|\n)*out of luck"):
        child.check()
    await child.stop()


async def test_a_child_that_prints_without_end_does_not_block() -> None:
    code = f"{LISTEN}\nfor number in range(50_000): print('x' * 50)\nprint('done', flush=True)"
    child = await Child.start("it", python(code))
    assert child._reader is not None
    async with asyncio.timeout(20):
        await child._reader
    await child.stop()
    assert list(child._tail)[-1] == "done"


async def test_settings_of_a_real_agent_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_LIMIT", "1")
    monkeypatch.setenv("OTHER", "kept")
    code = "import json, os; print(json.dumps({'event': 'listening', 'names': sorted(os.environ)}), flush=True)"
    child = await Child.start("it", python(code))
    await child.stop()
    names = child.listening["names"]
    assert isinstance(names, list)
    assert "HEADGATE_LIMIT" in os.environ
    assert "HEADGATE_LIMIT" not in names
    assert "OTHER" in names
