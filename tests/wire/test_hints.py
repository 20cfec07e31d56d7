"""What V2 requests say of themselves in their first bytes: tables, cuts at every byte, and the usual libraries."""

import json
import random

import pytest
from tritonclient.grpc import service_pb2

from agent.wire.hints import NAMES, HintReader, Hints

ALL = HintReader(frozenset(NAMES))

BODIES = {
    "all": (
        '{"id":"1","parameters":{"timeout":250000,"priority":2},"inputs":[{"name":"x","shape":[3,4],"data":[1]}]}',
        Hints(0.25, 2, 3),
    ),
    "white space": (
        '\n { "parameters" : { "timeout" : 1000 } , "inputs" : [ { "shape" : [ 5 ] } ] }',
        Hints(0.001, 0, 5),
    ),
    "shape alone": ('{"inputs":[{"name":"x","datatype":"FP32","shape":[7,1],"data":[]}]}', Hints(None, 0, 7)),
    "parameters after the tensors are not at hand": (
        '{"inputs":[{"shape":[2]}],"parameters":{"timeout":1000}}',
        Hints(None, 0, 2),
    ),
    "other keys before": (
        '{"id":"a","outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"priority":1}}',
        Hints(None, 1, 0),
    ),
    "a shape elsewhere": ('{"outputs":[{"shape":[9]}],"inputs":[{"data":[{"shape":[8]}]}]}', Hints()),
    "the last of two": ('{"parameters":{"timeout":1},"parameters":{"timeout":3000000}}', Hints(3.0, 0, 0)),
    "not whole numbers": ('{"parameters":{"timeout":1.5,"priority":"1"}}', Hints()),
    "not positive": ('{"parameters":{"timeout":0,"priority":-1}}', Hints()),
    "truth is no number": ('{"parameters":{"timeout":true,"priority":true}}', Hints()),
    "for ever": ('{"parameters":{"timeout":' + "9" * 30 + "}}", Hints(86400.0, 0, 0)),
    "parameters that are none": ('{"parameters":[1],"inputs":{}}', Hints()),
    "no object": ('[{"parameters":{"timeout":1}}]', Hints()),
    "too deep": ('{"a":' + "[" * 900, Hints()),
    "an escaped name": ('{"param\\u0065ters":{"timeout":1000}}', Hints()),
    "beyond the look": ('{"id":"' + "x" * 1100 + '","parameters":{"timeout":1}}', Hints()),
    "nothing": ("", Hints()),
}


@pytest.mark.parametrize("case", BODIES)
def test_hints_of_an_http_body(case: str) -> None:
    body, expected = BODIES[case]
    assert ALL.read(body.encode(), grpc=False) == expected


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_cut_says_nothing_else_than_the_whole(case: str) -> None:
    body, _ = BODIES[case]
    whole = ALL.read(body.encode(), grpc=False)
    if case == "the last of two":
        return
    for size in range(len(body)):
        for said, of_whole, none in zip(ALL.read(body[:size].encode(), grpc=False), whole, Hints(), strict=True):
            assert said in {of_whole, none}


def request(**parameters: int | str | bool) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="m", model_version="2", id="7")
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made.parameters[name], kind, value)
    return made


def framed(made: service_pb2.ModelInferRequest, *, compressed: bool = False) -> bytes:
    sent = made.SerializeToString(deterministic=True)
    return bytes([compressed]) + len(sent).to_bytes(4, "big") + sent


def test_hints_of_a_grpc_message() -> None:
    made = request(timeout=250_000, priority=3, sequence_id=9, name="x", flag=True)
    made.inputs.add(name="x", datatype="FP32", shape=[16, 4])
    made.raw_input_contents.append(b"\0" * 4096)
    assert ALL.read(framed(made), grpc=True) == Hints(0.25, 3, 16)
    assert ALL.read(framed(made, compressed=True), grpc=True) == Hints()


def test_unsigned_parameters_count_and_negative_ones_do_not() -> None:
    made = request(priority=-1)
    made.parameters["timeout"].uint64_param = 4_000
    assert ALL.read(framed(made), grpc=True) == Hints(0.004, 0, 0)


@pytest.mark.parametrize("seed", range(50))
def test_a_message_that_is_cut_or_damaged_raises_nothing(seed: int) -> None:
    generator = random.Random(seed)
    made = request(timeout=generator.randrange(1, 10**9), priority=generator.randrange(8))
    made.inputs.add(name="x" * generator.randrange(200), datatype="FP32", shape=[generator.randrange(1, 500), 4])
    sent = framed(made)
    whole = ALL.read(sent, grpc=True)
    assert whole.rows == made.inputs[0].shape[0]
    for size in range(len(sent)):
        ALL.read(sent[:size], grpc=True)
        damaged = bytearray(sent)
        damaged[size] ^= 1 << generator.randrange(8)
        assert ALL.read(bytes(damaged), grpc=True).priority >= 0
        ALL.read(bytes(damaged), grpc=False)


@pytest.mark.parametrize("seed", range(50))
def test_json_of_any_order_reads_as_the_library_reads_it(seed: int) -> None:
    generator = random.Random(seed)
    parts = {
        "id": "é",
        "parameters": {"timeout": generator.randrange(1, 10**6), "priority": 1},
        "outputs": [{"name": "y"}],
    }
    order = generator.sample(sorted(parts), 3)
    rows = generator.randrange(1, 99)
    body = {name: parts[name] for name in order} | {"inputs": [{"name": "x", "shape": [rows, 2], "data": [0, 1]}]}
    text = json.dumps(body, indent=generator.choice([None, 1]), ensure_ascii=generator.random() < 0.5)
    assert ALL.read(text.encode(), grpc=False) == Hints(body["parameters"]["timeout"] / 1e6, 1, rows)


@pytest.mark.parametrize("wanted", NAMES)
def test_only_what_is_wanted_is_told(wanted: str) -> None:
    body, expected = BODIES["all"]
    found = HintReader(frozenset({wanted})).read(body.encode(), grpc=False)
    index = NAMES.index(wanted)
    assert found[index] == expected[index]
    assert [value for at, value in enumerate(found) if at != index] == [
        value for at, value in enumerate(Hints()) if at != index
    ]
