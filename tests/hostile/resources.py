"""What clients write into metrics, logs and headers of control, and what the admin port takes."""

import contextlib
import json
from dataclasses import dataclass
from functools import partial
from itertools import islice

from prometheus_client.parser import text_string_to_metric_families

from agent.net.drain import Stage
from agent.net.guests import MOST
from agent.observe.accesslog import AccessLog, Mode
from agent.observe.hooks import Hooks
from tests.hostile.case import TAIL, Case, Class, Play, deliver
from tests.hostile.http1_plays import INFER, hold
from tests.hostile.http2 import CONNECTION
from tests.hostile.http2_case import converse
from tests.hostile.recorder import OK
from tests.hostile.site import Site, listen
from tests.net.http2_peers import HELLO, FrameReader, grpc_head, infer
from tests.sockets import IncompleteError, Peer, dial, eventually
from tests.wire import frames_by_hand as raw
from tests.wire.test_http1_refusals import BODIES, CHUNKED, HEADS
from tests.wire.test_http2_floods import FLOODS

NASTY = (b"\r\nforged: 1", b"\x1b[2J", b'"} 1\nheadgate_up 1', b"\\", b"\xff\xfe", b"<script>", "ш\u2028".encode())


async def page(site: Site, path: str) -> str:
    return (await site.bed.page(path.encode())).decode()


async def models(site: Site) -> None:
    """3,000 models, methods and paths that clients invent: 100 become labels, and the page stays small."""
    before = len(await page(site, "/metrics"))
    methods = (b"POST", *b"PUT DELETE PATCH TRACE QUERY PURGE M-SEARCH PROPFIND".split())
    for first in range(0, 3000, 50):
        client = await site.client()
        requests = [
            b"%b /v2/models/m%d/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % (method, number)
            for number in range(first, first + 50)
            for method in (methods if not number % 50 else methods[:1])
        ]
        await client.send(b"".join(requests) + TAIL)
        await listen(client)
        client.close()
    await site.settle()
    text = await page(site, "/metrics")
    seen = {
        sample.labels["model"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "model" in sample.labels
    }
    assert 50 < len(seen) <= 101
    assert "_other" in seen
    # Gauges, integrals and histograms of a hundred models.
    assert len(text) - before < 1_000_000
    assert len(json.loads(await page(site, "/debug/state"))["models"]) <= 101


async def injected(site: Site) -> None:
    """Names, paths and metadata with line ends, escapes and quotes: logs and pages stay what they are."""
    lines: list[str] = []
    log = AccessLog(Mode.ALL, lines.append, 0.0)
    bed = site.bed
    bed.gate.hooks = Hooks([bed.server.counters, bed._endings, log], bed.errors.append)
    for stream, name in enumerate(NASTY):
        call = raw.headers(1, raw.block(grpc_head())) + raw.data(1, infer(model=b"m%d" % stream + name), end=True)
        assert (await converse(site, call, 1)).status(1) == 200
    paths = [
        b"/v2/models/a%0d%0aforged:%201/infer",
        b'/v2/models/"}/infer',
        b"/v2/models/<script>/infer",
        b"/'\\%1b[2J",
    ]
    client = await site.client()
    for path in paths:
        await client.send(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nX: \x80\xff\r\nContent-Length: 0\r\n\r\n")
    await listen(client, count=len(paths))
    client.close()
    await site.settle()
    assert len(lines) == len(NASTY) + len(paths)
    for line in lines:
        assert line.endswith("}\n")
        assert line[:-1].isascii()
        assert line[:-1].isprintable()
        json.loads(line)
    for metrics in (await page(site, "/metrics"), await page(site, "/.headgate/load")):
        assert "\nheadgate_up 1" not in metrics
        assert not any(character in metrics for character in "\r\x1b\0")
    list(text_string_to_metric_families(await page(site, "/metrics")))
    json.loads(await page(site, "/debug/state"))
    bed.gate.hooks = Hooks([bed.server.counters, bed._endings], bed.errors.append)


SPOOFED = (
    b"K-Network-Probe: queue",
    b"K-Kubelet-Probe: queue",
    b"User-Agent: kube-probe/1.31",
    b"X-Forwarded-For: 127.0.0.1",
    b"X-Forwarded-Host: evil",
    b"X-Original-URL: /v2/health/ready",
    b"X-HTTP-Method-Override: GET",
    b"grpc-previous-rpc-attempts: 99999999999999999999",
    b"x-envoy-attempt-count: -1",
    b"x-envoy-expected-rq-timeout-ms: 99999999999999999999",
    b"x-headgate-reason: served",
    b"endpoint-load-metrics: JSON {}",
    b"endpoint-load-metrics-format: JSON",
    b"Upgrade: h2c",
)


async def spoofed(site: Site) -> None:
    """No field of a request gets it past the queue, and what it says of itself goes on as it is."""
    site.recorder.answer = hold
    first = await site.client()
    await first.send(INFER + b"Content-Length: 0\r\n\r\n")
    await eventually(lambda: site.recorder.requests)
    running = site.recorder.busy()
    for field in SPOOFED:
        client = await site.client()
        await client.send(INFER + field + b"\r\nContent-Length: 0\r\n\r\n")
        heard = await listen(client, count=1)
        assert heard.statuses == [503], field
        client.close()
    running.write(OK)
    await listen(first, count=1)
    first.close()
    await site.check()
    for field in SPOOFED[:-1]:
        client = await site.client()
        await client.send(INFER + field + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert (await listen(client)).statuses == [200]
        client.close()
        assert site.recorder.requests[-1].head == INFER + field + b"\r\nContent-Length: 0\r\n\r\n"


async def admin(site: Site) -> Peer:
    host, _, port = site.bed.server.admin_address.rpartition(":")
    return await dial(host, int(port))


@dataclass(frozen=True, slots=True)
class AdminRefused(Case):
    """The admin port is aiohttp's: what it makes of broken syntax is an error or an end, and nothing changes.

    Where it `is_lenient` it may answer with a page and go on, one answer a request; nobody stands behind it who could
    read the same bytes in another way.
    """

    name: str
    data: bytes
    is_lenient: bool

    async def play(self, site: Site) -> None:
        client = await admin(site)
        data = self.data.replace(b" / HTTP", b" /metrics HTTP", 1)
        await deliver(client, [data + TAIL.replace(b"/tail", b"/healthz")])
        heard = await _all(client)
        assert heard.count(b"HTTP/1.1 ") <= 1 + self.is_lenient, heard
        assert self.is_lenient or b"HTTP/1.1 200" not in heard, heard
        await unchanged(site)


async def _all(client: Peer) -> bytes:
    await client.ended()
    client.close()
    return bytes(client.received)


async def unchanged(site: Site) -> None:
    assert site.bed.server.drain.stage is Stage.SERVING
    assert json.loads(await page(site, "/debug/state"))["state"] == Stage.SERVING.value


PAGES = ("/metrics", "/healthz", "/readyz", "/wait-for-drain", "/status", "/status/events", "/debug/state")


async def only_get(site: Site) -> None:
    """Every page, by every other method: 405, and least of all a drain."""
    for path in (*PAGES, "/.headgate/load", "/"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            client = await admin(site)
            await client.send(
                f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".encode()
            )
            assert (await listen(client)).statuses == [404 if path == "/" else 405], (method, path)
            client.close()
    client = await admin(site)
    await client.send(b"HEAD /wait-for-drain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await listen(client, b"HEAD")).statuses == [405]
    client.close()
    await unchanged(site)


async def big(site: Site, head: bytes) -> None:
    """Heads beyond any use are refused without being kept."""
    client = await admin(site)
    await deliver(client, [b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + head])
    heard = await _all(client)
    assert b"HTTP/1.1 2" not in heard
    await unchanged(site)


@dataclass(frozen=True, slots=True)
class AdminBroken(Case):
    """Health over HTTP/2 is served by the data plane's own machine: a broken connection ends, and nothing changes."""

    name: str
    data: bytes

    async def play(self, site: Site) -> None:
        reader = FrameReader(await admin(site))
        with contextlib.suppress(ConnectionError):
            await reader.peer.send(HELLO + self.data)
        with contextlib.suppress(IncompleteError):
            while True:
                await reader.next()
        reader.peer.close()
        [goaway] = [frame for frame in reader.seen if frame.kind == raw.GOAWAY]
        assert goaway.number != raw.NO_ERROR
        await unchanged(site)


async def never_read(site: Site) -> None:
    """Questions without end, and nobody who reads the answers: cut off, with little held."""
    host, _, port = site.bed.server.admin_address.rpartition(":")
    client = await dial(host, int(port), kernel_buffer=4096)
    call = raw.block(grpc_head())
    await client.send(HELLO)
    first = 1
    with contextlib.suppress(ConnectionError):
        while first < 1_000_000:
            await client.send(b"".join(raw.headers(n, call, end=True) for n in range(first, first + 2_000, 2)))
            first += 2_000
    assert first < 1_000_000
    client.close()
    await unchanged(site)


async def crowd(site: Site, data: bytes) -> None:
    """More connections than the port has room for, all of them held: those who ask are answered all the same."""
    held = []
    for _ in range(2 * MOST):
        client = await admin(site)
        held.append(client)
        with contextlib.suppress(ConnectionError):
            await client.send(data)
    await eventually(lambda: len(site.bed.server.guests) <= MOST)
    await unchanged(site)
    for client in held:
        client.close()


# llhttp skips surplus spaces in the request line, and CR and LF before it; aiohttp routes by the path alone, goes on
# after 404 and 417, and takes 16 digits for a size.
LENIENT = frozenset(
    {
        "16 digits",
        "CONNECT",
        "CONNECT to a path",
        "Host with another authority in the target",
        "Host with another port in the target",
        "a fragment",
        "an unknown expectation without a body",
        "another scheme",
        "two spaces before the version",
        "user information in the target",
        "two spaces after the method",
        "a bare LF before the request line",
        "a bare CR before the request line",
        "CR CR LF before the request line",
        "LF CR before the request line",
        "nine empty lines before the request line",
        "a flood of empty lines",
    }
)

# Those that need no request before them.
FRAMES = ("HPACK that means nothing", "windows of the connection", "CONTINUATION flood")
FLOODED = ("settings", "ping", "unknown frames", "rapid reset", "malformed")

CLASSES = [
    Class("names that become labels", "unbounded cardinality", [Play("3,000 models", models)]),
    Class("lines of the log and of pages", "CWE-117, CWE-79", [Play("control characters and quotes", injected)]),
    Class(
        "fields of control that clients invent",
        "X-Forwarded-*, K-Network-Probe, grpc-previous-rpc-attempts",
        [Play("past the queue", spoofed)],
        {"limit": "1", "queue": "0"},
    ),
    Class(
        "the admin port",
        "the syntax group once more",
        [
            *[AdminRefused(name, data, name in LENIENT) for name, (data, _) in HEADS.items()],
            *[AdminRefused(name, CHUNKED + data, name in LENIENT) for name, (data, _) in BODIES.items()],
            *[
                AdminBroken(f"{group}: {name}", data)
                for group in FRAMES
                for name, (data, _) in CONNECTION[group].items()
            ],
            *[AdminBroken(f"a flood: {name}", b"".join(islice(FLOODS[name][0](), 4000))) for name in FLOODED],
            Play("answers that nobody reads", never_read),
            Play("other methods", only_get),
            Play("a line that does not end", partial(big, head=b"X: " + b"y" * 2_000_000)),
            Play("connections that say nothing", partial(crowd, data=b"")),
            Play("heads that do not end", partial(crowd, data=b"GET /metrics HTTP/1.1\r\nX: ")),
            Play("pages that nobody reads", partial(crowd, data=b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50)),
            Play("many fields", partial(big, head=b"x: y\r\n" * 200_000)),
        ],
    ),
]
