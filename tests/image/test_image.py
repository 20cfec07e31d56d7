"""The image, built by the Dockerfile's own steps: what it holds, and that it runs read-only without root or shell."""

import http.client
import http.server
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent import __version__
from tests.contract.conftest import unavailable
from tests.contract.processes import HOST, Child, eventually, free_port, get

from .build import HOME, ROOT, build, contents, ignored, last, stages

UID = "65532"
_RUN_S = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bwrap") is None:
        unavailable("bwrap is not installed (apt-get install bubblewrap)")
    return build(tmp_path_factory.mktemp("image"))


def container(made: Path) -> list[str]:
    """bubblewrap as Kubernetes would run the image: read-only, another user, nothing but libraries beside it."""
    libraries = [part for name in ("usr/lib", "usr/lib64") if (Path("/") / name).exists() for part in _bind(name)]
    links = [part for name in ("lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    python = str(Path(sys.base_prefix).resolve())
    return [
        *("bwrap", "--die-with-parent", "--unshare-user", "--uid", UID, "--gid", UID, "--cap-drop", "ALL"),
        *("--clearenv", "--setenv", "PATH", f"{HOME}/bin", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"),
        *libraries,
        *links,
        *("--ro-bind", python, python, "--ro-bind", str(made), str(HOME), "--proc", "/proc", "--dev", "/dev"),
        *("--remount-ro", "/"),
    ]


def _bind(name: str) -> tuple[str, str, str]:
    return "--ro-bind", f"/{name}", f"/{name}"


def run(made: Path, *command: str) -> str:
    done = subprocess.run([*container(made), *command], capture_output=True, text=True, timeout=_RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_second_stage_takes_the_environment_and_nothing_else() -> None:
    build_stage, stage = stages()
    assert [step.text for step in stage if step.name == "COPY"] == [f"--from=build {HOME} {HOME}"]
    assert not [step for step in stage if step.name == "RUN"]
    assert last(stage, "USER") == f"{UID}:{UID}"
    assert json.loads(last(stage, "ENTRYPOINT")) == ["headgate"]
    assert set(last(stage, "EXPOSE").split()) == {"8480", "8481", "8482", "9443"}
    assert {step.text.split()[0] for step in (build_stage[0], stage[0])} == {"python:${PYTHON}-slim"}


def test_the_context_holds_neither_tests_nor_history() -> None:
    assert all(ignored(path) for path in (".git/HEAD", "tests/test_cli.py", ".venv/x", "k8s/base/service.yaml"))
    assert ignored("agent/wire/__pycache__/head.pyc")
    assert not any(ignored(path) for path in ("agent/cli.py", ".ci/lock.txt", "pyproject.toml"))


def test_it_holds_what_running_needs_and_nothing_else(made: Path) -> None:
    found = {name.partition("-")[0].lower() for name in contents(made) if name.endswith(".dist-info")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {text.split(">")[0].split(";")[0].strip().replace("-", "_") for text in project["dependencies"]}
    assert wanted | {"headgate", "rich"} <= found
    extras = project["optional-dependencies"]["dev"]
    tools = {text.split("[")[0].split(">")[0].split("=")[0].replace("-", "_") for text in extras} - {"headgate"}
    assert not found & (tools | {"pip", "setuptools"})
    assert {"agent", "loadgen", "protos"} <= set(contents(made))
    assert "tests" not in contents(made)
    assert (made / "bin/headgate").exists()
    assert not list(made.glob("bin/pip*"))


def test_every_version_is_the_locked_one(made: Path) -> None:
    locked = dict(line.lower().replace("-", "_").split("==") for line in (ROOT / ".ci/lock.txt").read_text().split())
    for name in contents(made):
        if name.endswith(".dist-info") and not name.startswith("headgate"):
            distribution, _, version = name.removesuffix(".dist-info").rpartition("-")
            assert locked[distribution.lower()] == version.replace("-", "_"), name


def test_byte_code_is_compiled_and_everybody_may_read_it(made: Path) -> None:
    site = next(made.glob("lib/python3*/site-packages"))
    sources = {path.relative_to(site).as_posix() for path in (site / "agent").rglob("*.py")}
    compiled = list((site / "agent").rglob("*.pyc"))
    assert len(compiled) == len(sources) > 50
    for path in made.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & stat.S_IROTH, path


def test_the_commands_run(made: Path) -> None:
    assert run(made, "headgate", "version") == f"{__version__}\n"
    assert "usage: headgate" in run(made, *json.loads(last(stages()[1], "ENTRYPOINT")), "--help")
    for command in ("serve", "webhook", "demo"):
        assert f"usage: headgate {command}" in run(made, "headgate", command, "--help")
    assert "usage: headgate-load" in run(made, "headgate-load", "--help")
    assert yaml.safe_load(run(made, "headgate", "webhook", "--bootstrap-certs"))["kind"] == "Secret"


def test_nothing_can_be_written_and_nobody_is_root(made: Path) -> None:
    code = (
        "import os\nprint(os.getuid(), os.geteuid())\n"
        "for folder in ('/', '/tmp', '/opt/headgate', os.path.dirname(os.__file__)):\n"
        "    try: open(folder + '/x', 'w'); print('wrote', folder)\n"
        "    except OSError: pass\n"
        "print(os.path.exists('/bin/sh'))"
    )
    assert run(made, "python", "-c", code) == f"{UID} {UID}\nFalse\n"


class Predictor(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def predictor() -> Iterator[int]:
    server = http.server.HTTPServer((HOST, 0), Predictor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_serves(made: Path, predictor: int, tmp_path: Path) -> None:
    data, admin = free_port(), free_port()
    flags = (f"--route={HOST}:{data}=http://{HOST}:{predictor}", f"--admin={HOST}:{admin}", "--drain-delay=0")
    child = Child("image", [*container(made), "headgate", "serve", *flags], log=tmp_path / "log", env={})
    try:
        child.await_event(lambda: '"listening"' in (tmp_path / "log").read_text(), "it listens", _RUN_S)
        assert get(f"{HOST}:{admin}", "/healthz") == (200, b"ok\n")
        connection = http.client.HTTPConnection(HOST, data, timeout=_RUN_S)
        connection.request("POST", "/v2/models/iris/infer", b"{}")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"{}")
        connection.close()
        # bubblewrap passes no signal on.
        (inner,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        eventually(lambda: not child.running, "it ends", _RUN_S)
        assert child.kill() == 0
    finally:
        child.kill_family()
