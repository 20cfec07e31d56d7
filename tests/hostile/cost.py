"""What attacks cost: CPU of the agent's process for each byte that was sent, and memory while the connections stand.

Envoy's rule: nothing may take a hundred times the CPU that its client spends, or the memory that is configured. A
client that sends small honest requests is the measure of CPU: an attack should not be dearer a byte than they are.
Figures only; they depend on the machine and on who shares it.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tests.bench import peers
from tests.bench.process import Child, Command, Cores, accepts, poll_until
from tests.hostile.http1 import CHUNKED, GET
from tests.hostile.recorder import Recorder
from tests.net.http2_peers import HELLO, PREFACE
from tests.sockets import IncompleteError, Peer, dial
from tests.wire import frames_by_hand as raw
from tests.wire.test_http2_floods import FLOODS

MIB = 1 << 20
QUIET_S = 0.25
FREE = raw.request()


class Attack(NamedTuple):
    """`data` on each of `connections`, which are left open for a moment."""

    name: str
    data: bytes
    connections: int


def streams(part: bytes, count: int = 1000) -> bytes:
    return b"".join(raw.headers(number, FREE + part, end=True) for number in range(1, 2 * count, 2))


def flood(name: str, rounds: int) -> bytes:
    source: Iterator[bytes] = FLOODS[name][0]()
    return HELLO + b"".join(islice(source, rounds))


SHUT = PREFACE + raw.settings((raw.INITIAL_WINDOW_SIZE, 0))
CRUMB = raw.indexing(b"c", b"x" * 400)
ATTACKS = [
    Attack("small honest requests", (GET + b"\r\n") * 1_000, 20),
    Attack("empty lines", b"\r\n" * 32_000, 100),
    Attack("fields without end", GET + b"a:\r\n" * 16_000, 100),
    Attack("a line without end", GET + b"X: " + b"y" * 64_000, 100),
    Attack("names that Connection nominates", GET + b"Connection: " + b"a," * 30_000 + b"\r\n\r\n", 50),
    Attack("1-byte chunks", CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", 10),
    Attack("1-byte chunks with extensions", CHUNKED + b"1;abc\r\nx\r\n" * 1_200 + b"0\r\n\r\n", 50),
    Attack("rapid reset", flood("rapid reset", 2000), 10),
    Attack("made you reset", flood("window_update beyond", 2000), 10),
    Attack("PING", flood("ping", 4000), 50),
    Attack("SETTINGS", flood("settings", 4000), 50),
    Attack("empty DATA", flood("empty data", 4000), 50),
    Attack("windows of 1,000 streams", SHUT + streams(b"") + raw.settings(*[(4, 70_000)] * 2700), 5),
    Attack(
        "CONTINUATION", HELLO + raw.headers(1, b"", flags=0) + raw.continuation(1, b"a" * 90, last=False) * 500, 100
    ),
    Attack("cookie crumbs", HELLO + streams(raw.indexing(b"cookie", b"") + raw.reference(62) * 1_800, 100), 5),
    Attack("literals of HPACK", HELLO + streams(raw.literal(b"a", b"b") * 3_000, 40), 10),
    Attack(
        "HEADERS on a reset stream", HELLO + raw.headers(1, raw.literal(b"A", b"b")) + raw.headers(1, FREE) * 3_000, 10
    ),
    Attack("1,000 shut streams", SHUT + streams(b""), 10),
    Attack("1,000 shut streams of crumbs", SHUT + streams(CRUMB + raw.reference(62) * 15), 5),
    Attack("1,000 shut streams of bombs", SHUT + streams(CRUMB + raw.reference(62) * 100), 5),
]


def _command(ports: peers.Ports, directory: Path) -> Command:
    """The agent, with an upstream that speaks as its client does."""
    plain = peers.agent().command(ports, directory)
    return Command([part.replace("=http://", "=auto://") for part in plain.argv], plain.env)


AGENT = peers.Peer("agent", "", _command)


async def send(port: int, data: bytes) -> tuple[Peer, int]:
    """Send it, reading meanwhile, until nothing moves. Returns the connection and how many bytes were taken."""
    client = await dial("127.0.0.1", port)
    sent = 0
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, IncompleteError, TimeoutError):
        while sent < len(data):
            try:
                sent += client.sock.send(data[sent : sent + 65_536])
            except BlockingIOError:
                async with asyncio.timeout(QUIET_S):
                    await loop.sock_sendall(client.sock, data[sent : sent + 1])
                sent += 1
        while True:
            async with asyncio.timeout(QUIET_S):
                await client.more()
    return client, sent


async def measure(attack: Attack, port: int, child: Child) -> tuple[int, float, float]:
    """Bytes sent, CPU seconds, and MiB that memory grew by while the connections stood."""
    cpu, rss = child.cpu_s(), child.rss_bytes()
    done = await asyncio.gather(*[send(port, attack.data) for _ in range(attack.connections)])
    before = -1.0
    while before != child.cpu_s():  # the predictor shares this loop and takes its time
        before = child.cpu_s()
        await asyncio.sleep(QUIET_S)
    spent, grown = child.cpu_s() - cpu, (child.rss_bytes() - rss) / MIB
    for client, _ in done:
        client.close()
    child.require_alive()
    await asyncio.sleep(QUIET_S)
    return sum(sent for _, sent in done), spent, grown


async def costs(only: str) -> int:
    """Print a line for each attack."""
    recorder = await Recorder().start()
    with tempfile.TemporaryDirectory() as name:
        proxy = peers.spawn(AGENT, recorder.port, Cores.split(), Path(name))
        with proxy.child as child:
            deadline = time.monotonic() + 10
            while not accepts(proxy.ports.data):
                poll_until(deadline, child)
            await measure(ATTACKS[0], proxy.ports.data, child)
            base = 0.0
            print(f"{'attack':34} {'KiB':>7} {'CPU ms':>7} {'us/byte':>8} {'of honest':>9} {'MiB':>6}")
            for attack in ATTACKS:
                if base and only not in attack.name:
                    continue
                sent, spent, grown = await measure(attack, proxy.ports.data, child)
                each = spent * 1e6 / sent
                base = base or each
                size, ms = sent / 1024, spent * 1e3
                print(
                    f"{attack.name:34} {size:7.0f} {ms:7.0f} {each:8.3f} {each / base:8.2f}x {grown:6.1f}", flush=True
                )
    recorder.close()
    return 0
