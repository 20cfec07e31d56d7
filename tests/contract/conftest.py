"""The real predictors and the agent in front of them, started once."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import h2server as nghttp2
from .h2server import H2Server
from .install import InstallError
from .launchers import LAUNCHERS
from .processes import Agent, Server, running_agent

StartAgent = Callable[..., Agent]


@dataclass(frozen=True, slots=True)
class Pair:
    """A predictor, and an agent in front of it that has room for everything."""

    server: Server
    agent: Agent

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def addresses(self) -> tuple[str, str]:
        """Where to ask over HTTP/1.1: directly, and through the agent."""
        return self.server.address, self.agent.address

    @property
    def grpc_addresses(self) -> tuple[str, str]:
        """Where to ask over gRPC: directly, and through the agent, on the port that serves HTTP/1.1 too."""
        return self.server.grpc_address, self.agent.address


def unavailable(reason: str) -> None:
    """Skip, except in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Fleet:
    """The predictors that all tests share, so none may stop one of them. They start at the same time."""

    def __init__(self, names: Iterable[str], factory: pytest.TempPathFactory) -> None:
        self._missing: dict[str, str] = {}
        self._starting: dict[str, Server] = {}
        self._ready: dict[str, Server] = {}
        for name in names:
            try:
                self._starting[name] = LAUNCHERS[name](factory.mktemp(name))
            except InstallError as error:
                self._missing[name] = str(error)
                continue
            self._starting[name].spawn()

    def get(self, name: str) -> Server:
        """One of them, ready. Skips the test where it is not installed. Raises ProcessError."""
        if name in self._missing:
            unavailable(self._missing[name])
        if server := self._starting.pop(name, None):
            server.await_ready()
            self._ready[name] = server
        return self._ready[name]

    def kill(self) -> None:
        """End all. An orderly stop takes seconds for some, and nobody is there to be served."""
        for server in (*self._starting.values(), *self._ready.values()):
            server.kill()


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Those predictors that the chosen tests name, in their fixtures or their parameters."""
    words = [word for item in request.session.items for word in (item.name, *getattr(item, "fixturenames", ()))]
    fleet = Fleet([name for name in LAUNCHERS if any(name in word for word in words)], tmp_path_factory)
    try:
        yield fleet
    finally:
        fleet.kill()


@pytest.fixture(scope="session")
def kserve(fleet: Fleet) -> Server:
    """The KServe SDK's server."""
    return fleet.get("kserve")


@pytest.fixture(scope="session")
def mlserver(fleet: Fleet) -> Server:
    """MLServer."""
    return fleet.get("mlserver")


@pytest.fixture(scope="session")
def triton(fleet: Fleet) -> Server:
    """Triton."""
    return fleet.get("triton")


@pytest.fixture
def own_mlserver(tmp_path: Path) -> Iterator[Server]:
    """MLServer for a test that stops it."""
    try:
        server = LAUNCHERS["mlserver"](tmp_path)
    except InstallError as error:
        unavailable(str(error))
        return
    with server:
        yield server


@pytest.fixture(scope="session")
def kserve_pair(kserve: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The KServe SDK's server and its agent."""
    yield from _paired(kserve, tmp_path_factory)


@pytest.fixture(scope="session")
def mlserver_pair(mlserver: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """MLServer and its agent."""
    yield from _paired(mlserver, tmp_path_factory)


@pytest.fixture(scope="session")
def triton_pair(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Triton and its agent."""
    yield from _paired(triton, tmp_path_factory)


def _paired(server: Server, factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_agent(factory.mktemp("agent"), [server.upstream]) as agent:
        yield Pair(server, agent)


@pytest.fixture(params=LAUNCHERS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Each predictor with its agent. Whatever a test did, the agent has no request left."""
    pair: Pair = request.getfixturevalue(f"{request.param}_pair")
    yield pair
    pair.agent.await_state(inflight=0, queued=0)


@pytest.fixture(params=LAUNCHERS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each predictor."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents of the test's own: `start_agent(server.upstream, "--limit", "2")`."""
    with ExitStack() as stack:

        def start(upstream: str, *flags: str) -> Agent:
            return stack.enter_context(running_agent(tmp_path, [upstream], *flags))

        yield start


@pytest.fixture
def curl() -> str:
    """The program curl."""
    program = shutil.which("curl")
    if program is None:
        unavailable("curl is not installed (apt-get install curl)")
    return str(program)


@pytest.fixture(scope="session")
def h2server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[H2Server]:
    """nghttpd, a plain HTTP/2 server, and its agent."""
    nghttpd = nghttp2.program("nghttpd")
    if nghttpd is None:
        unavailable("nghttpd is not installed (apt-get install nghttp2-server)")
    with nghttp2.serving(str(nghttpd), tmp_path_factory.mktemp("nghttpd")) as server:
        yield server
