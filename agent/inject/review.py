"""AdmissionReview v1: bytes to a decision, and the decision to the answer.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#request
"""

import base64
import json
from typing import Any, NamedTuple

from agent.inject.patch.inject import Decision, Mode, Verdict, inject
from agent.inject.patch.sidecar import Defaults

API_VERSION = "admission.k8s.io/v1"
# What the API server keeps of warnings (k8s.io/apiserver pkg/warning and pkg/endpoints/filters).
_WARNINGS, _WARNING_CHARACTERS = 16, 256

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class MalformedError(Exception):
    """This is not an AdmissionReview."""


class Reviewed(NamedTuple):
    """An answered review. `error` is the defect of ours that it survived."""

    body: bytes
    decision: Decision
    facts: dict[str, Any]
    error: Exception | None


def review(body: bytes, defaults: Defaults) -> Reviewed:
    """Answer a review. A pod is always allowed, whatever becomes of it here. Raises MalformedError."""
    request = _request(body)
    error: Exception | None = None
    try:
        decision = _decide(request, defaults)
    except Exception as defect:
        error = defect
        told = "headgate is not injected: the webhook failed; its log says why"
        decision = Decision(Mode.NONE, Verdict.FAILED, type(defect).__name__, [], [told])
    return Reviewed(_answer(request["uid"], decision), decision, _facts(request), error)


def _request(body: bytes) -> dict[str, Any]:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not JSON") from None
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise MalformedError("the body is not an AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        raise MalformedError(f"only AdmissionReviews of {API_VERSION} are answered")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str) or not request["uid"]:
        raise MalformedError("the AdmissionReview has no request with a uid")
    return request


def _decide(request: dict[str, Any], defaults: Defaults) -> Decision:
    kind = request.get("kind") or {}
    if (kind.get("group", ""), kind.get("kind"), request.get("operation")) != ("", "Pod", "CREATE"):
        return Decision(Mode.NONE, Verdict.SKIPPED, "only the creation of pods is looked at", [], [])
    return inject(request["object"], defaults)


def _answer(uid: str, decision: Decision) -> bytes:
    response: dict[str, Any] = {
        "uid": uid,
        "allowed": True,
        "auditAnnotations": {"decision": f"{decision.verdict}: {decision.reason}"},
    }
    if decision.patch:
        patch = _ENCODE(decision.patch).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if decision.warnings:
        response["warnings"] = [warning[:_WARNING_CHARACTERS] for warning in decision.warnings[:_WARNINGS]]
    answer = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return _ENCODE(answer).encode()


def _facts(request: dict[str, Any]) -> dict[str, Any]:
    """What the log tells of a request, whatever is missing in it."""
    pod = request.get("object")
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    return {
        "uid": request["uid"],
        "namespace": request.get("namespace"),
        "pod": metadata.get("name") or metadata.get("generateName"),
        "dry_run": request.get("dryRun") is True,
    }
