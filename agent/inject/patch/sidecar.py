"""The container that is added."""

from typing import NamedTuple

from agent.inject.patch.annotations import MEMORY, Wishes, cpu_millis, memory_bytes
from agent.inject.patch.pod import QUEUE_PROXY, SIDECAR, Container, Json, Pod

# What an agent needs beside the waiting requests, with room (`make bench`: 44 MiB idle).
_BASE_BYTES = 128 << 20
_MIB = 1 << 20
# More is not requested unless somebody says so: the pod might fit on no node.
_MOST_BYTES = 2 << 30
PORT_NAME = "hg-metrics"
# The image's user, for pods that would otherwise run everything as root.
_USER = 65532


class Defaults(NamedTuple):
    """What the webhook puts into every pod: image, CPU request, and `native` or `container`."""

    image: str
    cpu: str = "250m"
    kind: str = "native"
    pull_policy: str = ""


def sidecar(pod: Pod, defaults: Defaults, wishes: Wishes, admin: int, mounts: list[Json]) -> Json:
    """The container, without what depends on its being native."""
    container: Json = {
        "name": SIDECAR,
        "image": defaults.image,
        # The kubelet expands $(NAME) in arguments; $$( is a $( that is meant.
        "args": ["serve", *(flag.replace("$(", "$$(") for flag in wishes.flags)],
        "ports": [{"name": PORT_NAME, "containerPort": admin, "protocol": "TCP"}],
        "startupProbe": _probe("/healthz", admin, periodSeconds=1, failureThreshold=60),
        "readinessProbe": _probe("/readyz", admin, periodSeconds=5, failureThreshold=2),
        "livenessProbe": _probe("/healthz", admin, periodSeconds=10, failureThreshold=6),
        "resources": _resources(pod, defaults, wishes),
        "securityContext": _security(pod),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if mounts:
        container["volumeMounts"] = mounts
    if defaults.pull_policy:
        container["imagePullPolicy"] = defaults.pull_policy
    return container


def is_guaranteed(pod: Pod) -> bool:
    """Whether every container has limits for CPU and memory, and requests that equal them (QoS class Guaranteed)."""
    return all(_is_fixed(one, resource) for one in _counted(pod) for resource in ("cpu", "memory"))


def _counted(pod: Pod) -> tuple[Container, ...]:
    return (*pod.containers, *pod.init_containers)


def _is_fixed(container: Container, resource: str) -> bool:
    resources = container.spec.get("resources") or {}
    limit = (resources.get("limits") or {}).get(resource)
    # Without a request, the limit is the request.
    return limit is not None and (resources.get("requests") or {}).get(resource, limit) == limit


def _resources(pod: Pod, defaults: Defaults, wishes: Wishes) -> Json:
    """Requests for both, always: a HorizontalPodAutoscaler fails for a whole workload if one is missing."""
    cpu = wishes.cpu or defaults.cpu
    needed = _BASE_BYTES + wishes.settings.queue_bytes
    memory = wishes.memory or f"{-(-min(needed, _MOST_BYTES) // _MIB)}Mi"
    if memory_bytes(memory) < needed:
        wishes.warnings.append(
            f"{MEMORY} {memory} is less than 128Mi and headgate.dev/queue-bytes: a full queue may end the agent"
        )
    # One thread: more than a core is never used. A pod that is Guaranteed stays so.
    most = cpu if is_guaranteed(pod) or cpu_millis(cpu) > 1000 else "1"
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": most, "memory": memory}}


def _security(pod: Pod) -> Json:
    """What PodSecurity `restricted` wants."""
    context: Json = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if (pod.spec.get("securityContext") or {}).get("runAsUser") == 0:
        context["runAsUser"] = _USER
    return context


def drain_hook(admin: int) -> Json:
    """The hook that keeps a predictor alive until the agent has let everything finish."""
    return {"httpGet": {"path": "/wait-for-drain", "port": admin, "scheme": "HTTP"}}


def own_hook(pod: Pod) -> Json | None:
    """What an agent that is an ordinary container waits for: Knative drains its queue-proxy first (8022, as
    Knative's own containers ask).
    """
    if pod.find(QUEUE_PROXY) is None:
        return None
    return {"preStop": {"httpGet": {"path": "/wait-for-drain", "port": 8022, "scheme": "HTTP"}}}


def _probe(path: str, port: int, **numbers: int) -> Json:
    return {"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 2, **numbers}
