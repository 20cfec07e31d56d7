"""A pod to a decision: the patch that puts the agent into it, or why there is none."""

import json
from enum import StrEnum
from typing import NamedTuple

from agent.inject.patch.annotations import Wishes, is_wanted, read
from agent.inject.patch.knative import knative, reclaim
from agent.inject.patch.pod import (
    INJECT,
    INJECTED,
    KSERVE_AGENT,
    LLM_MAIN,
    LLM_ROUTER,
    PREDICTOR,
    QUEUE_PROXY,
    SIDECAR,
    TRANSFORMER,
    Json,
    Patch,
    Pod,
    RefusalError,
    free_port,
)
from agent.inject.patch.sidecar import Defaults, drain_hook, own_hook, sidecar
from agent.inject.patch.takeover import Moved, checks_moved, llm, llm_front, standard
from agent.inject.patch.tls import serving_certificate

ADMIN_PORT = 8481
# Between the end of the drain and the kubelet's SIGKILL.
_SPARE_S = 5
_DEFAULT_GRACE_S = 30


class Mode(StrEnum):
    """How KServe runs this pod."""

    STANDARD = "standard"
    KNATIVE = "knative"
    LLM = "llm"
    NONE = "none"


class Verdict(StrEnum):
    """What becomes of a pod: the metric label and the log field."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


class Decision(NamedTuple):
    """The verdict on a pod, in words, and the JSON Patch, which is empty unless it is injected."""

    mode: Mode
    verdict: Verdict
    reason: str
    patch: list[Json]
    warnings: list[str]


def inject(raw: Json, defaults: Defaults) -> Decision:
    """Decide about a pod as the API server sends it. Injecting what is injected already changes nothing."""
    pod = Pod(raw)
    mode = mode_of(pod)
    if not is_wanted(pod.labels.get(INJECT, "")):
        return Decision(mode, Verdict.SKIPPED, f"the label {INJECT} does not ask for it", [], [])
    if (skipped := _why_not(pod, mode)) is not None:
        return Decision(mode, Verdict.SKIPPED, skipped, [], [])
    try:
        there = pod.find(SIDECAR)
        if there is not None:
            patch = Patch()
            moved = reclaim(pod, there, patch)
            if moved:
                patch.replace(("metadata", "annotations", INJECTED), _record(pod, mode, moved))
            verdict = Verdict.INJECTED if moved else Verdict.UNCHANGED
            return Decision(mode, verdict, "it has the agent already", patch.operations, [])
        return _inject(pod, mode, defaults)
    except RefusalError as refusal:
        return Decision(mode, Verdict.REFUSED, str(refusal), [], [f"headgate is not injected: {refusal}"])


def mode_of(pod: Pod) -> Mode:
    """Told by the containers that are there."""
    if pod.find(QUEUE_PROXY) is not None:
        return Mode.KNATIVE
    if pod.find(PREDICTOR) is not None:
        return Mode.STANDARD
    return Mode.LLM if pod.find(LLM_MAIN) is not None else Mode.NONE


def _why_not(pod: Pod, mode: Mode) -> str | None:
    """What makes a pod none of our business, however it is labelled."""
    if mode is Mode.NONE:
        return "it has no predictor"
    if mode is not Mode.LLM and pod.labels.get("component", "predictor") != "predictor":
        return f"it is a {pod.labels['component']}, not a predictor"
    if mode is Mode.LLM and pod.labels.get("llm-d.ai/role") == "prefill":
        return "prefill pods are called by decode pods, which have the agent"
    front = pod.find(TRANSFORMER)
    if front is not None and "serve" in front.tokens and any(token.startswith("--route") for token in front.tokens):
        return "its transformer-container is the agent"
    return None


def _inject(pod: Pod, mode: Mode, defaults: Defaults) -> Decision:
    if pod.spec.get("hostNetwork"):
        raise RefusalError("the pod uses the network of its node, where ports are not its own")
    if (pod.spec.get("os") or {}).get("name", "linux") != "linux":
        raise RefusalError("the agent runs on Linux only")
    patch, used = Patch(), pod.declared_ports
    warnings: list[str] = []
    admin = free_port(ADMIN_PORT, used)
    used.add(admin)
    certificate = None
    if mode is Mode.KNATIVE:
        moved = knative(pod, patch, used, admin, warnings)
    elif mode is Mode.STANDARD:
        moved = standard(pod, patch, used)
    else:
        front = llm_front(pod)
        certificate = serving_certificate(pod, front)
        moved = llm(front, "http" if certificate is None else "https", patch, used, pod.annotations)
    routes = [one.route for one in moved]
    fixed = {"routes": routes, "admin": [f"0.0.0.0:{admin}"], **({} if certificate is None else certificate.settings)}
    wishes = read(pod.annotations, fixed, used)
    container = sidecar(pod, defaults, wishes, admin, [] if certificate is None else certificate.mounts)
    if (wishes.kind or defaults.kind) == "native":
        patch.append(pod.spec, ("spec", "initContainers"), {**container, "restartPolicy": "Always"})
    else:
        hook = own_hook(pod)
        patch.append(pod.spec, ("spec", "containers"), container if hook is None else {**container, "lifecycle": hook})
    if mode is not Mode.KNATIVE:
        _wait_for_drain(pod, patch, admin)
        _leave_time(pod, patch, wishes)
    record = _record(pod, mode, moved)
    if pod.annotations:
        patch.add(("metadata", "annotations", INJECTED), record)
    else:
        patch.add(("metadata", "annotations"), {INJECTED: record})
    reason = ", ".join(routes)
    return Decision(mode, Verdict.INJECTED, reason, patch.operations, [*warnings, *wishes.warnings])


def _wait_for_drain(pod: Pod, patch: Patch, admin: int) -> None:
    """Keep what stands behind the agent alive until the agent is done, unless it has a hook of its own."""
    for name in (PREDICTOR, TRANSFORMER, KSERVE_AGENT, LLM_MAIN):
        container = pod.find(name)
        if container is None or (container.spec.get("lifecycle") or {}).get("preStop"):
            continue
        hook = drain_hook(admin)
        if container.spec.get("lifecycle"):
            patch.add((*container.path, "lifecycle", "preStop"), hook)
        else:
            patch.add((*container.path, "lifecycle"), {"preStop": hook})


def _leave_time(pod: Pod, patch: Patch, wishes: Wishes) -> None:
    """A drain that is longer than the pod's grace period would be cut off."""
    needed = int(-(-(wishes.settings.drain_delay + wishes.settings.drain_timeout) // 1)) + _SPARE_S
    if pod.spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S) < needed:
        patch.add(("spec", "terminationGracePeriodSeconds"), needed)


def _record(pod: Pod, mode: Mode, moved: list[Moved]) -> str:
    """What was done and what was there before, kept on the pod."""
    ports = [{"listen": one.listen, "upstream": one.upstream, "scheme": one.scheme} for one in moved]
    checks: Json = {}
    for name in () if mode is Mode.KNATIVE else (PREDICTOR, TRANSFORMER, KSERVE_AGENT, LLM_MAIN, LLM_ROUTER):
        container = pod.find(name)
        checks |= {} if container is None else checks_moved(container, moved)
    return json.dumps({"v": 1, "mode": mode, "ports": ports, "checks": checks}, separators=(",", ":"))
