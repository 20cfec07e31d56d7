"""The image kserve/sklearnserver: KServe's own server with its own flags, the model `double`, and loopback alone."""

from types import SimpleNamespace

import kserve.model_server
import kserve.protocol.grpc.server
from kserve import ModelServer
from server import Double, LoopbackServer, loopback_grpc_server

if __name__ == "__main__":
    kserve.model_server.RESTServer = LoopbackServer
    kserve.protocol.grpc.server.aio = SimpleNamespace(server=loopback_grpc_server)
    # Ports come from the command line, which the SDK reads by itself.
    ModelServer().start([Double("double")])
