"""Becomes a Triton server on loopback with the models beside; run by the interpreter that has Triton.

HTTP_PORT and GRPC_PORT are its ports, SCRATCH is a folder of its own, and with SEGMENTS the names of its shared memory
begin. PYTHONPATH leads to the module `serve` of the contract tests, which lays out the Python backend.
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from serve import HOST, backend

_MODELS = Path(__file__).parent / "models"


def main() -> None:
    """Never returns: this process becomes the server."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    triton, scratch = package / "tritonserver", Path(os.environ["SCRATCH"])
    backend(triton, scratch / "backends/python")
    flags = {
        "model-repository": _MODELS,
        "backend-directory": scratch / "backends",
        "http-address": HOST,
        "http-port": os.environ["HTTP_PORT"],
        "grpc-address": HOST,
        "grpc-port": os.environ["GRPC_PORT"],
        "allow-metrics": "false",
        "backend-config": f"python,shm-region-prefix-name={os.environ['SEGMENTS']}",
    }
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{package.parent / 'nvidia_pytriton.libs'}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    argv = [str(triton / "bin/tritonserver"), *(f"--{name}={value}" for name, value in flags.items())]
    os.execve(argv[0], argv, environment)


if __name__ == "__main__":
    main()
