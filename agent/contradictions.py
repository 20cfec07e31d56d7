"""Settings that are accepted one by one and cannot hold together."""

from collections.abc import Mapping
from typing import Any

from agent.values import AUTO, Address, Listen


def contradictions(given: Mapping[str, Any]) -> list[str]:
    """A sentence for each contradiction. `given` holds parsed values by the names of their settings."""
    problems = []
    listens = [route.listen for route in given.get("routes", ())]
    listens += [given[name] for name in ("admin", "knative_metrics") if given.get(name)]
    for index, one in enumerate(listens):
        if one.port and any(_collide(one, other) for other in listens[:index]):
            problems.append(
                f"port {one.port} is listened on twice (--route, --admin and --knative-metrics need ports of their own)"
            )
    problems += [
        f"--route {route.listen}={route.upstream} forwards to a port that the agent itself listens on"
        for route in given.get("routes", ())
        if any(_is_loop(address, other) for address in route.addresses for other in listens)
    ]
    problems += [
        f"--merge-metrics {page} is a page of the agent itself"
        for page in given.get("merge_metrics", ())
        if any(_is_loop(page.address, other) for other in listens)
    ]
    problems += [
        f"--merge-metrics names {page} twice"
        for page in sorted({page for page in given.get("merge_metrics", ()) if given["merge_metrics"].count(page) > 1})
    ]
    problems += _startup(given)
    limit = given.get("limit")
    names = [name for name, _ in given.get("model_limits", ())]
    problems += [f"--model-limit names {name!r} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if limit:
        problems += [
            f"--model-limit {name}={bound} is above --limit {limit}"
            for name, bound in given.get("model_limits", ())
            if bound > limit
        ]
    patiences = [name for name, _ in given.get("model_deadlines", ())]
    problems += [
        f"--model-deadline names {name!r} twice" for name in sorted({n for n in patiences if patiences.count(n) > 1})
    ]
    if given.get("policy") == "fifo":
        problems += _meaningless(given)
    queue_bytes, queued_body = given.get("queue_bytes"), given.get("queued_body")
    if queue_bytes is not None and queued_body is not None and queued_body > queue_bytes:
        problems.append(f"--queued-body {queued_body} is above --queue-bytes {queue_bytes}")
    return problems


def _startup(given: Mapping[str, Any]) -> list[str]:
    """What waits for the predictor at the start, in vain or for too long."""
    problems = []
    path, startup, timeout = given.get("ready_path"), given.get("startup_timeout"), given.get("timeout")
    if path and given.get("ready_when") == "listening":
        problems.append(f"--ready-path {path} is not asked with --ready-when listening")
    if path and not any(route.http1 for route in given.get("routes", ())):
        problems.append(f"--ready-path {path} needs an upstream that speaks HTTP/1.1")
    if startup and timeout and startup > timeout:
        problems.append(
            f"--startup-timeout {startup:g}s is above --timeout {timeout:g}s, which bounds the whole exchange"
        )
    return problems


def _meaningless(given: Mapping[str, Any]) -> list[str]:
    """What `--policy fifo` cannot do."""
    problems = []
    if given.get("limit") == AUTO or any(bound == AUTO for _, bound in given.get("model_limits", ())):
        problems.append("--policy fifo needs a --limit that is a number or none (auto searches with --policy deadline)")
    problems += [
        f"--v2-hints {name} needs --policy deadline" for name in given.get("v2_hints", ()) if name != "timeout"
    ]
    problems += [
        f"--{name.replace('_', '-').removesuffix('s')} needs --policy deadline"
        for name in ("model_deadlines", "deadline_header", "priority_header", "tenant_header")
        if given.get(name)
    ]
    return problems


def _collide(one: Listen, other: Listen) -> bool:
    wild = {"0.0.0.0", "::"}
    return one.port == other.port and (one.host == other.host or one.host in wild or other.host in wild)


def _is_loop(upstream: Address, other: Listen) -> bool:
    if upstream.path:
        return False
    is_local = upstream.host.startswith("127.") or upstream.host == "::1"
    return upstream.port == other.port and (
        upstream.host == other.host or (is_local and other.host in {"0.0.0.0", "::"})
    )
