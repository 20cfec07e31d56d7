"""Becomes a Triton server on loopback with the models of the folder beside; run by the interpreter that has Triton.

HTTP_PORT and GRPC_PORT are its ports; with arguments, as in a container, these say so, and where its models are.
SCRATCH is a folder of its own, and with SEGMENTS the names of its shared memory begin. gRPC metadata that begins with
`x-` reaches the models as parameters.
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
HOST = "127.0.0.1"


def backend(triton: Path, folder: Path) -> None:
    """Lay the Python backend out as Triton wants it: the part for this version of Python, and beside it what models
    import, for the backend heeds no PYTHONPATH.
    """
    stub = triton / f"python_backend_stubs/3.{sys.version_info.minor}/triton_python_backend_stub"
    ours = [HERE / "tritonmodels.py", HERE.parent / "behaviour.py"]
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*(triton / "backends/python").glob("*.*"), stub, *ours):
        link = folder / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)


def main() -> None:
    """Never returns: this process becomes the server."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    triton = package / "tritonserver"
    scratch = Path(os.environ["SCRATCH"])
    backend(triton, scratch / "backends/python")
    gates = scratch / "gates"
    gates.mkdir(exist_ok=True)
    # The backend embeds Python: it must load the library of this very interpreter, and find this environment's
    # packages, which it does by the first python3 on PATH.
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{package.parent / 'nvidia_pytriton.libs'}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = sys.argv[1:] or [
        f"--model-repository={HERE / 'models'}",
        f"--http-port={os.environ['HTTP_PORT']}",
        f"--grpc-port={os.environ['GRPC_PORT']}",
    ]
    flags = {
        "backend-directory": scratch / "backends",
        "http-address": HOST,
        "grpc-address": HOST,
        "grpc-header-forward-pattern": "x-.*",
        "metrics-address": HOST,
        "metrics-port": os.environ["METRICS_PORT"],
        "backend-config": f"python,shm-region-prefix-name={os.environ['SEGMENTS']}",
    }
    argv = [str(triton / "bin/tritonserver"), *(f"--{name}={value}" for name, value in flags.items()), *given]
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path, "GATES": str(gates)}
    os.execve(argv[0], argv, environment)


if __name__ == "__main__":
    main()
