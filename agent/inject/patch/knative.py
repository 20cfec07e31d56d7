"""Knative mode: queue-proxy is told that the agent is the user's port, as KServe tells it about its own agent."""

import json

from agent.inject.patch.pod import QUEUE_PROXY, Container, Patch, Pod, RefusalError, free_port
from agent.inject.patch.takeover import Moved

DATA_PORT = 8480
_USER_PORT = "USER_PORT"


def knative(pod: Pod, patch: Patch, used: set[int], admin: int, warnings: list[str]) -> list[Moved]:
    """A pod with a queue-proxy. No server needs to be known: nothing moves. Raises RefusalError."""
    proxy = pod.find(QUEUE_PROXY)
    assert proxy is not None
    index, port = _user_port(proxy)
    listen = free_port(DATA_PORT, used)
    used.add(listen)
    patch.replace((*proxy.path, "env", index, "value"), str(listen))
    _extend_readiness(proxy, patch, admin)
    concurrency = proxy.env("CONTAINER_CONCURRENCY")
    if concurrency is not None and concurrency[1].get("value", "0") != "0":
        warnings.append(
            f"containerConcurrency is {concurrency[1].get('value')}: Knative queues and refuses before the agent sees "
            "the demand; set it to 0 and headgate.dev/limit instead"
        )
    # One port, one protocol, which the client's chooses (queue-proxy dials HTTP/2 with prior knowledge).
    return [Moved(listen, port, "auto")]


def reclaim(pod: Pod, sidecar: Container, patch: Patch) -> list[Moved]:
    """A pod that has the agent, and into which KServe put its own afterwards: queue-proxy dials that one, and the
    predictor is reached past us. Nothing when all is well.
    """
    proxy = pod.find(QUEUE_PROXY)
    if proxy is None:
        return []
    index, port = _user_port(proxy)
    args = sidecar.spec["args"]
    place = next(index for index, flag in enumerate(args) if flag.startswith("--route="))
    listen = int(args[place].removeprefix("--route=").partition("=")[0])
    if port == listen:
        return []
    moved = Moved(listen, port, "auto")
    patch.replace((*proxy.path, "env", index, "value"), str(listen))
    patch.replace((*sidecar.path, "args", place), f"--route={moved.route}")
    return [moved]


def _user_port(proxy: Container) -> tuple[int, int]:
    variable = proxy.env(_USER_PORT)
    text = "" if variable is None else str(variable[1].get("value"))
    if variable is None or not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise RefusalError(
            f"queue-proxy has no {_USER_PORT} that is a number: is this a Knative that is not known yet?"
        )
    return variable[0], int(text)


def _extend_readiness(proxy: Container, patch: Patch, admin: int) -> None:
    """Let queue-proxy ask the agent too. Versions without probes of several containers rely on the startup probe."""
    several, probe = proxy.env("ENABLE_MULTI_CONTAINER_PROBES"), proxy.env("SERVING_READINESS_PROBE")
    if several is None or probe is None or not probe[1].get("value"):
        return
    try:
        known = json.loads(probe[1]["value"])
    except ValueError:
        return
    ours = {
        "httpGet": {"host": "127.0.0.1", "port": admin, "path": "/readyz", "scheme": "HTTP"},
        "successThreshold": 1,
    }
    both = [*(known if isinstance(known, list) else [known]), ours]
    patch.replace((*proxy.path, "env", several[0], "value"), "true")
    patch.replace((*proxy.path, "env", probe[0], "value"), json.dumps(both, separators=(",", ":")))
