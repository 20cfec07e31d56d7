"""A small kubelet: runs the containers of a pod as processes on loopback, with their probes, hooks and order of ending.

Every port that stands in the pod becomes a free one here, wherever it stands: in flags, variables and probes. A
container's image decides which program stands for it; the KServe SDK, MLServer and Triton are the real ones.
"""

import http.client
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.contract.install import KSERVE, MLSERVER, TRITON
from tests.contract.processes import HOST, Child, eventually, free_port
from tests.tls import Papers

from .goldens import IMAGE

_IMAGES = Path(__file__).parent / "images"
_PREDICTORS = Path(__file__).parent.parent / "contract" / "predictors"
_START_S = 60.0
_STOP_S = 40.0
_PROBE_S = 2.0
_PORT = re.compile(r"(?<![\w.])[0-9]{4,5}(?![\w.])")
# How the names of Triton's shared memory begin, which it leaves behind when it is killed.
_SEGMENTS = f"headgate-pod-{os.getpid()}-"
Json = dict[str, Any]


class Program(NamedTuple):
    """How an image is run: what stands before its arguments, and variables beside the pod's."""

    argv: Sequence[str]
    env: Mapping[str, str]


def _kserve(_: Path) -> Program:
    path = f"{_PREDICTORS}:{_PREDICTORS / 'kserve'}"
    # Its gRPC port is not in every pod and is listened on all the same.
    script = [str(_IMAGES / "sklearnserver.py"), f"--grpc_port={free_port()}"]
    return Program([str(KSERVE.python()), *script], {"PYTHONPATH": path})


def _mlserver(_: Path) -> Program:
    env = {"PYTHONPATH": str(_PREDICTORS), "MLSERVER_HOST": HOST, "MLSERVER_METRICS_PORT": str(free_port())}
    code = "from mlserver.cli import main; main()"
    return Program([str(MLSERVER.python()), "-c", code, "start", str(_PREDICTORS / "mlserver")], env)


def _triton(scratch: Path) -> Program:
    env = {"SCRATCH": str(scratch), "SEGMENTS": f"{_SEGMENTS}{free_port()}-", "METRICS_PORT": str(free_port())}
    return Program([str(TRITON.python()), str(_PREDICTORS / "triton/serve.py")], env)


def _relay(_: Path) -> Program:
    return Program([sys.executable, str(_IMAGES / "relay.py")], {})


def _ours(_: Path) -> Program:
    return Program([sys.executable, "-m", "agent"], {"PYTHONPATH": str(Path(__file__).parent.parent.parent)})


def _script(_: Path) -> Program:
    """An image that has a shell, and our stand-in for vLLM on its PATH."""
    return Program([], {"PATH": f"{_IMAGES}:{os.environ['PATH']}"})


PROGRAMS: dict[str, Callable[[Path], Program]] = {
    IMAGE: _ours,
    "kserve/sklearnserver": _kserve,
    "docker.io/seldonio/mlserver": _mlserver,
    "nvcr.io/nvidia/tritonserver": _triton,
    "kserve/agent": _relay,
    "ghcr.io/llm-d/llm-d-routing-sidecar": _relay,
    "gcr.io/knative-releases/knative.dev/serving/cmd/queue": _relay,
    "ghcr.io/llm-d/llm-d-cuda": _script,
}
# What the images' own entry points are, where the pod names them again, and what is mounted.
_ENTRY_POINTS = {"tritonserver", "/app/pd-sidecar"}
_MODELS = {"/mnt/models": str(_PREDICTORS / "triton" / "models")}


class RunningPod:
    """The processes of a pod. `port` tells where a port of the pod is here."""

    def __init__(
        self, pod: Json, directory: Path, programs: Mapping[str, Callable[[Path], Program]] = PROGRAMS
    ) -> None:
        self._spec: Json = pod["spec"]
        self._programs = programs
        self._directory = directory
        # A Secret that every pod has, whether it is mounted or not.
        self.papers = Papers(directory / "tls", HOST)
        self._mounted = {**_MODELS, "/var/run/kserve/tls": str(directory / "tls")}
        self._ports: dict[int, int] = {}
        self.children: dict[str, Child] = {}
        # Triton takes 8 s to unload Python models, and at times comes to no end of it.
        self._hasty = {one["name"] for one in self._spec["containers"] if "tritonserver" in one["image"]}

    def port(self, number: int) -> int:
        """The port on this machine that stands for one of the pod's."""
        if number not in self._ports:
            self._ports[number] = free_port()
        return self._ports[number]

    def start(self) -> None:
        """Native sidecars first, then everything else. Raises ProcessError or TimeoutError."""
        self.start_sidecars()
        self.start_containers()

    def start_sidecars(self) -> None:
        """The native ones, one after the other, each until its startup probe succeeds."""
        for container in self._native():
            self._run(container)
            child = self.children[container["name"]]
            if probe := container.get("startupProbe"):
                child.await_event(lambda probe=probe: self.succeeds(probe), "it has started", _START_S)  # type: ignore[misc]

    def start_containers(self) -> None:
        """The others, all at once."""
        for container in self._spec["containers"]:
            self._run(container)

    def is_ready(self, name: str = "") -> bool:
        """Whether the readiness probes succeed, all or one container's."""
        containers = [one for one in self._all() if not name or one["name"] == name]
        return all(self.succeeds(one["readinessProbe"]) for one in containers if "readinessProbe" in one)

    def await_ready(self) -> None:
        """Until the pod would get traffic. Raises ProcessError when a container ends, and TimeoutError."""

        def ready() -> bool:
            for child in self.children.values():
                child.await_event(lambda: True, "the pod is ready", 0.0)
            return self.is_ready()

        eventually(ready, "the pod is ready", _START_S)

    def succeeds(self, probe: Json) -> bool:
        """Run a probe as the kubelet does."""
        try:
            if action := probe.get("httpGet"):
                return self._get(action, _PROBE_S) < 400
            action = probe.get("tcpSocket") or probe["grpc"]
            socket.create_connection((HOST, self._number(action["port"])), _PROBE_S).close()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def stop(self) -> dict[str, int]:
        """End the pod as the kubelet does: hooks, then SIGTERM, native sidecars last and in reverse. Exit codes."""
        codes: dict[str, int] = {}

        def end(container: Json) -> None:
            hook = (container.get("lifecycle") or {}).get("preStop", {})
            if "httpGet" in hook:
                self._get(hook["httpGet"], _STOP_S)
            codes[container["name"]] = self._end(container["name"])

        with ThreadPoolExecutor() as pool:
            list(pool.map(end, self._spec["containers"]))
        for container in reversed(self._native()):
            end({"name": container["name"]})
        return codes

    def kill(self) -> None:
        """End what still runs."""
        for child in self.children.values():
            child.kill_family()
        self.children.clear()
        for segment in Path("/dev/shm").glob(f"{_SEGMENTS}*"):
            segment.unlink(missing_ok=True)

    def _end(self, name: str) -> int:
        child = self.children.pop(name)
        if name in self._hasty:
            child.kill_family()
            return 0
        return child.terminate(_STOP_S)

    def _native(self) -> list[Json]:
        return [one for one in self._spec.get("initContainers", ()) if one.get("restartPolicy") == "Always"]

    def _all(self) -> list[Json]:
        return [*self._native(), *self._spec["containers"]]

    def _run(self, container: Json) -> None:
        program = self._programs[container["image"] if container["image"] == IMAGE else _name(container["image"])]
        scratch = self._directory / container["name"]
        scratch.mkdir(parents=True)
        argv, env = program(scratch)
        # $(NAME) is not in our pods; $$( is the kubelet's way to write $(.
        words = [self._local(word) for word in [*container.get("command", ()), *container.get("args", ())]]
        if words and words[0] in _ENTRY_POINTS:
            words = words[1:]
        own = {one["name"]: self._local(one["value"]) for one in container.get("env", ()) if "value" in one}
        log = self._directory / f"{container['name']}.log"
        self.children[container["name"]] = Child(container["name"], [*argv, *words], log=log, env={**own, **env})

    def _local(self, text: str) -> str:
        """A text of the pod's with this machine's ports and folders in it."""
        for mounted, here in self._mounted.items():
            text = text.replace(mounted, here)
        text = _PORT.sub(lambda match: str(self.port(int(match[0]))), text)
        # Whatever listens, listens on loopback.
        return text.replace("0.0.0.0:", f"{HOST}:").replace("--route=", f"--route={HOST}:")

    def _number(self, port: int | str) -> int:
        if isinstance(port, int):
            return self.port(port)
        named = {one["name"]: one for container in self._all() for one in container.get("ports", ()) if "name" in one}
        return self.port(named[port]["containerPort"])

    def _get(self, action: Json, patience_s: float) -> int:
        # As the kubelet: who answers is not checked.
        context = ssl._create_unverified_context() if action.get("scheme") == "HTTPS" else None
        connection = self._connection(self._number(action["port"]), context, patience_s)
        headers = {one["name"]: one["value"] for one in action.get("httpHeaders", ())}
        try:
            connection.request("GET", action.get("path", "/"), headers={"User-Agent": "kube-probe/1.34", **headers})
            return connection.getresponse().status
        finally:
            connection.close()

    @staticmethod
    def _connection(port: int, context: ssl.SSLContext | None, patience_s: float) -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection(HOST, port, timeout=patience_s)
        return http.client.HTTPSConnection(HOST, port, timeout=patience_s, context=context)

    def post(self, port: int, path: str, body: object, context: ssl.SSLContext | None = None) -> Json:
        """What the pod answers on one of its ports, over TLS with a context."""
        connection = self._connection(self.port(port), context, _STOP_S)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, (answer.status, content)
            decoded: Json = json.loads(content)
            return decoded
        finally:
            connection.close()

    def agent_state(self) -> Json:
        """What the agent's /debug/state shows."""
        connection = http.client.HTTPConnection(HOST, self.port(8481), timeout=_STOP_S)
        try:
            connection.request("GET", "/debug/state")
            decoded: Json = json.loads(connection.getresponse().read())
            return decoded
        finally:
            connection.close()


def _name(image: str) -> str:
    return image.rpartition(":")[0]
