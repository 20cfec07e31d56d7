"""The load on the real demo predictor: all of it is due in the measured time, answered, and drawn by the seed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.process import BenchError, Cores

from .contestants import replaced
from .load import Effort, capacity, offered
from .predictors import LIMITS, NOMINAL, RUNNING, Ports, request

EFFORT = Effort(warm_up_s=0.2, measured_s=0.5, capacity_s=0.5)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with RUNNING["demo"](Cores.split(), tmp_path_factory.mktemp("demo")) as ports:
        yield ports


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_measured_part_alone_comes_back_and_is_answered(protocol: str, ports: Ports) -> None:
    samples = offered(protocol, ports.of(protocol), 60, EFFORT, seed=1)
    assert {(sample.status, sample.step) for sample in samples} == {(200, 1)}
    due_s = [(sample.intended_ns - samples[0].intended_ns) / 1e9 for sample in samples]
    assert max(due_s) - min(due_s) < EFFORT.measured_s
    assert 15 < len(samples) < 50
    assert len(offered(protocol, ports.of(protocol), 60, EFFORT, seed=1)) == len(samples)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_capacity_is_what_the_slots_can_do(protocol: str, ports: Ports) -> None:
    # Service times vary by half their mean, and the machine may be busy; twice as much would be a defect.
    assert 0.5 * NOMINAL["demo"] < capacity(protocol, ports.of(protocol), 0.4) < 1.5 * NOMINAL["demo"]


def test_a_request_says_how_long_its_caller_waits() -> None:
    head, _, body = request(80, 500).partition(b"\r\n\r\n")
    assert b"\r\nx-envoy-expected-rq-timeout-ms: 500" in head
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head


def test_a_configuration_that_is_not_as_expected_is_an_error() -> None:
    assert replaced("a b c", "b", "x") == "a x c"
    for text in ("a c", "a b b"):
        with pytest.raises(BenchError):
            replaced(text, "b", "x")


def test_each_predictor_has_a_limit_and_its_files() -> None:
    assert set(RUNNING) == set(LIMITS)
    assert (Path(__file__).parent / "triton/models/small/config.pbtxt").is_file()
