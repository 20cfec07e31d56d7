"""The messages against tritonclient's as an independent definition, beside it in one process, and on the wire."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as oracle
from tritonclient.grpc import service_pb2_grpc as oracle_grpc

from protos import health_pb2, health_pb2_grpc, open_inference_pb2, open_inference_pb2_grpc
from protos.generate import ROOT
from protos.open_inference_pb2 import InferParameter, ModelInferRequest

MESSAGES = open_inference_pb2.DESCRIPTOR.message_types_by_name
METHODS = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name


def fields(message: Any) -> Iterator[tuple[object, ...]]:
    """Everything that decides how a message is written, nested ones included, in the order of field numbers."""
    for field in sorted(message.fields, key=lambda field: field.number):
        one_of = field.containing_oneof and field.containing_oneof.name
        inner = field.message_type and field.message_type.full_name
        yield message.full_name, field.name, field.number, field.type, field.is_repeated, one_of, inner
    for nested in message.nested_types:
        yield from fields(nested)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_written_as_tritons(name: str) -> None:
    theirs = oracle.DESCRIPTOR.message_types_by_name[name]
    assert list(fields(MESSAGES[name])) == list(fields(theirs))


def shape(method: Any) -> tuple[object, ...]:
    return (
        method.full_name,
        method.input_type.full_name,
        method.client_streaming,
        method.output_type.full_name,
        method.server_streaming,
    )


def test_the_methods_are_tritons() -> None:
    theirs = oracle.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert [shape(method) for method in METHODS.values()] == [shape(theirs[name]) for name in METHODS]
    assert list(METHODS) == [
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer",
    ]  # fmt: skip


def test_stubs_call_the_public_paths() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        ours = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        theirs = oracle_grpc.GRPCInferenceServiceStub(channel)
        for name in METHODS:
            assert getattr(ours, name)._method == getattr(theirs, name)._method
        assert getattr(ours, "ModelInfer")._method == b"/inference.GRPCInferenceService/ModelInfer"  # noqa: B009
        health = health_pb2_grpc.HealthStub(channel)
        assert (health.Check._method, health.Watch._method) == (
            b"/grpc.health.v1.Health/Check",
            b"/grpc.health.v1.Health/Watch",
        )


def test_both_sides_read_each_other() -> None:
    ours = ModelInferRequest(
        model_name="m",
        id="7",
        parameters={"priority": InferParameter(uint64_param=1), "x": InferParameter(double_param=0.5)},
        raw_input_contents=[b"\0\0\x80?"],
    )
    ours.inputs.add(name="i", datatype="FP32", shape=[-1, 1]).contents.fp32_contents.append(2.0)
    theirs = oracle.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, theirs.id, theirs.parameters["priority"].uint64_param) == ("m", "7", 1)
    assert (list(theirs.inputs[0].shape), list(theirs.inputs[0].contents.fp32_contents)) == ([-1, 1], [2.0])
    assert ModelInferRequest.FromString(theirs.SerializeToString()) == ours


def test_the_health_messages_have_their_public_bytes() -> None:
    assert health_pb2.HealthCheckRequest(service="a").SerializeToString() == b"\n\x01a"
    states = health_pb2.HealthCheckResponse
    names = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
    assert [states(status=name).SerializeToString() for name in names] == [b"", b"\x08\1", b"\x08\2", b"\x08\3"]
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == "grpc.health.v1.Health"


def test_all_files_share_one_pool_of_their_own() -> None:
    assert health_pb2.DESCRIPTOR.pool is open_inference_pb2.DESCRIPTOR.pool
    assert health_pb2.DESCRIPTOR.pool is not oracle.DESCRIPTOR.pool


OURS = "from protos import health_pb2, health_pb2_grpc, open_inference_pb2, open_inference_pb2_grpc"
THEIRS = "import tritonclient.grpc, tritonclient.grpc.aio"


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_other_definitions_of_the_same_names_live_in_the_same_process(order: tuple[str, str]) -> None:
    code = f"{order[0]}; {order[1]}; print(open_inference_pb2.ServerLiveRequest.DESCRIPTOR.full_name)"
    command = [sys.executable, "-W", "error", "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("inference.ServerLiveRequest\n", "")
