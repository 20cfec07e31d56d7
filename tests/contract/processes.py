"""Child processes of the tests: the agent and real predictors, on loopback alone, each ended by its own id."""

import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

HOST = "127.0.0.1"
# How often a condition of another process is looked at; how long it may take to come true.
_POLL_S = 0.01
_SETTLE_S = 10.0
_AGENT_START_S = 20.0
_AGENT_STOP_S = 15.0
_TAIL_LINES = 40


class ProcessError(Exception):
    """A child did not start, ended by itself or did not end when told; the message carries the end of its log."""


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = _SETTLE_S) -> None:
    """Return once `condition` holds. Raises TimeoutError, saying what did not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)


def free_port() -> int:
    """A port nobody listens on, for programs that cannot say which one they chose. Never the same twice, nor the same
    as another process of tests on this machine has chosen, whether its program listens yet, no more, or again.

    It lies below the range that the kernel gives to outgoing connections, so that nothing takes it before the program
    does, and a client that dials it while the program is down cannot be connected to itself.
    """
    for port in _ports():
        with suppress(OSError), socket.create_server((HOST, port)):
            _claim(port)
            return port
    raise ProcessError("no free port between 20000 and 32000")


_CLAIMS: list[socket.socket] = []


def _claim(port: int) -> None:
    """Keep a port from other test processes until this one ends. Raises OSError where it is somebody else's."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # A name of Linux's own namespace, which is no file: the kernel frees it with this process, however that ends.
        claim.bind(f"\0headgate-tests-port-{port}")
    except OSError:
        claim.close()
        raise
    _CLAIMS.append(claim)


@cache
def _ports() -> Iterator[int]:
    return iter(random.sample(range(20_000, 32_000), 12_000))


def get(address: str, path: str, timeout_s: float = _SETTLE_S, token: str = "") -> tuple[int, bytes]:
    """GET a page from "host:port": its status and body. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Child:
    """A process in a session of its own. What it prints is appended to the file `log`."""

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=_environment(env),
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def await_event(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Return once `condition` holds. Raises ProcessError if the child ends first, or is too slow."""

        def reached() -> bool:
            if not self.running:
                raise ProcessError(f"{self.name} ended with {self._process.returncode} before {what}\n{self.tail()}")
            return condition()

        try:
            eventually(reached, f"{self.name}: {what}", timeout_s)
        except TimeoutError as error:
            raise ProcessError(f"{error}\n{self.tail()}") from None

    def terminate(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL after `grace_s` seconds. Returns the exit code: negative is the signal that ended it."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL unless it has ended. Returns the exit code. Raises ProcessError if it leaves children behind."""
        self._process.kill()
        code = self._process.wait()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return code
        raise ProcessError(f"{self.name} left processes of its own behind\n{self.tail()}")

    def kill_family(self) -> None:
        """SIGKILL, to the children that it has as well."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours without what would configure the agent or a predictor behind the test's back."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADGATE_", "MLSERVER_"))}
    return {**kept, **extra}


class Metrics:
    """A scrape: every sample of a Prometheus exposition."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0.0 if there is none."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )


class Agent:
    """A running `headgate serve`, one route for each upstream. Made by `running_agent`."""

    def __init__(self, upstreams: Sequence[str], flags: Sequence[str], directory: Path) -> None:
        number = sum(1 for _ in directory.glob("agent-*.log"))
        argv = [sys.executable, "-m", "agent", "serve", "--admin", f"{HOST}:0", "--drain-delay", "0s"]
        for upstream in upstreams:
            argv += ["--route", f"{HOST}:0={upstream}"]
        for flag, value in {
            "--drain-timeout": "5s",
            "--access-log": "off",
            "--policy": "fifo",
            "--limit": "16",
        }.items():
            argv += [] if flag in flags else [flag, value]
        self.child = Child("agent", [*argv, *flags], log=directory / f"agent-{number}.log", env={})
        try:
            self.child.await_event(self._listens, "it listens", _AGENT_START_S)
        except BaseException:
            self.child.kill()
            raise
        secret = dict(itertools.pairwise(flags)).get("--admin-token-file")
        self._token = Path(secret).read_text() if secret else ""
        listening = self.events("listening")[0]
        self.addresses: list[str] = listening["listen"]
        self.admin: str = listening["admin"]

    @property
    def address(self) -> str:
        """Host and port of the first route."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        """The base URL of the first route."""
        return f"http://{self.address}"

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log so far, or the events of one name. A line that is being written is left out."""
        records = []
        for line in self.child.log.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and name in {"", record.get("event")}:
                    records.append(record)
        return records

    def state(self) -> dict[str, Any]:
        """What /debug/state shows."""
        status, body = get(self.admin, "/debug/state", token=self._token)
        assert status == 200, body
        state: dict[str, Any] = json.loads(body)
        return state

    def metrics(self) -> Metrics:
        """A scrape of /metrics."""
        status, body = get(self.admin, "/metrics", token=self._token)
        assert status == 200, body
        return Metrics(body.decode())

    def await_state(self, **expected: object) -> dict[str, Any]:
        """The first state in which these keys have these values. Raises TimeoutError."""
        state: dict[str, Any] = {}

        def matches() -> bool:
            nonlocal state
            state = self.state()
            return expected.items() <= state.items()

        try:
            eventually(matches, f"the agent's state has {expected}")
        except TimeoutError as error:
            error.add_note(f"it is {state}")
            raise
        return state

    def stop(self) -> int:
        """Let it drain. Returns the exit code."""
        return self.child.terminate(_AGENT_STOP_S)

    def _listens(self) -> bool:
        return bool(self.events("listening"))


@contextmanager
def running_agent(directory: Path, upstreams: Sequence[str], *flags: str) -> Iterator[Agent]:
    """An agent in front of these upstreams; its log goes into `directory`.

    On the way out it must have ended every request, logged no error of its own, and exit with 0 when it is told to.
    """
    agent = Agent(upstreams, flags, directory)
    try:
        yield agent
        agent.await_state(inflight=0, queued=0)
        failures = [event for event in agent.events() if event.get("level") in {"error", "critical"}]
        assert not failures, failures
        code = agent.stop()
        assert code == 0, f"the agent exited with {code}\n{agent.child.tail()}"
    except BaseException as error:
        error.add_note(f"the agent's log:\n{agent.child.tail()}")
        raise
    finally:
        agent.child.kill()


class Server:
    """A predictor that can be stopped and started again on its ports, one for HTTP/1.1 and one for gRPC.

    `launch` is given both, and one for metrics, and returns argv and env; `probes` are the paths that answer 200 once
    it is ready.
    """

    START_S = 60.0
    STOP_S = 15.0

    def __init__(
        self,
        name: str,
        launch: Callable[[int, int, int], tuple[Sequence[str], Mapping[str, str]]],
        probes: Sequence[str],
        directory: Path,
    ) -> None:
        self.name = name
        self.port, self.grpc_port, self.metrics_port = free_port(), free_port(), free_port()
        self.address = f"{HOST}:{self.port}"
        self.grpc_address = f"{HOST}:{self.grpc_port}"
        self.url = f"http://{self.address}"
        # What an agent in front of it forwards to.
        self.upstream = f"{self.url},h2c://{self.grpc_address}"
        self._launch = launch
        self._probes = probes
        self._log = directory / f"{name}-{self.port}.log"
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def metrics_url(self) -> str:
        """The page of its own metrics."""
        return f"http://{HOST}:{self.metrics_port}/metrics"

    def start(self) -> None:
        """Run it until it is ready. Raises ProcessError."""
        self.spawn()
        self.await_ready()

    def spawn(self) -> None:
        """Run it; it does not listen yet when this returns."""
        argv, env = self._launch(self.port, self.grpc_port, self.metrics_port)
        self._child = Child(self.name, argv, log=self._log, env=env)

    def await_ready(self) -> None:
        """Return once every model is ready, on both ports. Raises ProcessError."""
        assert self._child is not None
        try:
            self._child.await_event(self._is_ready, "it is ready", self.START_S)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Let it finish what it runs, and end it."""
        if self._child is not None:
            self._child.terminate(self.STOP_S)
            self._child = None

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.grpc_port), timeout=1.0).close()
            return all(get(self.address, probe, 1.0)[0] == 200 for probe in self._probes)
        except (OSError, http.client.HTTPException):
            return False
