"""The search for limits inside the deadline policy."""

from agent.policy.knee import Knee, Reason
from tests.policy.desk import Desk


def test_a_search_sets_the_total_limit_and_its_decisions_can_be_taken() -> None:
    desk = Desk(limit=None, service=0.05, search=Knee(4))
    assert desk.gate.limit == 4
    desk.stand(5.0)
    decisions = desk.gate.take_decisions()
    assert {model for model, _ in decisions} == {""}
    assert decisions[-1][1].limit == desk.gate.limit
    assert decisions[0][1].reason is Reason.CLIMBED
    assert not desk.gate.take_decisions()


def test_a_search_sets_a_models_limit_and_leaves_the_total_alone() -> None:
    desk = Desk(limit=100, service=0.05, searches={"a": Knee(2)})
    assert desk.gate.model_limit("a") == 2
    for _ in range(2000):
        desk.offer(5.0, "a")
        desk.run(0.005)
    decisions = desk.gate.take_decisions()
    assert {model for model, _ in decisions} == {"a"}
    assert desk.gate.model_limit("a") == decisions[-1][1].limit > 2
    assert desk.gate.limit == 100


def test_decisions_that_nobody_takes_are_bounded() -> None:
    desk = Desk(limit=None, service=0.05, search=Knee(1, highest=2))
    for _ in range(100_000):
        desk.offer(0.2)
        desk.run(0.02)
        if len(desk.gate._decisions) >= desk.gate.MAX_DECISIONS:
            break
    for _ in range(5000):
        desk.offer(0.2)
        desk.run(0.02)
    assert len(desk.gate.take_decisions()) == desk.gate.MAX_DECISIONS
