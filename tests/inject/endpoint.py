"""A webhook on a real TLS socket, and a client that believes its own root alone, as the API server does."""

import base64
import datetime
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from agent.inject.certificates import Certificates, self_made
from agent.inject.webhook import Webhook
from tests.mounted import Mounted
from tests.sockets import PATIENCE_S

from .goldens import NATIVE

NAMESPACE, SERVICE = "headgate-system", "headgate-webhook"
HOST = f"{SERVICE}.{NAMESPACE}.svc"


class Pair(Mounted):
    """A self-made certificate in files, as a Secret is mounted: `..data` is exchanged as a whole."""

    def __init__(self, directory: Path) -> None:
        held = ("tls.crt", "tls.key")
        super().__init__(directory, held)
        self.cert, self.key = (str(directory / name) for name in held)
        self.files: dict[str, bytes] = {}
        self.renew()

    def renew(self) -> None:
        """Another certificate, of another root."""
        secret = yaml.safe_load(self_made(NAMESPACE, SERVICE, datetime.datetime.now(datetime.UTC)))
        self.files = {name: base64.b64decode(value) for name, value in secret["data"].items()}
        self.write(self.files)

    def client(self) -> ssl.SSLContext:
        """What a client that knows this root uses."""
        return ssl.create_default_context(cadata=self.files["ca.crt"].decode())


class Endpoint:
    """A running webhook and a client of it."""

    def __init__(self, webhook: Webhook, port: int, session: aiohttp.ClientSession, pair: Pair) -> None:
        self.webhook = webhook
        self.port = port
        self.pair = pair
        self._session = session
        self._ssl = pair.client()

    async def post(self, body: bytes, path: str = "/mutate") -> tuple[int, bytes]:
        """Status and body."""
        url = f"https://127.0.0.1:{self.port}{path}"
        async with self._session.post(url, data=io.BytesIO(body), ssl=self._ssl, server_hostname=HOST) as answer:
            return answer.status, await answer.read()

    async def get(self, path: str) -> tuple[int, str]:
        url = f"https://127.0.0.1:{self.port}{path}"
        async with self._session.get(url, ssl=self._ssl, server_hostname=HOST) as answer:
            return answer.status, await answer.text()

    async def review(self, pod: object, **request: object) -> dict[str, Any]:
        """The response to a review of this pod."""
        status, body = await self.post(review_of(pod, **request))
        assert status == 200, body
        response: dict[str, Any] = json.loads(body)["response"]
        return response


def review_of(pod: object, **request: object) -> bytes:
    """An AdmissionReview as the API server sends it."""
    whole = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "ml",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **request,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": whole}).encode()


@asynccontextmanager
async def endpoint(directory: Path) -> AsyncIterator[Endpoint]:
    """A webhook that is ended on the way out."""
    pair = Pair(directory)
    webhook = Webhook(NATIVE, Certificates(pair.cert, pair.key))
    sock = socket.create_server(("127.0.0.1", 0))
    await webhook.start(sock)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        try:
            yield Endpoint(webhook, sock.getsockname()[1], session, pair)
        finally:
            await webhook.stop()
