"""The Dockerfile carried out without an engine: the same steps in bubblewrap, on this machine's Python.

`python -m tests.image.build` builds it and lists what the image would hold beside its base.
"""

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
HOME = Path("/opt/headgate")
_BUILD_S = 300


class Step(NamedTuple):
    """An instruction and what stands behind it."""

    name: str
    text: str


def stages() -> list[list[Step]]:
    """The Dockerfile's stages, each with the FROM that begins it."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    steps = [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    starts = [index for index, step in enumerate(steps) if step.name == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


def last(stage: list[Step], name: str) -> str:
    """What an instruction says; the last one counts."""
    return [step.text for step in stage if step.name == name][-1]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps this path, or a folder above it, out of the context."""
    patterns = (ROOT / ".dockerignore").read_text().split()
    parts = path.split("/")
    above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    return any(
        fnmatch.fnmatch(one, pattern) or (pattern.startswith("**/") and fnmatch.fnmatch(one, pattern[3:]))
        for pattern in patterns
        for one in above
    )


def _copy(context: str, target: Path) -> None:
    """COPY one path of the context."""
    source = ROOT / context
    paths = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if not ignored(name):
            (target / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(ROOT))


def sandbox(*binds: str) -> list[str]:
    """bubblewrap with an empty root that holds the system's programs and this Python, all read-only."""
    system = [part for name in ("usr", "lib", "lib64", "bin", "sbin", "etc") for part in _system(name)]
    python = str(Path(sys.base_prefix).resolve())
    return [
        *("bwrap", "--die-with-parent", *system, "--ro-bind", python, python),
        *("--proc", "/proc", "--dev", "/dev", *binds),
    ]


def _system(name: str) -> Sequence[str]:
    path = Path("/") / name
    if path.is_symlink():
        return ("--symlink", str(path.readlink()), str(path))
    return ("--ro-bind", str(path), str(path)) if path.is_dir() else ()


def build(directory: Path) -> Path:
    """Carry out the first stage. Returns the folder that the second one copies."""
    source, made = directory / "src", directory / "headgate"
    source.mkdir()
    made.mkdir()
    stage, _ = stages()
    for step in stage:
        if step.name == "COPY":
            for one in shlex.split(step.text)[:-1]:
                _copy(one, source)
    # What pip has downloaded is kept between runs; the image has no cache.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip"
    cache.mkdir(parents=True, exist_ok=True)
    command = last(stage, "RUN").replace("--no-cache-dir", "--cache-dir=/cache")
    binds = ("--bind", str(source), "/src", "--bind", str(made), str(HOME), "--bind", str(cache), "/cache")
    python = Path(sys.base_prefix).resolve() / f"bin/python3.{sys.version_info.minor}"
    command = command.replace("python -m venv", f"{python} -m venv")
    done = subprocess.run(
        [*sandbox(*binds, "--tmpfs", "/tmp", "--chdir", "/src"), "/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def contents(made: Path) -> dict[str, int]:
    """What the image holds: distributions and programs, with the bytes of each folder."""
    site = next(made.glob("lib/python3*/site-packages"))
    sizes = {path.name: sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) for path in site.iterdir()}
    return dict(sorted(sizes.items()))


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        made = build(Path(directory))
        sizes = contents(made)
        for name, size in sizes.items():
            print(f"{size:>12,}  {name}")
        print(
            f"{sum(sizes.values()):>12,}  together; bin: {', '.join(sorted(path.name for path in made.glob('bin/*')))}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
