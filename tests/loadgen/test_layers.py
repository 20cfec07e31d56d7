"""What the load generator may load: never the agent, and no I/O in its pure modules."""

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["loadgen.cli", "loadgen.run"])
def test_the_load_generator_never_imports_the_agent(module: str) -> None:
    assert not {name for name in loaded_by(module) if name.split(".")[0] == "agent"}


@pytest.mark.parametrize(
    "module",
    [
        "units",
        "schedule",
        "histogram",
        "record",
        "payload",
        "bodies",
        "inputs",
        "sse",
        "trace",
        "values",
        "flags",
        "settings",
        "stats",
        "knee",
        "level",
        "advice",
        "document",
        "merging",
        "compare",
        "html",
        "report",
        "tables",
        "answers",
        "h2",
    ],
)
def test_pure_modules_load_no_io(module: str) -> None:
    assert loaded_by(f"loadgen.{module}").isdisjoint({"asyncio", "socket", "selectors", "uvloop", "httptools"})
