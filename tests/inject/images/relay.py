"""Stands in for programs that pass on what they are sent: KServe's agent, llm-d's routing sidecar, queue-proxy.

The first two are told their ports by flags, and the routing sidecar that it speaks TLS on both sides; queue-proxy is
told by QUEUE_SERVING_PORT and USER_PORT, and it answers the kubelet's probe only while every probe of
SERVING_READINESS_PROBE succeeds, as Knative's does.
"""

import argparse
import asyncio
import json
import os
import ssl
from typing import Any

HOST = "127.0.0.1"


async def serve(listen: int, target: int, probes: list[dict[str, Any]], certificates: str = "") -> None:
    ours = theirs = None
    if certificates:
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(f"{certificates}/tls.crt", f"{certificates}/tls.key")
        theirs = ssl._create_unverified_context()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1 << 16)
        if b"k-network-probe" in first.lower():
            # Knative's agent and queue-proxy both answer their own probe.
            ready = all([await succeeds(probe) for probe in probes])
            status = b"200 OK" if ready else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif first:
            try:
                back, forth = await asyncio.open_connection(HOST, target, ssl=theirs)
            except OSError:
                pass
            else:
                forth.write(first)
                await asyncio.gather(pass_on(reader, forth), pass_on(back, writer))
        writer.close()

    server = await asyncio.start_server(relay, HOST, listen, ssl=ours)
    await server.serve_forever()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def succeeds(probe: dict[str, Any]) -> bool:
    action = probe.get("httpGet") or probe.get("tcpSocket") or probe["grpc"]
    try:
        reader, writer = await asyncio.open_connection(HOST, action["port"])
        if "httpGet" not in probe:
            writer.close()
            return True
        writer.write(f"GET {action['path']} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(1 << 16)
        writer.close()
    except OSError:
        return False
    return answer.split(b" ")[1] == b"200"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=9081)
    parser.add_argument("--component-port", "--vllm-port", type=int)
    parser.add_argument("--secure-proxy", choices=["true", "false"], default="false")
    parser.add_argument("--cert-path", default="")
    arguments, _ = parser.parse_known_args()
    if "USER_PORT" not in os.environ:
        certificates = arguments.cert_path if arguments.secure_proxy == "true" else ""
        asyncio.run(serve(arguments.port, arguments.component_port, [], certificates))
        return
    known = json.loads(os.environ["SERVING_READINESS_PROBE"])
    several = os.environ["ENABLE_MULTI_CONTAINER_PROBES"] == "true"
    assert isinstance(known, list) == several, "an array of probes goes with ENABLE_MULTI_CONTAINER_PROBES"
    probes = known if several else [known]
    asyncio.run(serve(int(os.environ["QUEUE_SERVING_PORT"]), int(os.environ["USER_PORT"]), probes))


if __name__ == "__main__":
    main()
