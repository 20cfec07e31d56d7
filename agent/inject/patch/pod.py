"""A pod as the API server sends it, and the RFC 6902 operations that change it."""

from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]

# KServe's and Knative's names (kserve pkg/constants, knative pkg/reconciler/revision/resources).
PREDICTOR = "kserve-container"
TRANSFORMER = "transformer-container"
KSERVE_AGENT = "agent"
QUEUE_PROXY = "queue-proxy"
LLM_MAIN = "main"
LLM_ROUTER = "llm-d-routing-sidecar"
# Ours.
SIDECAR = "headgate"
DOMAIN = "headgate.dev/"
INJECT = DOMAIN + "inject"
INJECTED = DOMAIN + "injected"

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HOOKS = ("postStart", "preStop")

# What KServe, Knative, the model servers and the meshes listen on without declaring it.
RESERVED = frozenset(
    {7070, 7071, 8000, 8001, 8002, 8008, 8012, 8013, 8022, 8080, 8081, 8082, 8085, 8112, 9000, 9081, 9083, 9088}
    | {9090, 9091, *range(4140, 4192), *range(15000, 15100)}
)


class RefusalError(Exception):
    """This pod is left as it is; the message says why, and what helps."""


class Container:
    """A container and where it stands in the pod.

    `tokens` are command and arguments in the order in which the process gets them, `ports` the declared TCP ports.
    `checks` is whatever the kubelet calls over the network: the probe's or hook's name, its place, the action.
    """

    __slots__ = ("checks", "name", "path", "ports", "spec", "tokens")

    def __init__(self, path: Path, spec: Json) -> None:
        self.path = path
        self.spec = spec
        self.name = str(spec["name"])
        self.tokens: list[str] = [*(spec.get("command") or ()), *(spec.get("args") or ())]
        self.ports: list[Json] = [port for port in spec.get("ports") or () if port.get("protocol", "TCP") == "TCP"]
        self.checks = list(self._checks())

    def env(self, name: str) -> tuple[int, Json] | None:
        """A variable by its name, with its index; the last one counts."""
        found = [(index, entry) for index, entry in enumerate(self.spec.get("env") or ()) if entry["name"] == name]
        return found[-1] if found else None

    def _checks(self) -> Iterator[tuple[str, Path, Json]]:
        lifecycle = self.spec.get("lifecycle") or {}
        places: list[tuple[str, Path, Json | None]] = [(kind, (kind,), self.spec.get(kind)) for kind in PROBES]
        if lifecycle:
            places += [(kind, ("lifecycle", kind), lifecycle.get(kind)) for kind in HOOKS]
        for kind, place, check in places:
            for action in ("httpGet", "tcpSocket", "grpc") if check else ():
                if check and check.get(action):
                    yield kind, (*self.path, *place, action), check[action]

    def port_number(self, port: object) -> int | None:
        """A port of a probe, which may be the name of a declared one."""
        if isinstance(port, int):
            return port
        return next((int(one["containerPort"]) for one in self.ports if one.get("name") == port), None)


class Pod:
    """The parts of a pod that matter here."""

    def __init__(self, raw: Json) -> None:
        metadata, self.spec = raw["metadata"], raw["spec"]
        self.labels: Mapping[str, str] = metadata.get("labels") or {}
        self.annotations: Mapping[str, str] = metadata.get("annotations") or {}
        self.containers = _listed(self.spec, "containers")
        self.init_containers = _listed(self.spec, "initContainers")
        self._everyone = {one.name: one for one in (*self.containers, *self.init_containers)}

    def find(self, name: str) -> Container | None:
        """A container by its name, init containers included."""
        return self._everyone.get(name)

    @property
    def declared_ports(self) -> set[int]:
        """Every number that a container declares or a check dials."""
        everyone = self._everyone.values()
        ports = {int(port["containerPort"]) for one in everyone for port in one.spec.get("ports") or ()}
        checked = {action["port"] for one in everyone for _, _, action in one.checks}
        return ports | {port for port in checked if isinstance(port, int)}


def _listed(spec: Json, field: str) -> list[Container]:
    return [Container(("spec", field, index), one) for index, one in enumerate(spec.get(field) or ())]


class Patch:
    """Operations in the order in which they apply (RFC 6902)."""

    def __init__(self) -> None:
        self.operations: list[Json] = []

    def add(self, path: Path, value: object) -> None:
        """Add a member, or replace it where it exists; an index `-` appends."""
        self.operations.append({"op": "add", "path": pointer(path), "value": value})

    def replace(self, path: Path, value: object) -> None:
        """Replace what is there."""
        self.operations.append({"op": "replace", "path": pointer(path), "value": value})

    def append(self, owner: Json, path: Path, value: object) -> None:
        """Append to a list that may not exist yet; `owner` holds it under the last part of `path`.

        May be called again for the same list: `owner` is not changed, so the operations so far are looked at.
        """
        place = pointer(path)
        if owner.get(str(path[-1])) or any(one["path"] == place for one in self.operations):
            self.add((*path, "-"), value)
        else:
            self.add(path, [value])


def pointer(path: Path) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def free_port(wanted: int, used: set[int]) -> int:
    """The first number from `wanted` on that nobody uses or might use."""
    return next(port for port in range(wanted, 65536) if port not in used and port not in RESERVED)
