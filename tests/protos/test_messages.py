"""The messages against tritonclient's as an independent definition, beside it in one process, and on the wire."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as oracle
from tritonclient.grpc import service_pb2_grpc as oracle_grpc

from protos import (
    external_scaler_pb2,
    health_pb2,
    health_pb2_grpc,
    open_inference_pb2,
    open_inference_pb2_grpc,
    orca_load_report_pb2,
    stat_pb2,
)
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


# Field numbers and types as the public definitions have them: KEDA's externalscaler.proto, Knative's stat.proto, and
# xds/data/orca/v3/orca_load_report.proto.
PUBLIC: dict[str, tuple[Any, dict[str, tuple[int, str]]]] = {
    "externalscaler.ScaledObjectRef": (
        external_scaler_pb2.ScaledObjectRef,
        {"name": (1, "string"), "namespace": (2, "string"), "scalerMetadata": (3, "map")},
    ),
    "externalscaler.IsActiveResponse": (external_scaler_pb2.IsActiveResponse, {"result": (1, "bool")}),
    "externalscaler.GetMetricSpecResponse": (
        external_scaler_pb2.GetMetricSpecResponse,
        {"metricSpecs": (1, "messages")},
    ),
    "externalscaler.MetricSpec": (
        external_scaler_pb2.MetricSpec,
        {"metricName": (1, "string"), "targetSize": (2, "int64"), "targetSizeFloat": (3, "double")},
    ),
    "externalscaler.GetMetricsRequest": (
        external_scaler_pb2.GetMetricsRequest,
        {"scaledObjectRef": (1, "message"), "metricName": (2, "string")},
    ),
    "externalscaler.GetMetricsResponse": (external_scaler_pb2.GetMetricsResponse, {"metricValues": (1, "messages")}),
    "externalscaler.MetricValue": (
        external_scaler_pb2.MetricValue,
        {"metricName": (1, "string"), "metricValue": (2, "int64"), "metricValueFloat": (3, "double")},
    ),
    "metrics.Stat": (
        stat_pb2.Stat,
        {
            "pod_name": (1, "string"),
            "average_concurrent_requests": (2, "double"),
            "average_proxied_concurrent_requests": (3, "double"),
            "request_count": (4, "double"),
            "proxied_request_count": (5, "double"),
            "process_uptime": (6, "double"),
            "timestamp": (7, "int64"),
        },
    ),
    "xds.data.orca.v3.OrcaLoadReport": (
        orca_load_report_pb2.OrcaLoadReport,
        {
            "cpu_utilization": (1, "double"),
            "mem_utilization": (2, "double"),
            "rps": (3, "uint64"),
            "request_cost": (4, "map"),
            "utilization": (5, "map"),
            "rps_fractional": (6, "double"),
            "eps": (7, "double"),
            "named_metrics": (8, "map"),
            "application_utilization": (9, "double"),
        },
    ),
}
_TYPES = {1: "double", 3: "int64", 4: "uint64", 8: "bool", 9: "string", 11: "message"}


def type_of(field: Any) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "map"
    return _TYPES[field.type] + "s" * field.is_repeated


@pytest.mark.parametrize("name", PUBLIC)
def test_a_message_of_the_scalers_is_the_public_one(name: str) -> None:
    message, expected = PUBLIC[name]
    assert message.DESCRIPTOR.full_name == name
    assert {field.name: (field.number, type_of(field)) for field in message.DESCRIPTOR.fields} == expected


def test_the_scalers_methods_are_the_public_ones() -> None:
    methods = external_scaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"].methods
    assert [(method.full_name.rpartition(".")[2], method.server_streaming) for method in methods] == [
        ("IsActive", False),
        ("StreamIsActive", True),
        ("GetMetricSpec", False),
        ("GetMetrics", False),
    ]
    assert external_scaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"].full_name == (
        "externalscaler.ExternalScaler"
    )


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
