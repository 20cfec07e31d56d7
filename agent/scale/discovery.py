"""Which agents a workload has: a list, the addresses of a headless Service, or its EndpointSlices."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from agent.scale.trigger import MAX_AGENTS, Find, Source

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
# A page of 500 slices has 50,000 endpoints; more pages than this are an answer that does not end.
_PAGE, _MAX_PAGES = 500, 10
_MAX_PAGE_BYTES = 64 << 20


class DiscoveryError(Exception):
    """The agents cannot be found out now. The text is for KEDA's log."""


class Kubernetes:
    """The API server, as a pod with a service account reaches it. Raises OSError or ValueError where it is not in one.

    The token is read for every request, for the kubelet replaces it.
    """

    def __init__(self, session: aiohttp.ClientSession, env: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> None:
        host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ValueError("KUBERNETES_SERVICE_HOST is not set")
        self._session = session
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._token = account / "token"
        self._tls = ssl.create_default_context(cafile=account / "ca.crt")

    async def agents(self, namespace: str, service: str, port: int) -> list[str]:
        """The agents at `port` of the pods that are ready behind a Service. Raises DiscoveryError."""
        url = f"{self._url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        query = {"labelSelector": f"kubernetes.io/service-name={service}", "limit": str(_PAGE)}
        slices: list[Any] = []
        for _ in range(_MAX_PAGES):
            page = await self._get(url, query, namespace)
            slices += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                break
            query["continue"] = more
        return [_joined(address, port) for address in ready_addresses(slices)]

    async def _get(self, url: str, query: Mapping[str, str], namespace: str) -> dict[str, Any]:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Accept": "application/json"}
            async with self._session.get(
                url, params=query, headers=headers, ssl=self._tls, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    hint = " (its role must allow to list endpointslices)" if answer.status in {401, 403} else ""
                    raise DiscoveryError(
                        f"the API server answered {answer.status} for the EndpointSlices in {namespace!r}{hint}"
                    )
                body = await answer.content.read(_MAX_PAGE_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DiscoveryError(f"the API server cannot be asked: {type(error).__name__}") from error
        try:
            page = json.loads(body)
        except ValueError:
            page = None
        if not isinstance(page, dict):
            raise DiscoveryError("the API server's answer is no list of EndpointSlices")
        return page


def ready_addresses(slices: list[Any]) -> list[str]:
    """One address of each pod that is ready in these EndpointSlices (discovery.k8s.io/v1).

    A Service of both IP families has a slice for each with the same pods in it; `ready` that is absent means ready.
    """
    found: dict[object, str] = {}
    for each in sorted(slices, key=lambda each: str(each.get("addressType"))):  # IPv4 before IPv6
        if each.get("addressType") not in {"IPv4", "IPv6"}:
            continue
        for endpoint in each.get("endpoints") or []:
            ready = (endpoint.get("conditions") or {}).get("ready")
            addresses = endpoint.get("addresses") or []
            if addresses and ready is not False:
                # The addresses of an endpoint are of one pod, and only the first is to be used.
                pod = (endpoint.get("targetRef") or {}).get("uid") or addresses[0]
                found.setdefault(pod, str(addresses[0]))
    return sorted(found.values())


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _resolved(host: str, port: int) -> list[str]:
    """The agents behind a name. A name that leads nowhere has none: so does that of a Service without ready pods."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}:
            return []
        raise DiscoveryError(f"{host!r} cannot be looked up: {error.strerror}") from error
    return sorted({_joined(str(address[0]), port) for *_, address in found})


class Discovery:
    """Finds agents. `kubernetes` None is outside a cluster."""

    def __init__(self, kubernetes: Kubernetes | None) -> None:
        self._kubernetes = kubernetes

    async def agents(self, source: Source) -> list[str]:
        """The addresses of the agents, HOST:PORT each. Raises DiscoveryError."""
        if source.find is Find.LIST:
            return list(source.agents)
        if source.find is Find.DNS:
            found = await _resolved(source.name, source.port)
        elif self._kubernetes is None:
            raise DiscoveryError("service needs a scaler inside a Kubernetes cluster; serviceAddress or agents do not")
        else:
            found = await self._kubernetes.agents(source.namespace, source.name, source.port)
        if len(found) > MAX_AGENTS:
            raise DiscoveryError(f"{len(found)} agents are more than {MAX_AGENTS}")
        return found


def in_cluster(session: aiohttp.ClientSession) -> Kubernetes | None:
    """The API server of the cluster that this process runs in, if it does."""
    try:
        return Kubernetes(session, os.environ)
    except (OSError, ValueError):
        return None
