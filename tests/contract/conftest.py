"""The real predictors and the agent in front of them, started once."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

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
        """Where to ask directly, and where to ask through the agent."""
        return self.server.address, self.agent.address


def unavailable(reason: str) -> None:
    """Skip, except in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _serving(name: str, directory: Path) -> Iterator[Server]:
    try:
        server = LAUNCHERS[name](directory)
    except InstallError as error:
        unavailable(str(error))
        return
    with server:
        yield server


@pytest.fixture(scope="session")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The KServe SDK's server."""
    yield from _serving("kserve", tmp_path_factory.mktemp("kserve"))


@pytest.fixture(scope="session")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLServer, shared by all tests: none may stop it."""
    yield from _serving("mlserver", tmp_path_factory.mktemp("mlserver"))


@pytest.fixture
def own_mlserver(tmp_path: Path) -> Iterator[Server]:
    """MLServer for a test that stops it."""
    yield from _serving("mlserver", tmp_path)


@pytest.fixture(scope="session")
def kserve_pair(kserve: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The KServe SDK's server and its agent."""
    with running_agent(tmp_path_factory.mktemp("agent"), [kserve.url]) as agent:
        yield Pair(kserve, agent)


@pytest.fixture(scope="session")
def mlserver_pair(mlserver: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """MLServer and its agent."""
    with running_agent(tmp_path_factory.mktemp("agent"), [mlserver.url]) as agent:
        yield Pair(mlserver, agent)


@pytest.fixture(params=["kserve", "mlserver"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Each predictor with its agent. Whatever a test did, the agent has no request left."""
    pair: Pair = request.getfixturevalue(f"{request.param}_pair")
    yield pair
    pair.agent.await_state(inflight=0, queued=0)


@pytest.fixture(params=["kserve", "mlserver"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each predictor."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents of the test's own: `start_agent(url, "--limit", "2")`."""
    with ExitStack() as stack:

        def start(url: str, *flags: str) -> Agent:
            return stack.enter_context(running_agent(tmp_path, [url], *flags))

        yield start


@pytest.fixture
def curl() -> str:
    """The program curl."""
    program = shutil.which("curl")
    if program is None:
        unavailable("curl is not installed (apt-get install curl)")
    return str(program)
