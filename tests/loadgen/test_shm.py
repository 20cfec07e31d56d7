"""Shared memory: what is registered holds every tensor where its request says, and nothing stays behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from loadgen.bodies import raw
from loadgen.payload import Tensor, Values
from loadgen.shm import Regions, SharedMemoryError, grpc_message, grpc_shared, json_shared
from tests.loadgen.test_settings import problems_of

ENTRIES: list[Values] = [
    [(Tensor("a", "FP32", (2,)), [number, 0.5]), (Tensor("b", "BYTES", (1,)), ["x" * number])] for number in range(3)
]


async def test_a_region_holds_every_tensor_and_is_given_back() -> None:
    seen: list[tuple[str, dict[str, Any], bytes]] = []

    async def ask(action: str, told: dict[str, Any]) -> str:
        seen.append((action, told, (Path("/dev/shm") / told["name"]).read_bytes() if action == "register" else b""))
        return ""

    regions = Regions()
    places = await regions.hold(ENTRIES, ask)
    (_, told, data) = seen[0]
    assert (told["key"], told["byte_size"]) == (f"/{told['name']}", len(data))
    for number, (values, one) in enumerate(zip(ENTRIES, places, strict=True)):
        asked = json.loads(json_shared(one, number))
        message = service_pb2.ModelInferRequest.FromString(grpc_shared("m", "", one, number, is_stream=False))
        for (tensor, elements), ours, theirs in zip(values, asked["inputs"], message.inputs, strict=True):
            where = ours["parameters"]
            assert where["shared_memory_region"] == theirs.parameters["shared_memory_region"].string_param
            at, size = where["shared_memory_offset"], where["shared_memory_byte_size"]
            assert (at, size) == (
                theirs.parameters["shared_memory_offset"].int64_param,
                theirs.parameters["shared_memory_byte_size"].int64_param,
            )
            assert data[at : at + size] == raw(tensor, elements)
            assert (ours["name"], ours["shape"], "data" in ours) == (tensor.name, list(tensor.shape), False)
    assert not (Path("/dev/shm") / told["name"]).exists()
    await regions.release()
    await regions.release()
    assert [(action, told["name"]) for action, told, _ in seen] == [
        ("register", told["name"]),
        ("unregister", told["name"]),
    ]


async def test_a_refusal_leaves_nothing_behind() -> None:
    names = []

    async def ask(_: str, told: dict[str, Any]) -> str:
        names.append(told["name"])
        return "no"

    regions = Regions()
    with pytest.raises(SharedMemoryError, match="no"):
        await regions.hold(ENTRIES, ask)
    await regions.release()
    assert len(names) == 1
    assert not (Path("/dev/shm") / names[0]).exists()


def test_tritonclient_reads_the_registration() -> None:
    told = {"name": "n", "key": "/n", "offset": 0, "byte_size": 70_000}
    read = service_pb2.SystemSharedMemoryRegisterRequest.FromString(grpc_message(told)[5:])
    assert (read.name, read.key, read.offset, read.byte_size) == ("n", "/n", 0, 70_000)


def test_only_v2_has_tensors_to_share() -> None:
    assert problems_of(shm="system", protocol="v1") == ["--shm system: only with V2, not v1"]
