"""Sums of V2 tensors, typed and raw, against what tritonclient encodes from numpy arrays."""

import math
import struct
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from tritonclient.grpc import InferInput

from agent.demo.tensors import TensorError, total
from protos.open_inference_pb2 import InferTensorContents, ModelInferRequest


def raw(*tensors: tuple[str, list[int], bytes]) -> ModelInferRequest:
    request = ModelInferRequest(raw_input_contents=[data for _, _, data in tensors])
    for name, shape, _ in tensors:
        request.inputs.add(name="i", datatype=name, shape=shape)
    return request


def typed(datatype: str, shape: list[int], **contents: object) -> ModelInferRequest:
    request = ModelInferRequest()
    request.inputs.add(name="i", datatype=datatype, shape=shape, contents=InferTensorContents(**contents))  # type: ignore[arg-type]
    return request


NUMBERS = {
    "BOOL": (np.bool_, [True, False, True], 2.0),
    "INT8": (np.int8, [-128, 127, 3], 2.0),
    "INT16": (np.int16, [-300, 299, 3], 2.0),
    "INT32": (np.int32, [-(2**31), 2**31 - 1, 3], 2.0),
    "INT64": (np.int64, [-(2**40), 2**40, 3], 3.0),
    "UINT8": (np.uint8, [255, 1], 256.0),
    "UINT16": (np.uint16, [65535, 1], 65536.0),
    "UINT32": (np.uint32, [2**32 - 1, 1], 2.0**32),
    "UINT64": (np.uint64, [2**63, 2**63], 2.0**64),
    "FP16": (np.float16, [0.5, -2.0], -1.5),
    "BF16": (ml_dtypes.bfloat16, [1.5, -4.0], -2.5),
    "FP32": (np.float32, [0.5, 1e10, -1e10], 0.5),
    "FP64": (np.float64, [0.25, 2.0], 2.25),
    "BYTES": (np.object_, [b"", b"abc", "dé".encode()], 6.0),
}


@pytest.mark.parametrize("datatype", NUMBERS)
def test_raw_contents_are_read_as_tritonclient_writes_them(datatype: str) -> None:
    kind, numbers, expected = NUMBERS[datatype]
    tensor = InferInput("i", [1, len(numbers)], datatype)
    tensor.set_data_from_numpy(np.array([numbers], dtype=kind))
    assert total(raw((datatype, [1, len(numbers)], tensor._get_content()))) == expected


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        ("BOOL", "bool_contents"),
        ("INT8", "int_contents"),
        ("INT16", "int_contents"),
        ("INT32", "int_contents"),
        ("INT64", "int64_contents"),
        ("UINT8", "uint_contents"),
        ("UINT16", "uint_contents"),
        ("UINT32", "uint_contents"),
        ("UINT64", "uint64_contents"),
        ("FP32", "fp32_contents"),
        ("FP64", "fp64_contents"),
        ("BYTES", "bytes_contents"),
    ],
)
def test_typed_contents_are_read_from_their_field_alone(datatype: str, field: str) -> None:
    _, numbers, expected = NUMBERS[datatype]
    assert total(typed(datatype, [len(numbers)], **{field: numbers})) == expected
    other = "fp64_contents" if field != "fp64_contents" else "fp32_contents"
    with pytest.raises(TensorError, match=f"{datatype} belongs into {field} alone"):
        total(typed(datatype, [1], **{other: [1]}))


def test_several_inputs_make_one_sum() -> None:
    two = raw(("FP32", [2], struct.pack("<2f", 1, 2)), ("INT64", [], struct.pack("<q", 4)), ("BYTES", [0], b""))
    assert total(two) == 7.0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_fp32_knows_are_sums_too(value: float) -> None:
    assert total(typed("FP64", [2], fp64_contents=[value, 1.0])) == pytest.approx(value, nan_ok=True)


def both_contents() -> ModelInferRequest:
    request = typed("FP32", [1], fp32_contents=[1.0])
    request.raw_input_contents.append(b"1234")
    return request


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (ModelInferRequest, "a V2 inference request needs inputs"),
        (lambda: typed("FP31", [1], fp32_contents=[1.0]), "i: no datatype 'FP31'"),
        (lambda: typed("FP32", [2], fp32_contents=[1.0]), "i: 1 elements for a shape of 2"),
        (lambda: typed("FP32", [-1, -1], fp32_contents=[1.0]), "i: a negative size in its shape"),
        (lambda: typed("FP16", [1]), "FP16 exists as raw contents only"),
        (lambda: typed("FP64", [1], fp64_contents=[1e39]), "the sum is no FP32 number"),
        (lambda: typed("FP64", [2], fp64_contents=[1e308, 1e308]), "the sum is no FP32 number"),
        (lambda: typed("FP64", [2], fp64_contents=[math.inf, -math.inf]), "the sum is no FP32 number"),
        (lambda: raw(("FP32", [2], b"1234")), "i: raw contents of a wrong size"),
        (lambda: raw(("FP32", [10**12], b"1234")), "i: raw contents of a wrong size"),
        (lambda: raw(("FP32", [1], b"12345")), "i: raw contents of a wrong size"),
        (lambda: raw(("BYTES", [1], b"\x02\0\0\0a")), "i: raw contents of a wrong size"),
        (lambda: raw(("BYTES", [1], b"\x02\0")), "i: raw contents of a wrong size"),
        (lambda: raw(("BYTES", [2], b"\x01\0\0\0a")), "i: 1 elements for a shape of 2"),
        (both_contents, "i: both raw and typed contents"),
    ],
)
def test_what_contradicts_itself_is_refused(make: Callable[[], ModelInferRequest], text: str) -> None:
    with pytest.raises(TensorError) as caught:
        total(make())
    assert str(caught.value) == text


def test_raw_contents_are_one_for_each_input() -> None:
    request = raw(("FP32", [1], b"1234"))
    request.raw_input_contents.append(b"1234")
    with pytest.raises(TensorError, match="2 raw contents for 1 inputs"):
        total(request)
