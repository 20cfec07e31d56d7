"""nghttpd, a plain HTTP/2 server with files to fetch, and an agent in front of it."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import HOST, Agent, Child, free_port, running_agent

# Debian puts servers where PATH need not lead.
_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
FILES = {"empty": b"", "small": b"small\n", "large": bytes(range(256)) * 32_768}


@dataclass(frozen=True, slots=True)
class H2Server:
    """Where nghttpd is asked directly, and the agent in front of it."""

    address: str
    agent: Agent

    @property
    def addresses(self) -> tuple[str, str]:
        return self.address, self.agent.address


def program(name: str) -> str | None:
    """The path of an installed program."""
    return shutil.which(name) or shutil.which(name, path=_PATH)


@contextmanager
def serving(nghttpd: str, directory: Path) -> Iterator[H2Server]:
    """nghttpd, which echoes what is uploaded, and its agent. Raises ProcessError."""
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    port = free_port()
    argv = [nghttpd, "--no-tls", "--echo-upload", f"--address={HOST}", f"--htdocs={directory}", str(port)]
    child = Child("nghttpd", argv, log=directory / "nghttpd.log", env={})

    def listens() -> bool:
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
        except OSError:
            return False
        return True

    try:
        child.await_event(listens, "it listens", 10.0)
        with running_agent(directory, [f"h2c://{HOST}:{port}"]) as agent:
            yield H2Server(f"{HOST}:{port}", agent)
    finally:
        child.kill()
