"""The table of outcomes: complete, safe to show to strangers, and documented."""

import re
from pathlib import Path

import pytest

import agent
from agent.errors import REPLIES, Blame, Outcome, SettingsError

README = (Path(agent.__file__).parent / "README.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\w+) \| (.+) \|$", re.MULTILINE)
DOCUMENTED = {label: (int(status), blame) for label, status, blame, _ in ROW.findall(README)}

# The statuses that each side's doing may be told with.
BY_BLAME = {
    Blame.NOBODY: {200},
    Blame.CLIENT: {400, 408, 414, 417, 431, 499, 501, 505},
    Blame.AGENT: {500, 503, 504},
    Blame.UPSTREAM: {502, 503, 504},
}


def test_there_is_one_row_for_each_outcome() -> None:
    assert [outcome.value for outcome in Outcome] == list(range(len(REPLIES)))
    assert len({outcome.label for outcome in Outcome}) == len(Outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_an_answer_in_both_protocols(outcome: Outcome) -> None:
    reply = REPLIES[outcome]
    assert reply.http in BY_BLAME[reply.blame]
    assert reply.grpc in range(17)
    assert (reply.grpc == 0) is (reply.http == 200) is (outcome is Outcome.SERVED)
    # Only what passes by itself invites another try.
    assert not reply.retry or (reply.http == 503 and reply.grpc == 14)


@pytest.mark.parametrize("outcome", Outcome)
def test_the_text_tells_strangers_nothing_about_the_inside(outcome: Outcome) -> None:
    text = REPLIES[outcome].text
    assert re.fullmatch(r"[a-zA-Z' ]{4,80}", text), "no addresses, paths, numbers or marks that JSON would escape"
    assert not re.search(r"httptools|llhttp|uvloop|asyncio|python|aiohttp|errno|socket", text, re.IGNORECASE)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_label_is_safe_as_a_metric_label_and_a_header_value(outcome: Outcome) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", outcome.label)


def test_every_outcome_has_a_row_in_the_documents() -> None:
    assert {outcome.label: (REPLIES[outcome].http, REPLIES[outcome].blame) for outcome in Outcome} == DOCUMENTED


def test_problems_with_the_settings_are_kept_one_by_one() -> None:
    error = SettingsError(["one", "two"])
    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"
