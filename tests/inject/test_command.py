"""`headgate webhook` as a process, its settings, and what it asks the cluster."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
import yaml
from aiohttp import web
from cryptography import x509

from agent.errors import SettingsError
from agent.inject.cluster import ClusterError, has_native_sidecars
from agent.inject.settings import WebhookSettings, resolve
from agent.settings import knobs
from agent.values import Listen
from tests.sockets import PATIENCE_S

from .endpoint import HOST, Pair, review_of
from .goldens import CASES

ROOT = Path(__file__).parent.parent.parent
SKLEARN = next(case.before for case in CASES if case.name == "standard-sklearn")
NEEDED = {"tls_cert": ["c"], "tls_key": ["k"], "image": ["i"]}


def environment(**extra: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("HEADGATE_", "KUBERNETES_"))}
    return {**kept, **extra}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "webhook", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=20, check=False
    )


async def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "agent", "webhook", "--listen", "127.0.0.1:0", "--image", "r/headgate:1", "--drain-delay", "0"),
        *("--tls-cert", pair.cert, "--tls-key", pair.key),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        unknown, listening = [json.loads(await process.stderr.readline()) for _ in range(2)]
        # Outside of a cluster nothing is known of it, and ordinary containers run everywhere.
        assert (unknown["event"], listening["event"]) == ("cluster's version unknown", "listening")
        assert (listening["sidecar"], listening["image"]) == ("container", "r/headgate:1")
        port = int(listening["listen"].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=pair.client(), server_hostname=HOST)
        body = review_of(SKLEARN)
        writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        event = json.loads(await process.stderr.readline())
        assert (event["event"], event["verdict"]) == ("review", "injected")
        pair.renew()
        exchanged = json.loads(await process.stderr.readline())
        assert exchanged["event"] == "certificate exchanged"
        _, by_new_root = await asyncio.open_connection("127.0.0.1", port, ssl=pair.client(), server_hostname=HOST)
        by_new_root.close()
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line)["event"] for line in (await process.stderr.read()).splitlines()]
        assert (rest, await process.wait()) == (["draining", "ended"], 0)
        writer.close()


def test_bad_settings_are_told_together_and_end_with_64() -> None:
    ended = run("--cpu", "lots", "--listen", "x", HEADGATE_SIDECAR="both")
    assert ended.returncode == 64
    told = ended.stderr.splitlines()
    assert told[0] == "headgate webhook: 6 problems with the settings:"
    for text in (
        "--cpu 'lots'",
        "--listen 'x'",
        "HEADGATE_SIDECAR 'both'",
        "--tls-cert is",
        "--tls-key is",
        "--image is",
    ):
        assert sum(text in line for line in told) == 1, text


def test_what_cannot_start_says_why_and_ends_with_1(tmp_path: Path) -> None:
    ended = run("--tls-cert", "/none", "--tls-key", "/none", "--image", "i")
    assert (ended.returncode, json.loads(ended.stderr)["error"]) == (1, "/none: No such file or directory")


def test_the_effective_settings_can_be_shown() -> None:
    ended = run("--check-config", "--image", "i", HEADGATE_TLS_CERT="c", HEADGATE_TLS_KEY="k")
    shown = json.loads(ended.stdout)
    assert list(shown) == [knob.name for knob in knobs(WebhookSettings)]
    assert (shown["listen"], shown["cpu"], shown["sidecar"], shown["tls_cert"]) == ("0.0.0.0:9443", "250m", "auto", "c")


def test_a_self_made_certificate_is_a_secret() -> None:
    ended = run("--bootstrap-certs", "--namespace", "gates", "--service", "hook")
    secret = yaml.safe_load(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (secret["kind"], secret["type"]) == ("Secret", "kubernetes.io/tls")
    assert secret["metadata"] == {"name": "hook-tls", "namespace": "gates"}
    root, leaf = (x509.load_pem_x509_certificate(base64.b64decode(secret["data"][n])) for n in ("ca.crt", "tls.crt"))
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hook.gates.svc"]


TABLE: dict[str, tuple[object, dict[str, object], tuple[str, ...]]] = {
    "--listen": (Listen("0.0.0.0", 9443), {"127.0.0.1:0": Listen("127.0.0.1", 0)}, ("x", "")),
    "--tls-cert": ("c", {"/a": "/a"}, ()),
    "--tls-key": ("k", {"/a": "/a"}, ()),
    "--image": ("i", {"ghcr.io/x/y@sha256:ab": "ghcr.io/x/y@sha256:ab"}, ("a b", "-x", "a\n")),
    "--image-pull-policy": ("", {"Always": "Always"}, ("always",)),
    "--cpu": ("250m", {"1": "1", "0.5": "0.5"}, ("", "0", "1Gi", "-1", "1e3")),
    "--sidecar": ("auto", {"native": "native"}, ("", "Native")),
    "--drain-delay": (5.0, {"0": 0.0}, ("5",)),
    "--log-level": ("info", {"error": "error"}, ("loud",)),
    "--bootstrap-certs": (False, {"true": True}, ("yes",)),
    "--namespace": ("headgate-system", {"a": "a"}, ("", "A", "a.b", "-a", "a" * 64)),
    "--service": ("headgate-webhook", {"a-b": "a-b"}, ("", "a_b")),
}


@pytest.mark.parametrize("knob", knobs(WebhookSettings), ids=lambda knob: knob.flag)
def test_every_setting_has_its_default_and_its_range(knob: object) -> None:
    name, flag = knob.name, knob.flag  # type: ignore[attr-defined]
    default, good, bad = TABLE[flag]
    assert getattr(resolve(NEEDED, {}), name) == default
    for text, value in good.items():
        assert getattr(resolve({**NEEDED, name: [text]}, {}), name) == value
    for text in bad:
        with pytest.raises(SettingsError) as told:
            resolve({**NEEDED, name: [text]}, {})
        assert flag in str(told.value)


def test_printing_a_certificate_needs_nothing_else() -> None:
    assert resolve({"bootstrap_certs": ["true"]}, {}).bootstrap_certs


def test_every_setting_of_the_webhook_is_documented() -> None:
    text = (ROOT / "k8s" / "README.md").read_text()
    for knob in knobs(WebhookSettings):
        assert f"| `{knob.flag}` |" in text


def own_certificate(folder: Path) -> trustme.LeafCert:
    """A certificate for 127.0.0.1; its root and a token stand where a pod finds those for its API server."""
    root = trustme.CA()
    root.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text("secret\n")
    return root.issue_cert("127.0.0.1")


@asynccontextmanager
async def api_server(folder: Path, status: int, version: object) -> AsyncIterator[Mapping[str, str]]:
    """An API server that knows its version, and the variables that lead a pod there."""

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        return web.json_response(version, status=status)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own_certificate(folder).configure_cert(context)
    app = web.Application()
    app.router.add_get("/version", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        port = runner.addresses[0][1]
        yield {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("major", "minor", "native"),
    [("1", "28", False), ("1", "29", True), ("1", "29+", True), ("1", "34", True), ("2", "0", True)],
)
async def test_native_sidecars_are_there_from_1_29(tmp_path: Path, major: str, minor: str, *, native: bool) -> None:
    async with api_server(tmp_path, 200, {"major": major, "minor": minor}) as env:
        assert await has_native_sidecars(env, tmp_path) is native


async def test_a_version_that_cannot_be_learned_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="this is no pod"):
        await has_native_sidecars({})
    with pytest.raises(ClusterError, match="No such file"):
        await has_native_sidecars({"KUBERNETES_SERVICE_HOST": "::1"}, tmp_path)
    async with api_server(tmp_path, 403, {}) as env:
        with pytest.raises(ClusterError, match="403"):
            await has_native_sidecars(env, tmp_path)
        own_certificate(tmp_path)  # another root
        with pytest.raises(ClusterError, match=r"[Cc]ertificate"):
            await has_native_sidecars(env, tmp_path)
    async with api_server(tmp_path, 200, {"major": "", "minor": "x"}) as env:
        with pytest.raises(ClusterError, match="version is"):
            await has_native_sidecars(env, tmp_path)
