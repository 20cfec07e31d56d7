"""Bodies and requests, byte for byte, and how inputs are found."""

import json

import pytest

from loadgen.payload import (
    DATATYPES,
    MAX_ELEMENTS,
    POOL_BODIES,
    PayloadError,
    Tensor,
    encode_request,
    infer_bodies,
    model_path,
    pool_size,
    resolve_tensors,
)

LIMITS = {
    "BOOL": (False, True),
    "UINT8": (0, 255),
    "INT8": (0, 127),
    "UINT16": (0, 65535),
    "INT16": (0, 32767),
    "UINT32": (0, 65535),
    "INT32": (0, 65535),
    "UINT64": (0, 65535),
    "INT64": (0, 65535),
    "FP16": (0.0, 1.0),
    "FP32": (0.0, 1.0),
    "FP64": (0.0, 1.0),
}


def metadata(*inputs: tuple[str, str, list[int]]) -> dict[str, object]:
    return {"inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in inputs]}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_body_is_a_v2_request_with_values_of_its_type(datatype: str) -> None:
    tensor = Tensor("in", datatype, (2, 300))
    body = json.loads(infer_bodies([tensor], 1, seed=3)[0])
    assert body["id"] == "0"
    (entry,) = body["inputs"]
    assert (entry["name"], entry["datatype"], entry["shape"], len(entry["data"])) == ("in", datatype, [2, 300], 600)
    if datatype == "BYTES":
        assert all(isinstance(value, str) and len(value) == 16 for value in entry["data"])
        return
    low, high = LIMITS[datatype]
    assert all(type(value) is type(low) and low <= value <= high for value in entry["data"])
    assert len(set(entry["data"])) > 1


def test_bodies_differ_from_each_other_and_follow_the_seed() -> None:
    tensors = [Tensor("a", "FP32", (4,)), Tensor("b", "BYTES", (2,))]
    bodies = infer_bodies(tensors, 20, seed=1)
    assert len(set(bodies)) == 20
    assert bodies == infer_bodies(tensors, 20, seed=1)
    assert set(bodies).isdisjoint(infer_bodies(tensors, 20, seed=2))


def test_large_tensors_get_fewer_bodies_but_at_least_one() -> None:
    assert pool_size([Tensor("in", "FP32", (16,))]) == POOL_BODIES
    assert pool_size([Tensor("in", "FP32", (3, 224, 224))]) == 13
    assert pool_size([Tensor("in", "FP32", (MAX_ELEMENTS,))]) == 1


def test_a_request_is_exactly_these_bytes() -> None:
    assert (
        encode_request("GET", "h:8080", "/v2")
        == b"GET /v2 HTTP/1.1\r\nHost: h:8080\r\nAccept: application/json\r\n\r\n"
    )
    assert encode_request("POST", "h", "/x", [("X-A", "1"), ("x-a", "2")], b"{}") == (
        b"POST /x HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        b"X-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_given_headers_replace_the_clients_own() -> None:
    request = encode_request("POST", "h", "/x", [("host", "model.example"), ("ACCEPT", "*/*")], b"{}")
    assert request.lower().count(b"host:") == 1
    assert b"host: model.example\r\n" in request
    assert request.lower().count(b"accept:") == 1


def test_model_names_are_quoted_in_paths() -> None:
    assert model_path("", "resnet50") == "/v2/models/resnet50"
    assert model_path("/prefix/", "a b/ü") == "/prefix/v2/models/a%20b%2F%C3%BC"


def test_inputs_come_from_the_metadata_with_variable_dimensions_as_one() -> None:
    known = metadata(("a", "INT64", [-1, 128]), ("b", "BYTES", [1]))
    assert resolve_tensors(known, []) == [Tensor("a", "INT64", (1, 128)), Tensor("b", "BYTES", (1,))]


def test_shapes_lie_over_the_metadata() -> None:
    known = metadata(("a", "INT64", [-1, 128]), ("b", "BYTES", [1]))
    assert resolve_tensors(known, [Tensor("a", "", (8, 128))])[0] == Tensor("a", "INT64", (8, 128))
    assert resolve_tensors(known, [Tensor("a", "INT32", (8, 128))])[0] == Tensor("a", "INT32", (8, 128))
    with pytest.raises(PayloadError, match=r"--shape c: .* accepted: a, b"):
        resolve_tensors(known, [Tensor("c", "", (1,))])


@pytest.mark.parametrize(
    "unusable",
    [
        None,
        [],
        {},
        {"inputs": []},
        {"inputs": [{"name": "a"}]},
        {"inputs": [{"name": "a", "datatype": "FP32", "shape": ["x"]}]},
    ],
)
def test_without_metadata_the_shapes_say_it_all(unusable: object) -> None:
    given = [Tensor("a", "", (2, 2)), Tensor("b", "INT8", (1,))]
    assert resolve_tensors(unusable, given) == [Tensor("a", "FP32", (2, 2)), Tensor("b", "INT8", (1,))]
    with pytest.raises(PayloadError, match="--shape NAME"):
        resolve_tensors(unusable, [])


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(PayloadError, match="BF16"):
        resolve_tensors(metadata(("a", "BF16", [1])), [])
    with pytest.raises(PayloadError, match="50,000,000"):
        resolve_tensors(metadata(("a", "FP32", [MAX_ELEMENTS + 1])), [])
