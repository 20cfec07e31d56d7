"""The queues against lists that are sorted and summed anew for each question."""

import random
from dataclasses import dataclass

import pytest

from agent.policy.edf import FLOOR, EdfQueue, band_at, rank_of
from agent.policy.fair import PLACES, FairQueue, place_of

Queue = EdfQueue | FairQueue


@dataclass(eq=False, slots=True)
class One:
    """An entry, and the order in which it came."""

    number: int
    band: int
    deadline: float
    cost: float = 1.0
    tenant: int = 0
    rank: float = 0.0

    def __post_init__(self) -> None:
        self.rank = rank_of(self.band, self.deadline)

    @property
    def place(self) -> tuple[int, float, int]:
        return self.band, self.deadline, self.number


class Naive:
    """The queue as a list."""

    def __init__(self) -> None:
        self.ones: list[One] = []

    @property
    def order(self) -> list[One]:
        return sorted(self.ones, key=lambda one: one.place)

    def ahead(self, new: One) -> float:
        return sum(one.cost for one in self.ones if one.place < new.place)

    def backlog(self, new: One) -> float:
        return sum(one.cost for one in self.ones if one.band <= new.band)

    def endangers(self, new: One, begin: float, pace: float) -> bool:
        work = new.cost
        for one in self.order:
            work += one.cost
            if one.band == new.band and one.place > new.place and begin + pace * work > one.deadline:
                return True
        return False


def one(generator: random.Random, number: int, bands: int, spread: float, tenants: int = 1) -> One:
    # Few different deadlines, so that many are equal and go by arrival.
    deadline = 1000.0 + round(generator.random() * spread) / 8
    cost = generator.choice([0.25, 1.0, 1.0, 3.5])
    return One(number, generator.randint(1, bands), deadline, cost, generator.randrange(tenants))


@pytest.mark.parametrize("seed", range(60))
def test_random_operations_do_what_a_sorted_list_does(seed: int) -> None:
    generator = random.Random(seed)
    queue, naive = EdfQueue(), Naive()
    bands, spread, size = generator.choice([1, 1, 3]), generator.choice([4, 400, 4000]), generator.choice([5, 80, 700])
    served = 0
    for number in range(2 * size):
        new = one(generator, number, bands, spread)
        if generator.random() < 0.6 or not naive.ones:
            begin, pace = 1000.0 + spread / 8 * generator.random() * 0.5, spread / 8 / size * generator.random() * 3
            assert queue.ahead(new) == naive.ahead(new)
            assert queue.backlog(new) == naive.backlog(new)
            assert queue.endangers(new, begin, pace) is naive.endangers(new, begin, pace)
            queue.insert(new)
            naive.ones.append(new)
        elif generator.random() < 0.4:
            gone = generator.choice(naive.ones)
            queue.remove(gone)
            naive.ones.remove(gone)
        else:
            order = naive.order
            lowest = next(other for other in order if other.band == order[-1].band)
            turn = lowest if served % FLOOR == FLOOR - 1 else order[0]
            assert queue.first() is turn
            queue.take(turn)
            naive.ones.remove(turn)
            served += 1
        assert (queue.count, queue.work) == (len(naive.ones), sum(other.cost for other in naive.ones))
        if naive.ones:
            assert queue.lowest_band == naive.order[-1].band
            assert queue.earliest().deadline == min(other.deadline for other in naive.ones)
        else:
            assert queue.earliest() is None


def test_the_random_operations_ask_dangerous_and_harmless_questions() -> None:
    generator, naive = random.Random(1), Naive()
    naive.ones = [one(generator, number, 1, 400) for number in range(200)]
    answers = [naive.endangers(one(generator, 999, 1, 400), 1010.0, 0.25 * generator.random()) for _ in range(100)]
    assert 20 < sum(answers) < 80


def test_equal_deadlines_go_by_arrival_over_any_number_of_blocks() -> None:
    queue = EdfQueue()
    ones = [One(number, 4, 5.0) for number in range(500)]
    for other in ones:
        queue.insert(other)
    queue.remove(ones[333])
    queue.remove(ones[0])
    for expected in ones[1:333] + ones[334:]:
        assert queue.first() is expected
        queue.take(expected)
    assert (queue.count, queue.work) == (0, 0.0)


def test_what_does_not_wait_cannot_be_taken_out() -> None:
    queue = EdfQueue()
    queue.insert(One(1, 4, 5.0))
    queue.insert(One(2, 4, 6.0))
    with pytest.raises(AssertionError):
        queue.remove(One(3, 4, 5.0))


@pytest.mark.parametrize(("band", "deadline"), [(1, 0.0), (4, 12.5), (7, 9e8)])
def test_a_rank_tells_its_band(band: int, deadline: float) -> None:
    assert band_at(rank_of(band, deadline)) == band


@pytest.mark.parametrize("make", [EdfQueue, FairQueue])
def test_the_lowest_band_gets_one_turn_in_sixteen(make: type[Queue]) -> None:
    queue = make()
    for number in range(64):
        queue.insert(One(number, 1, 1.0))
        queue.insert(One(1000 + number, 7, 0.5))
    served = []
    for _ in range(64):
        turn = queue.first()
        queue.take(turn)
        served.append(turn.band)
    assert served.count(7) == 4
    assert served[:15] == [1] * 15


@pytest.mark.parametrize("seed", range(30))
def test_tenants_get_equal_work_whatever_they_ask_for(seed: int) -> None:
    generator = random.Random(seed)
    queue = FairQueue()
    number = 0
    for tenant, count in ((1, 2000), (2, 300), (3, 300)):
        for _ in range(count):
            number += 1
            queue.insert(One(number, 4, generator.random(), generator.choice([0.25, 1.0, 3.0]), tenant))
    work = dict.fromkeys((1, 2, 3), 0.0)
    for _ in range(500):
        turn = queue.first()
        assert queue.first() is turn, "asking again changes nothing"
        queue.take(turn)
        work[turn.tenant] += turn.cost
    assert max(work.values()) - min(work.values()) <= 5.0


@pytest.mark.parametrize("seed", range(20))
def test_a_fair_queue_knows_what_waits_and_who_is_first_of_a_tenant(seed: int) -> None:
    generator = random.Random(seed)
    queue, ones = FairQueue(), list[One]()
    for number in range(300):
        if generator.random() < 0.6 or not ones:
            new = one(generator, number, 2, 100, tenants=4)
            queue.insert(new)
            ones.append(new)
        elif generator.random() < 0.3:
            gone = ones.pop(generator.randrange(len(ones)))
            queue.remove(gone)
        else:
            turn = queue.first()
            same = [other for other in ones if (other.band, other.tenant) == (turn.band, turn.tenant)]
            assert turn is min(same, key=lambda other: other.place)
            queue.take(turn)
            ones.remove(turn)
        assert (queue.count, queue.work) == (len(ones), sum(other.cost for other in ones))
        if ones:
            assert queue.earliest().deadline == min(other.deadline for other in ones)
            assert queue.lowest_band == max(other.band for other in ones)


def test_work_ahead_of_a_polite_tenant_is_its_share_and_not_the_hogs_line() -> None:
    queue = FairQueue()
    for number in range(100):
        queue.insert(One(number, 4, 1.0, tenant=1))
    queue.insert(One(200, 4, 1.0, tenant=2))
    polite, hog, urgent = One(300, 4, 2.0, tenant=2), One(301, 4, 2.0, tenant=1), One(302, 3, 2.0, tenant=3)
    assert queue.ahead(polite) == 1.0 + 2.0  # its own, and as many of the hog's as turns until it is served
    assert queue.ahead(hog) == 100.0 + 1.0
    assert queue.ahead(urgent) == 0.0
    assert queue.ahead(One(303, 4, 0.5, 2.0, tenant=1)) == 1.0, "of its own tenant nobody, of the other all"
    assert queue.backlog(polite) == 3.0
    assert not queue.endangers(polite, 0.0, 1e9)
    queue.insert(urgent)
    assert queue.ahead(polite) == 4.0


def test_tenants_are_bounded_and_nobody_shares_the_place_of_those_without_one() -> None:
    places = {place_of(tenant) for tenant in range(1, 10_000)}
    assert 0 not in places
    assert len(places | {place_of(0)}) == PLACES
