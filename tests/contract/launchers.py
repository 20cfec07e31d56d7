"""How the real predictors are started."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .install import KSERVE, MLSERVER
from .processes import HOST, Server, free_port

_MODELS = Path(__file__).parent / "predictors"
# A server is ready before its models are, MLServer even says so; these are the last to become ready.
_PROBES = ("/v2/models/double/ready", "/v2/models/other/ready")


def kserve(directory: Path) -> Server:
    """The KServe SDK's server. Raises InstallError unless it is installed."""
    python = str(KSERVE.python())

    def launch(port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        return [python, str(_MODELS / "kserve/server.py")], {"PYTHONPATH": str(_MODELS), "HTTP_PORT": str(port)}

    return Server("kserve", launch, _PROBES, directory)


def mlserver(directory: Path) -> Server:
    """MLServer as it comes, but with the models in its own process. Raises InstallError unless it is installed."""
    python = str(MLSERVER.python())

    def launch(port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        env = {
            "PYTHONPATH": str(_MODELS),
            "MLSERVER_HOST": HOST,
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
        }
        return [python, "-c", "from mlserver.cli import main; main()", "start", str(_MODELS / "mlserver")], env

    return Server("mlserver", launch, _PROBES, directory)


LAUNCHERS: dict[str, Callable[[Path], Server]] = {"kserve": kserve, "mlserver": mlserver}
