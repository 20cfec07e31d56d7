"""A predictor that serves TLS: the agent serves with the very files that are mounted there, and speaks TLS to it."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from agent.inject.patch.pod import LLM_ROUTER, Container, Json, Pod, RefusalError
from agent.inject.patch.servers import text_of

_OFF = "turn TLS off (enableLLMInferenceServiceTLS in KServe's configuration), or leave out the label"
# In the routing sidecar's folder (llm-d pd-sidecar, --cert-path).
_NAMES = ("tls.crt", "tls.key")
_BY_ALL = 0o004


class ServingCertificate(NamedTuple):
    """The paths of a certificate and its key, and the mounts that hold them."""

    cert: str
    key: str
    mounts: list[Json]

    @property
    def settings(self) -> dict[str, list[str]]:
        """What the agent is told.

        The predictor's certificate is not checked: it is for the names that clients know, and whoever could listen on
        loopback in its stead shares the pod, and with it the key.
        """
        return {"tls_cert": [self.cert], "tls_key": [self.key], "upstream_verify": ["off"]}


def serving_certificate(pod: Pod, front: Container) -> ServingCertificate | None:
    """What the front of an LLMInferenceService serves TLS with; None where it does not. Raises RefusalError.

    Flags of vLLM and of llm-d's routing sidecar, as KServe's templates set them (config/llmisvcconfig).
    """
    if front.name == LLM_ROUTER:
        folder = text_of(front, "--cert-path") if text_of(front, "--secure-proxy") == "true" else None
        cert, key = (None, None) if folder is None else (f"{folder.rstrip('/')}/{name}" for name in _NAMES)
    else:
        cert, key = text_of(front, "--ssl-certfile"), text_of(front, "--ssl-keyfile")
    if cert is None and key is None and not _speaks_tls(front):
        return None
    if text_of(front, "--ssl-cert-reqs") not in {None, "0"}:
        raise RefusalError(f"{front.name} asks its clients for certificates, and the agent has none: {_OFF}")
    if cert is None or key is None:
        raise RefusalError(f"{front.name} serves TLS, and its flags do not say with which files: {_OFF}")
    mounts: list[Json] = []
    for path in (cert, key):
        mount = {**_mount(front, path), "readOnly": True}
        if mount not in mounts:
            mounts.append(mount)
    _check_readable(pod, mounts)
    return ServingCertificate(cert, key, mounts)


def _speaks_tls(front: Container) -> bool:
    return text_of(front, "--secure-proxy") == "true" or any(
        action.get("scheme") == "HTTPS" for _, _, action in front.checks
    )


def _mount(front: Container, path: str) -> Json:
    """The mount that a file is in: the deepest."""
    if re.fullmatch(r"(/(?!\.\.?(/|$))[\w.\-]+)+", path) is None:
        raise RefusalError(f"{front.name} serves TLS with {path!r}, which is no plain path: {_OFF}")
    mounts: list[Json] = front.spec.get("volumeMounts") or []
    holding = [one for one in mounts if PurePosixPath(path).is_relative_to(one["mountPath"])]
    if not holding:
        raise RefusalError(f"{front.name} serves TLS with {path}, which is mounted from no volume: {_OFF}")
    return max(holding, key=lambda one: len(PurePosixPath(one["mountPath"]).parts))


def _check_readable(pod: Pod, mounts: Iterable[Json]) -> None:
    """An agent that cannot read the key would never start. With fsGroup, the kubelet lets the pod's group read it."""
    if (pod.spec.get("securityContext") or {}).get("fsGroup") is not None:
        return
    names = {mount["name"] for mount in mounts}
    for volume in pod.spec.get("volumes") or ():
        source = volume.get("secret") or volume.get("projected")
        if volume["name"] in names and source and not int(source.get("defaultMode", 0o644)) & _BY_ALL:
            raise RefusalError(
                f"the volume {volume['name']} is not readable by everyone: give the pod an fsGroup, or {_OFF}"
            )
