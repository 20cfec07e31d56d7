"""Levels, their integrals over time, and the bound on labels."""

import random

import pytest

from agent.policy.usage import MAX_MODELS, MAX_NAME, OTHER, Usage, UsageTable
from tests.fakes import ManualClock


@pytest.mark.parametrize("seed", range(10))
def test_integrals_are_the_sums_of_level_times_time(seed: int) -> None:
    generator = random.Random(seed)
    clock = ManualClock()
    usage = Usage("m", clock.now)
    inflight_seconds = queued_seconds = 0.0
    for _ in range(500):
        elapsed = generator.choice([0.0, 0.001, 0.5, 3.0])
        inflight_seconds += elapsed * usage.inflight
        queued_seconds += elapsed * usage.queued
        usage.advance(clock.advance(elapsed))
        usage.inflight = generator.randint(0, 9)
        usage.queued = generator.choice([0, 0, generator.randint(0, 1000)])
    assert usage.inflight_seconds == pytest.approx(inflight_seconds)
    assert usage.queued_seconds == pytest.approx(queued_seconds)


def test_reading_often_changes_nothing() -> None:
    often, once = Usage("m", 0.0), Usage("m", 0.0)
    often.inflight = once.inflight = 3
    for tick in range(1, 101):
        often.advance(tick / 10)
    once.advance(10.0)
    assert often.inflight_seconds == pytest.approx(once.inflight_seconds) == pytest.approx(30.0)


def test_a_model_is_one_of_the_others_until_it_is_learnt() -> None:
    table = UsageTable(["given"], 0.0)
    assert table.of("given").name == "given"
    assert table.of("m") is table.other
    assert table.other.name == OTHER
    usage = table.learn("m", 5.0)
    assert table.of("m") is usage is table.learn("m", 6.0)
    usage.inflight = 1
    assert [(row.name, row.inflight_seconds) for row in table.rows(7.0)] == [("given", 0.0), ("m", 2.0), (OTHER, 0.0)]


def test_at_most_so_many_models_earn_a_label() -> None:
    table = UsageTable(["given"], 0.0)
    for number in range(3 * MAX_MODELS):
        table.learn(f"m{number}", 0.0)
    assert MAX_MODELS == 100
    assert len(table.rows(0.0)) == MAX_MODELS + 1
    assert table.of(f"m{MAX_MODELS - 2}").name == f"m{MAX_MODELS - 2}"
    assert table.of(f"m{MAX_MODELS - 1}") is table.other
    assert table.learn("given", 0.0).name == "given"


@pytest.mark.parametrize("name", ["", OTHER, "a" * (MAX_NAME + 1), "a\x1b[2J", "a\r\nb", "a\0", "\u2028"])
def test_a_name_that_says_nothing_earns_no_label(name: str) -> None:
    table = UsageTable([], 0.0)
    assert table.learn(name, 0.0) is table.other
    assert table.rows(0.0) == [table.other]


def test_labels_are_unique_whatever_models_are_configured() -> None:
    names = [usage.name for usage in UsageTable(["m", OTHER], 0.0).rows(0.0)]
    assert len(names) == len(set(names))
