"""What a result depends on besides the code: the machine, the programs and the commit."""

import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

from .peers import find
from .process import Cores, output

_ROOT = Path(__file__).parents[2]


def describe(cores: Cores) -> dict[str, object]:
    """Facts for the JSON file."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    commit = output(["git", "-C", str(_ROOT), "rev-parse", "--verify", "HEAD"])
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "proxy_cores": sorted(cores.proxy),
        "client_cores": sorted(cores.client),
        "load_average": os.getloadavg(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "uvloop": version("uvloop"),
        "httptools": version("httptools"),
        "hpack": version("hpack"),
        "grpcio": version("grpcio"),
        "nginx": _number(output([find("nginx") or "nginx", "-v"])),
        "wrk": _number(output(["sh", "-c", "wrk -v || true"])),
        "h2load": _number(output(["h2load", "--version"]).partition("/")[2]),
        "commit": commit or "none",
        "dirty": bool(output(["git", "-C", str(_ROOT), "status", "--porcelain"])),
    }


def _number(text: str) -> str:
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else "unknown"
