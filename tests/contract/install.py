"""The real predictors and the programs of ALL, installed once: `python -m tests.contract.install`.

They live in ${HEADGATE_PREDICTORS:-${XDG_CACHE_HOME:-~/.cache}/headgate/predictors}, each predictor in a virtual
environment of its own. To renew a lock file, install the predictor into an empty virtual environment and `pip freeze`;
for the programs, `go get` and `go mod tidy` in the folder of their name.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

_HERE = Path(__file__).parent
# Several hundred megabytes come through the network on the first run.
_INSTALL_S = 900
_REASON_CHARACTERS = 300


class InstallError(Exception):
    """A predictor or program cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A program from the registry. `oldest` and `newest` are the minor versions of Python 3 that it supports."""

    name: str
    version: str
    oldest: int
    newest: int

    @property
    def lock(self) -> Path:
        """The versions of everything that comes with it."""
        return _HERE / f"{self.name}.lock"

    def python(self) -> Path:
        """The interpreter of the installed predictor. Raises InstallError unless it is installed as locked."""
        minor, _ = _interpreter(self)
        home = self.home(minor)
        if not self.is_complete(home):
            raise InstallError(f"{self.name} {self.version} is not installed: run `python -m tests.contract.install`")
        return home / "bin/python"

    def home(self, minor: int) -> Path:
        """Where it lives when Python 3.`minor` runs it."""
        return cache() / f"{self.name}-{self.version}-py3.{minor}"

    def is_complete(self, home: Path) -> bool:
        """Whether `home` holds what the lock file says. A lock file that has changed asks for a new installation."""
        installed = home / "installed.lock"
        return installed.is_file() and installed.read_bytes() == self.lock.read_bytes()

    def install(self) -> str:
        """Install it unless it is there. Returns a sentence about it. Raises InstallError."""
        minor, interpreter = _interpreter(self)
        home = self.home(minor)
        if self.is_complete(home):
            return f"{self.name} {self.version}: {home}"
        with _exclusive(home.with_name(f"{home.name}.locked")):
            if not self.is_complete(home):
                _build(self, interpreter, home)
        return f"{self.name} {self.version}: installed into {home}"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program that Go compiles as the module in the folder of its name says: go.mod and go.sum are its lock."""

    name: str
    package: str
    version: str

    def path(self) -> Path:
        """The program. Raises InstallError unless it is installed."""
        if not self._program.is_file():
            raise InstallError(f"{self.name} is not installed: run `python -m tests.contract.install`, with Go on PATH")
        return self._program

    def install(self) -> str:
        """Compile it unless it is there. Returns a sentence about it. Raises InstallError."""
        program = self._program
        if program.is_file():
            return f"{self.name} {self.version}: {program}"
        go = shutil.which("go")
        if go is None:
            raise InstallError("it is compiled by Go, and PATH has no go")
        with _exclusive(program.with_name(f"{program.name}.locked")):
            if not program.is_file():
                partial = program.with_name(f"{program.name}.partial")
                _run([go, "build", "-o", str(partial), self.package], cwd=_HERE / self.name)
                partial.rename(program)
        return f"{self.name} {self.version}: installed into {program}"

    @property
    def _program(self) -> Path:
        return cache() / f"{self.name}-{self.version}"


KSERVE = Predictor("kserve", "0.21.0", oldest=11, newest=13)
MLSERVER = Predictor("mlserver", "1.7.1", oldest=11, newest=12)
# Triton 2.51 for machines without a GPU.
TRITON = Predictor("nvidia-pytriton", "0.7.0", oldest=11, newest=12)
H2SPEC = GoProgram("h2spec", "github.com/summerwind/h2spec/cmd/h2spec", "2.2.1")
# What `kubectl kustomize` runs.
KUSTOMIZE = GoProgram("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "5.8.1")
# Knative 1.18's.
QUEUE_PROXY = GoProgram("queue-proxy", "knative.dev/serving/cmd/queue", "0.48.2")
ALL: tuple[Predictor | GoProgram, ...] = (KSERVE, MLSERVER, TRITON, H2SPEC, KUSTOMIZE, QUEUE_PROXY)


def cache() -> Path:
    """The folder of all installed predictors."""
    if chosen := os.environ.get("HEADGATE_PREDICTORS"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headgate" / "predictors"


def _build(predictor: Predictor, interpreter: str, home: Path) -> None:
    # One that was cut short lies under another name, so what is called `home` is always whole. Scripts in bin/ keep the
    # other name in their first line; nothing here starts them.
    partial = home.with_name(f"{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [str(partial / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        _run([interpreter, "-m", "venv", str(partial)])
        wanted = f"{predictor.name}=={predictor.version}"
        _run([*pip, "install", "--constraint", str(predictor.lock), wanted])
        shutil.copyfile(predictor.lock, partial / "installed.lock")
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _interpreter(predictor: Predictor) -> tuple[int, str]:
    """The running interpreter if the predictor supports it, else the newest on PATH that it does: minor and path."""
    if predictor.oldest <= sys.version_info.minor <= predictor.newest:
        return sys.version_info.minor, sys.executable
    for minor in range(predictor.newest, predictor.oldest - 1, -1):
        path = shutil.which(f"python3.{minor}")
        # Version managers put stand-ins on PATH for interpreters that they will not start.
        if path and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
            return minor, path
    raise InstallError(
        f"{predictor.name} {predictor.version} needs Python 3.{predictor.oldest} to 3.{predictor.newest}, "
        f"this is 3.{sys.version_info.minor} and PATH has no other"
    )


@contextmanager
def _exclusive(path: Path) -> Iterator[TextIO]:
    """One installation at a time; the kernel ends the lock with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{command[0]}: {error}") from error
    if done.returncode:
        # What pip says first is the cause.
        raise InstallError((done.stderr or done.stdout).strip()[:_REASON_CHARACTERS])


def _try(wanted: Predictor | GoProgram) -> tuple[bool, str]:
    """Whether it is there now, and a sentence about it."""
    try:
        return True, wanted.install()
    except (InstallError, OSError) as error:
        reason = " ".join(str(error).split())
        return False, f"{wanted.name} {wanted.version}: not available, its tests will be skipped: {reason}"


def main() -> int:
    """Install all at once. Returns the exit code: what cannot be had is an error in CI alone."""
    complete = True
    with ThreadPoolExecutor(len(ALL)) as pool:
        for is_there, sentence in pool.map(_try, ALL):
            complete &= is_there
            print(sentence, flush=True)
    return int(not complete and os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main())
