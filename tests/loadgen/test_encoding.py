"""Tensors, inputs from files, traces and event streams, against their formats."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.bodies import binary_body, chat_body, flat, grpc_body, nested, random_prompt, raw, v1_body
from loadgen.inputs import elements, read_entries, read_folder, values_of
from loadgen.payload import PayloadError, Tensor, random_values, zero_values
from loadgen.settings import flags_of
from loadgen.sse import Events
from loadgen.trace import Arrival, TraceError, read_trace
from protos.open_inference_pb2 import ModelInferRequest

NUMPY = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
JOB = Path(__file__).parents[2] / "k8s" / "load" / "job.yaml"


@pytest.mark.parametrize("datatype", NUMPY)
def test_raw_elements_are_numpys_bytes_and_read_back(datatype: str) -> None:
    tensor = Tensor("x", datatype, (3, 5))
    ((_, data),) = random_values([tensor], random.Random(1))
    encoded = raw(tensor, data)
    assert encoded == np.array(data).astype(NUMPY[datatype]).tobytes()
    assert raw(tensor, elements(tensor, encoded)) == encoded
    assert raw(tensor, zero_values([tensor])[0][1]) == bytes(len(encoded))


def test_strings_go_after_their_length() -> None:
    assert raw(Tensor("x", "BYTES", (2,)), ["ab", b"\xff"]) == b"\x02\0\0\0ab\x01\0\0\0\xff"


def test_a_binary_body_is_a_head_and_its_tensors() -> None:
    body, head_size = binary_body([(Tensor("a", "INT32", (2,)), [1, 2]), (Tensor("b", "BYTES", (1,)), ["x"])], 7)
    head = json.loads(body[:head_size])
    sizes = [entry["parameters"]["binary_data_size"] for entry in head["inputs"]]
    assert (head["id"], sizes) == ("7", [8, 5])
    assert body[head_size:] == struct.pack("<2i", 1, 2) + b"\x01\0\0\0x"


def test_typed_contents_stand_in_the_field_of_their_datatype() -> None:
    values = [
        (Tensor("a", "UINT8", (2,)), [1, 2]),
        (Tensor("b", "FP64", (1,)), [0.5]),
        (Tensor("c", "BOOL", (1,)), [True]),
    ]
    request = ModelInferRequest.FromString(grpc_body("m", "", values, 0, as_raw=False))
    contents = [entry.contents for entry in request.inputs]
    assert list(contents[0].uint_contents) == [1, 2]
    assert list(contents[1].fp64_contents) == [0.5]
    assert list(contents[2].bool_contents) == [True]


def test_v1_instances_are_rows_and_named_where_there_are_several_inputs() -> None:
    one = [(Tensor("a", "FP32", (2, 2)), [1, 2, 3, 4])]
    assert json.loads(v1_body(one)) == {"instances": [[1, 2], [3, 4]]}
    two = [*one, (Tensor("b", "INT8", (2,)), [5, 6])]
    assert json.loads(v1_body(two)) == {"instances": [{"a": [1, 2], "b": 5}, {"a": [3, 4], "b": 6}]}


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_nesting_is_undone_by_flattening(shape: list[int]) -> None:
    data = list(range(int(np.prod(shape))))
    assert np.array(nested(data, shape)).shape == tuple(shape)
    assert flat(nested(data, shape)) == data


def test_prompts_are_about_as_long_as_asked_for_and_never_alike() -> None:
    source = random.Random(1)
    prompts = {random_prompt(source, 200) for _ in range(50)}
    assert len(prompts) == 50
    assert all(200 <= len(prompt) <= 210 for prompt in prompts)
    assert json.loads(chat_body("m", [{"role": "user", "content": "x"}], 5))["stream"] is True


TENSOR = Tensor("x", "INT32", (1, 2))


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [1, 2]}',
        '{"x": [[1, 2]]}',
        '{"x": {"content": [1, 2], "shape": [1, 2]}}',
        '{"x": {"b64": "AQAAAAIAAAA="}}',
        '{"data": [{"x": [1, 2]}]}',
        '[{"x": [1, 2]}]',
        '{"x": [1, 2]}\n{"x": [1, 2]}\n',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT32", "data": [[1, 2]]}]}',
    ],
)
def test_inputs_are_read_in_every_form(text: str, tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(text)
    for entry in read_entries(file):
        assert values_of(entry, [TENSOR]) == [(TENSOR, [1, 2])]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no request"),
        ("{broken", "line 1 is not JSON"),
        ('{"y": [1, 2]}', "lacks input x; it has y"),
        ('{"x": [1, 2, 3]}', r"3 elements for x INT32\[1,2\]"),
        ("[7]", "a V2 request is an object"),
        ('{"inputs": [{"name": "x"}]}', "needs name, shape, datatype and data"),
    ],
)
def test_inputs_that_do_not_fit_are_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(text)
    with pytest.raises(PayloadError, match=said):
        values_of(read_entries(file)[0], [TENSOR])


def test_a_folder_holds_a_file_for_each_input(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<2i", 1, 2))
    (tmp_path / "s").write_text("one\ntwo\n")
    strings = Tensor("s", "BYTES", (2,))
    assert read_folder(tmp_path, [TENSOR, strings]) == [(TENSOR, [1, 2]), (strings, ["one", "two"])]
    with pytest.raises(PayloadError, match="no file for input z"):
        read_folder(tmp_path, [Tensor("z", "FP32", (1,))])
    with pytest.raises(PayloadError, match="8 bytes for x FP64"):
        read_folder(tmp_path, [Tensor("x", "FP64", (2,))])


STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n: comment\n'
    b'data:{"choices":[{"text":"b"}]}\n\nevent: x\ndata: not json\n\n'
    b'data: {"choices":[]}\n\ndata: {"usage":{}}\n\ndata: [DONE]\n\n'
)


@given(st.integers(1, len(STREAM)))
def test_pieces_are_counted_however_the_stream_is_cut(size: int) -> None:
    events = Events()
    assert sum(events.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size)) == 4


def test_a_new_answer_begins_with_nothing_of_the_last() -> None:
    events = Events()
    events.feed(b"data: lost")
    events.reset()
    assert events.feed(b"data: x\n") == 1


def test_traces_and_access_logs_are_read_in_order_of_time() -> None:
    lines = [
        '{"t": 12.5, "model": "a", "batch": 2}',
        '{"time": "2026-01-01T00:00:00Z"}',
        '{"t": 10, "body": "raw"}',
    ]
    assert read_trace("\n".join([lines[0], "", lines[2]])) == [Arrival(0, "", 0, b"raw"), Arrival(2.5, "a", 2, b"")]
    assert read_trace(lines[1]) == [Arrival(0.0, "", 0, b"")]
    log = (
        '1.2.3.4 - - [10/Oct/2026:13:55:37 +0000] "POST /v2/models/m/infer HTTP/1.1" 200 5\n'
        '1.2.3.4 - - [10/Oct/2026:13:55:36 +0000] "POST /v1/models/n:predict HTTP/1.1" 200 5 "-" "curl"\n'
        '1.2.3.4 - - [10/Oct/2026:13:55:30 +0000] "GET /metrics HTTP/1.1" 200 5\n'
    )
    assert read_trace(log) == [Arrival(0.0, "n", 0, b""), Arrival(1.0, "m", 0, b"")]


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"t": "x"}', '{"t": -1}', '{"t": 1, "batch": -1}', "{broken"])
def test_what_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(TraceError):
        read_trace(text)


def test_the_jobs_flags_are_flags_of_run() -> None:
    known = {flag.name for flag in flags_of("run")}
    used = [
        line.strip()[2:].partition("=")[0] for line in JOB.read_text().splitlines() if line.strip().startswith("- --")
    ]
    assert len(used) == 10
    assert set(used) <= known
