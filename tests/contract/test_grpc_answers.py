"""Every gRPC answer through the agent equals the direct one: fields and trailers in their order, every byte between."""

from collections.abc import Iterable

import pytest

from . import grpccases
from .conftest import Pair
from .grpccases import Case
from .grpcpayloads import INFER, STREAM, answer, message, prefixed, streamed
from .rawh2 import Answer, Call, H2Client, ask, ask_at_once

pytestmark = pytest.mark.contract

only_triton = pytest.mark.parametrize("pair", ["triton"], indirect=True)


def table(rows: Iterable[Case]) -> pytest.MarkDecorator:
    """Each case with each predictor that it is about."""
    return pytest.mark.parametrize(
        ("pair", "case"),
        [pytest.param(name, case, id=f"{name}: {case.name}") for case in rows for name in case.predictors],
        indirect=["pair"],
    )


def compare(through: Answer, direct: Answer) -> None:
    """One by one: pytest explains the difference of two fields better than that of two answers."""
    assert through.fields == direct.fields
    assert through.trailers == direct.trailers
    # Compared before assert, whose explanation of a difference in megabytes takes minutes.
    same = through.body == direct.body
    assert same, f"{bytes(through.body[:200])!r} is not {bytes(direct.body[:200])!r}"
    # Whether RST_STREAM with NO_ERROR follows a complete answer (RFC 9113 section 8.1) is up to each hop.
    assert (through.reset or 0) == (direct.reset or 0)


def _counts(pair: Pair) -> tuple[float, float]:
    """How many calls the agent has counted, and how many it has let through uncounted."""
    metrics = pair.agent.metrics()
    served = metrics.value("headgate_requests_total", protocol="grpc", outcome="served")
    return served, metrics.value("headgate_bypassed_total")


def check(pair: Pair, case: Case) -> None:
    """Ask both ways."""
    counted, bypassed = _counts(pair)
    direct, through = (ask(address, case.call)[0] for address in pair.grpc_addresses)
    assert direct.status == case.status, direct
    assert len(direct.messages) == case.messages
    compare(through, direct)
    assert _counts(pair) == (counted + case.is_inference, bypassed + (not case.is_inference))


@table(grpccases.inference_calls())
def test_inference(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(grpccases.tensors())
def test_tensors(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(grpccases.metadata())
def test_metadata(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(grpccases.streams())
def test_streams(pair: Pair, case: Case) -> None:
    check(pair, case)


def test_one_connection(pair: Pair) -> None:
    """Good and bad calls one after another, as clients do that keep their channel."""
    cases = [case for case in grpccases.inference_calls() + grpccases.metadata() if pair.name in case.predictors]
    calls = [case.call for case in cases]
    direct, through = (ask(address, *calls) for address in pair.grpc_addresses)
    assert [found.status for found in direct] == [case.status for case in cases]
    for found, expected in zip(through, direct, strict=True):
        compare(found, expected)


def test_many_calls_at_once_get_their_own_answers(pair: Pair) -> None:
    """As many as the agent allows on a connection; each has an id and a tensor of its own, long or short."""
    calls = [
        Call(INFER, (prefixed(message([float(number)] * (5_000 if number % 7 == 0 else 3), request_id=str(number))),))
        for number in range(100)
    ]
    direct, through = (ask_at_once(address, calls) for address in pair.grpc_addresses)
    for number, (found, expected) in enumerate(zip(through, direct, strict=True)):
        assert answer(expected.messages[0]).id == str(number)
        compare(found, expected)


@only_triton
def test_two_requests_on_a_stream(pair: Pair) -> None:
    """Triton answers them in turns as it likes; the answers to each one keep their order."""
    sent = [prefixed(message(model="stream", request_id=str(number))) for number in range(8)]
    seen = []
    for address in pair.grpc_addresses:
        (found,) = ask(address, Call(STREAM, tuple(sent)))
        assert found.status == 0
        assert len(found.messages) == 24
        seen.append(sorted(found.messages, key=lambda received: streamed(received, pair.name).id))
    assert seen[1] == seen[0]


# Triton ends such calls with the same status several times over, each time followed by RST_STREAM.
REPEATED = {
    "not protobuf": (Call(INFER, (prefixed(b"\xff\xff\xff"),)), 13, b"Unable to parse request"),
    "too late": (
        Call(INFER, (prefixed(message(wishes={"delay_s": "0.3"})),), ((b"grpc-timeout", b"50m"),)),
        4,
        b"",
    ),
}


@only_triton
@pytest.mark.parametrize("name", REPEATED)
def test_a_predictor_that_repeats_itself(pair: Pair, name: str) -> None:
    """The client gets the status once, and the connections of both sides go on."""
    call, status, text = REPEATED[name]
    good = Call(INFER, (prefixed(message()),))
    before = pair.agent.state()["connections"]["upstream"]
    with H2Client(pair.agent.address) as client:
        found = [client.call(sent) for sent in (call, good) * 5]
    assert [known.status for known in found] == [status, 0] * 5
    assert text in found[0].value(b"grpc-message")
    assert pair.agent.state()["connections"]["upstream"] <= max(before, 1)


@only_triton
def test_a_predictor_that_resets(pair: Pair) -> None:
    """A call that Triton answers with RST_STREAM alone: the client is told so in gRPC's own words."""
    call = Call(INFER, (prefixed(b"?", compressed=True),), ((b"grpc-encoding", b"br"),))
    direct, through = (ask(address, call)[0] for address in pair.grpc_addresses)
    assert direct.reset == 2
    assert not direct.fields
    assert through.value(b"x-headgate-reason") == b"upstream_reset"
    assert through.status == 13
