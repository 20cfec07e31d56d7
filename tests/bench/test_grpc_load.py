"""What h2load prints, read; and the probe against the benchmark's own predictor."""

import asyncio
from dataclasses import replace

import pytest

from .grpc_backend import BEHAVIOURS
from .grpc_load import Summary, ask, parse, verify
from .grpc_payload import DOWNLOAD, MESSAGE, SMALL, UPLOAD, Call
from .listening import listening
from .process import BenchError

PRINTED = """starting benchmark...
finished in 844.42ms, 118424.90 req/s, 31.96MB/s
requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 26.99MB (28300392) total, 10.59MB (11100000) headers (space savings 39.34%), 11.44MB (12000000) data
                     min         max         mean         sd        +/- sd
time for request:       24us      6.13ms       454us       418us    94.68%
time for connect:      550us      1.84ms      1.09ms       360us    75.00%
"""


def test_the_summary_of_h2load_is_read() -> None:
    printed = PRINTED.replace("844.42ms", "1.5s").replace("454us", "2.5ms")
    assert parse(printed) == Summary(elapsed_s=1.5, succeeded=1000, lost=0, data_bytes=12000000, mean_us=2500.0)


@pytest.mark.parametrize(
    ("was", "becomes", "lost"),
    [
        ("1000 succeeded, 0 failed", "999 succeeded, 1 failed", 2),
        ("1000 succeeded", "990 succeeded", 10),
        ("0 errored", "3 errored", 3),
        ("0 timeout", "4 timeout", 4),
    ],
)
def test_no_lost_call_is_missed(was: str, becomes: str, lost: int) -> None:
    assert parse(PRINTED.replace(was, becomes)).lost == lost


@pytest.mark.parametrize(("printed", "seconds"), [("12.5s", 12.5), ("844.42ms", 0.84442), ("900us", 0.0009)])
def test_every_unit_of_time_is_known(printed: str, seconds: float) -> None:
    assert parse(PRINTED.replace("844.42ms", printed)).elapsed_s == pytest.approx(seconds)


@pytest.mark.parametrize("missing", ["finished", "requests", "traffic", "time for request"])
def test_a_summary_in_which_something_is_missing_is_an_error(missing: str) -> None:
    kept = [line for line in PRINTED.splitlines() if not line.startswith(missing)]
    with pytest.raises(BenchError, match="h2load failed"):
        parse("\n".join(kept))


@pytest.mark.parametrize("call", [SMALL, UPLOAD, DOWNLOAD, MESSAGE], ids=lambda call: call.name)
async def test_the_predictor_answers_a_real_client(call: Call) -> None:
    async with listening(BEHAVIOURS[call.name]) as port:
        await asyncio.to_thread(verify, port, call)


@pytest.mark.parametrize("call", [SMALL, MESSAGE], ids=lambda call: call.name)
async def test_a_wrong_answer_fails_the_probe(call: Call) -> None:
    async with listening(BEHAVIOURS[call.name]) as port:
        with pytest.raises(BenchError, match="was answered OK"):
            await asyncio.to_thread(verify, port, replace(call, answer=call.answer[:-1] + b"?"))


@pytest.mark.parametrize("call", [SMALL, UPLOAD], ids=lambda call: call.name)
async def test_a_request_that_lost_a_byte_is_not_answered_with_success(call: Call) -> None:
    async with listening(BEHAVIOURS[call.name]) as port:
        reply = await asyncio.to_thread(ask, port, replace(call, request=call.request[:-1]))
        assert (reply.code, reply.messages) == ("UNKNOWN", [])


async def test_a_message_that_changed_ends_its_stream() -> None:
    async with listening(BEHAVIOURS[MESSAGE.name]) as port:
        reply = await asyncio.to_thread(ask, port, replace(MESSAGE, request=MESSAGE.request[:-1] + b"?"))
        assert (reply.code, reply.messages) == ("UNAVAILABLE", [])
