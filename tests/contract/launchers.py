"""How the real predictors are started."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .install import KSERVE, MLSERVER, TRITON
from .processes import HOST, Server

_MODELS = Path(__file__).parent / "predictors"
# A server is ready before its models are, MLServer even says so; these are the last to become ready.
_PROBES = ("/v2/models/double/ready", "/v2/models/other/ready")


def kserve(directory: Path) -> Server:
    """The KServe SDK's server. Raises InstallError unless it is installed."""
    python = str(KSERVE.python())

    def launch(port: int, grpc_port: int, metrics_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        env = {"PYTHONPATH": str(_MODELS), "HTTP_PORT": str(port), "GRPC_PORT": str(grpc_port)}
        return [python, str(_MODELS / "kserve/server.py")], env

    server = Server("kserve", launch, _PROBES, directory)
    server.metrics_port = server.port  # it has one port for all
    return server


def mlserver(directory: Path) -> Server:
    """MLServer as it comes, but with the models in its own process. Raises InstallError unless it is installed."""
    python = str(MLSERVER.python())

    def launch(port: int, grpc_port: int, metrics_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        env = {
            "PYTHONPATH": str(_MODELS),
            "MLSERVER_HOST": HOST,
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(grpc_port),
            "MLSERVER_METRICS_PORT": str(metrics_port),
        }
        return [python, "-c", "from mlserver.cli import main; main()", "start", str(_MODELS / "mlserver")], env

    return Server("mlserver", launch, _PROBES, directory)


class TritonServer(Server):
    """Triton takes 8 s to unload Python models, and at times comes to no end of it. So it is not asked to."""

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill_family()
            self._child = None
            for segment in Path("/dev/shm").glob(f"{_segments(self.port)}*"):
                segment.unlink(missing_ok=True)


def triton(directory: Path) -> Server:
    """Triton with its Python backend. Raises InstallError unless it is installed."""
    python = str(TRITON.python())

    def launch(port: int, grpc_port: int, metrics_port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        env = {
            "HTTP_PORT": str(port),
            "GRPC_PORT": str(grpc_port),
            "METRICS_PORT": str(metrics_port),
            "SCRATCH": str(directory),
            "SEGMENTS": _segments(port),
        }
        return [python, str(_MODELS / "triton/serve.py")], env

    return TritonServer("triton", launch, ("/v2/health/ready",), directory)


def _segments(port: int) -> str:
    """How the names of its shared memory begin."""
    return f"headgate-test-{port}-"


LAUNCHERS: dict[str, Callable[[Path], Server]] = {"kserve": kserve, "mlserver": mlserver, "triton": triton}
