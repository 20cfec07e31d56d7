"""The text of the file of `--live-settings`."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

from agent.errors import SettingsError
from agent.net.live import admission_of, terms_of
from agent.settings import LIVE, resolve
from tests.fuzz.bounds import bounded, large
from tests.test_settings import BAD, GOOD, ROUTE

_NAMES = {name.replace("_", "-") for name in LIVE} | {"model-limit", "model-deadline"}


def seeds() -> Iterator[bytes]:
    for flag, text, *_ in (*GOOD, *BAD):
        if flag[2:] in _NAMES:
            yield f"{flag[2:]}={text}\n".encode()
    yield from large(
        b"", b"limit=4\n", b"model-limit=a=2\n", b"x\n", b"=", b"limit=", b"# ", b"model-deadline=a=1s\n", size=8_192
    )
    yield b"".join(b"model-limit=m%d=3\n" % count for count in range(500))
    yield b"# a comment\nlimit = 4\nmodel-limit=a=2\nmodel-limit=b=3\nqueue=10\ndeadline=2s\n\n"


def check(data: bytes) -> None:
    path = Path(gettempdir()) / f"headgate-fuzz-{os.getpid()}"
    path.write_bytes(data)
    base = resolve({"routes": [ROUTE]}, {})
    try:
        with bounded(len(data)):
            settings = resolve({"routes": [ROUTE], "live_settings": [str(path)]}, {})
    except SettingsError as error:
        _check_problems(error.problems)
        return
    finally:
        path.unlink()
    admission_of(base).adopt(terms_of(settings), 1000.0)
    shown = {name: value for name, value in settings.shown().items() if name.replace("_", "-") not in _NAMES}
    assert shown == {
        **{name: value for name, value in base.shown().items() if name in shown},
        **{name: value for name, value in shown.items() if name.startswith("live")},
    }


def _check_problems(problems: list[str]) -> None:
    assert problems
    assert all(problem and "\n" not in problem for problem in problems)
