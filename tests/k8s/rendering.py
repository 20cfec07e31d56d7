"""What kustomize makes of `k8s/`, as documents."""

import datetime
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agent.inject.certificates import self_made
from tests.contract.install import KUSTOMIZE, InstallError

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
_RENDER_S = 60
Document = dict[str, Any]

# Every folder that can be applied.
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))
EXAMPLES = sorted(path.stem for path in (K8S / "examples").glob("*.yaml") if path.stem != "kustomization")


def commands() -> dict[str, list[str]]:
    """The programs that can render here: kustomize, and kubectl with the one inside it."""
    found = {}
    with suppress(InstallError):
        found["kustomize"] = [str(KUSTOMIZE.path()), "build"]
    if kubectl := shutil.which("kubectl"):
        found["kubectl"] = [kubectl, "kustomize"]
    return found


def render(command: list[str], folder: Path) -> list[Document]:
    """The documents of a kustomization."""
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=_RENDER_S, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def overlay(program: str, name: str) -> list[Document]:
    """An overlay's documents, from a copy of `k8s/` in which the certificate has been made that some need."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "k8s"
        shutil.copytree(K8S, copy)
        secret = self_made("headgate-system", "headgate-webhook", datetime.datetime.now(datetime.UTC))
        (copy / "components/self-made-certificates/secret.yaml").write_text(secret)
        folder = copy / "overlays" / name if name in OVERLAYS else copy / name
        return render(commands()[program], folder)


def example(name: str) -> list[Document]:
    """An example's documents."""
    return list(yaml.safe_load_all((K8S / "examples" / f"{name}.yaml").read_text()))
