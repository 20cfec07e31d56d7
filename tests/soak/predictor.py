"""The predictor of the soak, as a process: `python -m tests.soak.predictor HTTP_PORT GRPC_PORT BOOK`.

Prints a line once it listens. On SIGTERM it takes no more connections, finishes what it has, and ends.
"""

import asyncio
import random
import signal
import socket
import sys
from pathlib import Path

import uvloop

from tests.soak.book import Book
from tests.soak.grpc_predictor import GrpcPredictor
from tests.soak.http_predictor import HttpPredictor

_GRACE_S, _LOOK_S = 1.0, 0.01


def bind(port: int = 0) -> socket.socket:
    """Bound, and not listening: a second one with the same port may listen, and nobody else can take it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def serve(http_port: int, grpc_port: int, path: Path) -> None:
    loop = asyncio.get_running_loop()
    log, ended = Book(path), asyncio.Event()
    http: set[HttpPredictor] = set()
    grpc: set[GrpcPredictor] = set()

    def on_call() -> GrpcPredictor:
        return GrpcPredictor(log, grpc, few=random.choice([0, 8, 24]))

    servers = [
        await loop.create_server(lambda: HttpPredictor(log, http), sock=bind(http_port), backlog=1024),
        await loop.create_server(on_call, sock=bind(grpc_port), backlog=1024),
    ]
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    print("listening", flush=True)
    await ended.wait()
    for server in servers:
        server.close()
    for connection in [*http, *grpc]:
        connection.end()
    for _ in range(int(_GRACE_S / _LOOK_S)):
        if not (http or grpc):
            break
        await asyncio.sleep(_LOOK_S)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
