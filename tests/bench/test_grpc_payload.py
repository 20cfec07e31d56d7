"""The hand-written messages, read by generated code."""

import pytest

from protos import open_inference_pb2 as pb

from .grpc_payload import DOWNLOAD, MESSAGE, POUR, SMALL, UPLOAD, Call, framed
from .payload import TENSOR_BYTES


@pytest.mark.parametrize("call", [SMALL, UPLOAD, DOWNLOAD, MESSAGE], ids=lambda call: call.name)
def test_a_request_names_its_model_and_describes_its_tensor(call: Call) -> None:
    request = pb.ModelInferRequest.FromString(call.request)
    (tensor,), (raw,) = request.inputs, request.raw_input_contents
    assert (request.model_name, request.id) == (call.name, "42")
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [1, len(raw) // 4])


@pytest.mark.parametrize("call", [SMALL, UPLOAD, DOWNLOAD], ids=lambda call: call.name)
def test_an_answer_describes_its_tensor(call: Call) -> None:
    answer = pb.ModelInferResponse.FromString(call.answer)
    (tensor,), (raw,) = answer.outputs, answer.raw_output_contents
    assert (answer.model_name, answer.id) == (call.name, "42")
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("y", "FP32", [1, len(raw) // 4])


def test_the_large_tensors_have_the_size_of_those_over_http() -> None:
    assert len(pb.ModelInferRequest.FromString(UPLOAD.request).raw_input_contents[0]) == TENSOR_BYTES
    assert len(pb.ModelInferResponse.FromString(DOWNLOAD.answer).raw_output_contents[0]) == TENSOR_BYTES


def test_the_answer_of_a_stream_is_wrapped() -> None:
    assert pb.ModelStreamInferResponse.FromString(MESSAGE.answer).infer_response.model_name == MESSAGE.name


def test_what_a_long_stream_repeats_is_a_whole_message_of_a_round_size() -> None:
    assert len(framed(POUR.request)) == TENSOR_BYTES
    assert pb.ModelInferRequest.FromString(POUR.request).model_name == POUR.name
