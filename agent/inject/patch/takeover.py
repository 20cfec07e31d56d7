"""Port takeover: the agent listens where clients already dial, and what was there moves to another port.

Standard InferenceServices and LLMInferenceServices: nothing outside the pod has to know (reference: KServe's own
prefill/decode template moves vLLM from 8000 to 8001 in the same way).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.inject.patch.pod import (
    KSERVE_AGENT,
    LLM_MAIN,
    LLM_ROUTER,
    PREDICTOR,
    TRANSFORMER,
    Container,
    Json,
    Patch,
    Pod,
    RefusalError,
    free_port,
)
from agent.inject.patch.servers import Knob, Server, read, server_of, write

# The port behind KServe's Services where a container declares none (constants.InferenceServiceDefaultHttpPort).
DEFAULT_PORT = 8080
AGENT_PORT = 9081
LLM_PORT = 8000
_AGENT_KNOB = Knob("arg", "--port", AGENT_PORT)
_ROUTER = Server("llm-d-routing-sidecar", Knob("arg", "--port", LLM_PORT), None, "", "")


class Moved(NamedTuple):
    """A port that the agent takes, and where what listened there has gone."""

    listen: int
    upstream: int
    scheme: str

    @property
    def route(self) -> str:
        return f"{self.listen}={self.scheme}://127.0.0.1:{self.upstream}"


def standard(pod: Pod, patch: Patch, used: set[int]) -> list[Moved]:
    """A pod of an InferenceService in Standard mode. Raises RefusalError."""
    front = pod.find(TRANSFORMER) or pod.find(PREDICTOR)
    assert front is not None
    if front.name == PREDICTOR and pod.containers[0].name != PREDICTOR:
        raise RefusalError(f"the Service dials {pod.containers[0].name}, which stands before {PREDICTOR}")
    ports = _served(front)
    moved: list[Moved] = []
    agent = pod.find(KSERVE_AGENT)
    if agent is not None and any(port["containerPort"] == AGENT_PORT for port in agent.ports):
        # The Service dials KServe's logger or batcher. In front of it the agent sees single requests, and a refusal
        # is not answered 200 by the batcher (kserve pkg/batcher).
        moved += _take(patch, agent, {AGENT_PORT: ("http", _AGENT_KNOB)}, used)
        _move_declared(patch, agent, moved)
        ports = ports[1:]
    if ports:
        server = server_of(front, pod.annotations)
        moved += _take(patch, front, _knobs(front, server, ports), used)
    return moved


def llm(front: Container, scheme: str, patch: Patch, used: set[int], annotations: Mapping[str, str]) -> list[Moved]:
    """The front of an LLMInferenceService, which speaks `scheme`. Raises RefusalError."""
    server = _ROUTER if front.name == LLM_ROUTER else server_of(front, annotations)
    known = {read(front, knob): knob for _, knob in server.knobs}
    if LLM_PORT not in known:
        raise RefusalError(f"{front.name} does not listen on {LLM_PORT}, which LLMInferenceServices are dialled on")
    return _take(patch, front, {LLM_PORT: (scheme, known[LLM_PORT])}, used)


def llm_front(pod: Pod) -> Container:
    """Who is dialled in a pod of an LLMInferenceService."""
    front = pod.find(LLM_ROUTER) or pod.find(LLM_MAIN)
    assert front is not None
    return front


def _served(front: Container) -> list[int]:
    """What the Service dials, in its order (kserve service_reconciler.go)."""
    return [int(port["containerPort"]) for port in front.ports] or [DEFAULT_PORT]


def _knobs(front: Container, server: Server, ports: list[int]) -> dict[int, tuple[str, Knob]]:
    """Which knob moves which of these ports. Raises RefusalError if none moves the first."""
    if server.name == "custom":
        known = _by_name(front, server, ports)
    else:
        known = {read(front, knob): (scheme, knob) for scheme, knob in server.knobs}
    if ports[0] not in known:
        there = ", ".join(str(port) for port in sorted(known) if port) or "none"
        raise RefusalError(
            f"clients dial port {ports[0]} of {front.name}, but its server ({server.name}) listens on: {there}"
        )
    return {port: known[port] for port in ports if port in known}


def _by_name(front: Container, server: Server, ports: list[int]) -> dict[int, tuple[str, Knob]]:
    """A custom server's ports are told apart as KServe does it: by a name with grpc or h2c in it."""
    names = {int(port["containerPort"]): str(port.get("name", "")) for port in front.ports}
    known: dict[int, tuple[str, Knob]] = {}
    for scheme, knob in server.knobs:
        for port in ports:
            is_grpc = any(word in names.get(port, "") for word in ("grpc", "h2c"))
            if is_grpc == (scheme == "h2c") and not any(one == knob for _, one in known.values()):
                known[port] = scheme, knob
    return known


def _take(patch: Patch, front: Container, knobs: dict[int, tuple[str, Knob]], used: set[int]) -> list[Moved]:
    """Move these ports of one container, and everything the kubelet dials there."""
    moved = []
    for port, (scheme, knob) in knobs.items():
        # 8080 becomes 18080: easy to recognise, and outside of what anybody listens on by default.
        target = free_port(port + 10000 if port < 50000 else port - 10000, used)
        used.add(target)
        write(patch, front, knob, target)
        moved.append(Moved(port, target, scheme))
    _move_checks(patch, front, moved)
    return moved


def _move_checks(patch: Patch, front: Container, moved: Iterable[Moved]) -> None:
    """A probe that stayed would be answered by the agent: true as soon as it listens, whatever the predictor does."""
    targets = {one.listen: one.upstream for one in moved}
    for _, path, action in front.checks:
        number = front.port_number(action["port"])
        if number in targets:
            patch.replace((*path, "port"), targets[number])


def _move_declared(patch: Patch, container: Container, moved: Iterable[Moved]) -> None:
    targets = {one.listen: one.upstream for one in moved}
    for index, port in enumerate(container.spec.get("ports") or ()):
        if port["containerPort"] in targets:
            patch.replace((*container.path, "ports", index, "containerPort"), targets[port["containerPort"]])


def checks_moved(container: Container, moved: Iterable[Moved]) -> Json:
    """What the probes and hooks dialled before, for whoever wants to know."""
    taken = {one.listen for one in moved}
    return {
        f"{container.name}/{kind}": action["port"]
        for kind, _, action in container.checks
        if container.port_number(action["port"]) in taken
    }
