"""A gRPC server of grpc.aio in the test's own process: the test says what each method does, and sees what arrives."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from .processes import HOST

Unary = Callable[[bytes, Any], Awaitable[bytes]]
Streaming = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


@asynccontextmanager
async def serving(
    unary: Mapping[str, Unary] | None = None,
    streaming: Mapping[str, Streaming] | None = None,
    options: tuple[tuple[str, Any], ...] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[str]:
    """Serve these methods, named by their path, with raw messages; over TLS with credentials. Gives "host:port"."""
    handlers = {path: grpc.unary_unary_rpc_method_handler(method) for path, method in (unary or {}).items()}
    for path, method in (streaming or {}).items():
        handlers[path] = grpc.stream_stream_rpc_method_handler(method)

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return handlers.get(handler_call_details.method)

    server = grpc.aio.server(handlers=[Handler()], options=[("grpc.so_reuseport", 0), *options])
    address = f"{HOST}:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        await server.stop(grace=0)
