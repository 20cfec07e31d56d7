"""Stands between a client, which may be the agent, and a predictor, and writes down what both send."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.contract.processes import HOST
from tests.contract.rawhttp import split


class Relay:
    """Forwards to "host:port". Use it as a context manager; `url` is what the agent is given."""

    def __init__(self, upstream: str) -> None:
        self._upstream = split(upstream)
        self._listener = socket.create_server((HOST, 0))
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._sent: list[tuple[int, bytearray]] = []
        self._answered: list[tuple[int, bytearray]] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def take(self) -> list[bytes]:
        """What clients have sent since the last time, in order, and cut where another connection goes on."""
        return self.take_both()[0]

    def take_both(self) -> tuple[list[bytes], list[bytes]]:
        """The same, and what the predictor has sent."""
        with self._lock:
            sent, answered, self._sent, self._answered = self._sent, self._answered, [], []
        return [bytes(data) for _, data in sent], [bytes(data) for _, data in answered]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Threads that wait for a socket wake when it is shut down, not when it is closed.
        for sock in (self._listener, *self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                down, _ = self._listener.accept()
                up = socket.create_connection(self._upstream)
                self._sockets += [down, up]
                for source, sink, log in ((down, up, "_sent"), (up, down, "_answered")):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, sink, log, down.fileno())))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, log: str, connection: int) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                with self._lock:
                    pieces: list[tuple[int, bytearray]] = getattr(self, log)
                    if not pieces or pieces[-1][0] != connection:
                        pieces.append((connection, bytearray()))
                    pieces[-1][1].extend(data)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
