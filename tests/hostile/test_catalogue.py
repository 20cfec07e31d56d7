"""Every class of the catalogue at the wire; that the tables are told whole; and that the verdict would notice."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import uvloop

from agent.wire import chunked, fields, head
from tests.hostile import http1, http2
from tests.hostile.case import Class, Http1Case
from tests.hostile.catalogue import CATALOGUE, run
from tests.hostile.http2_case import Flood
from tests.wire import test_http1_refusals as refusals
from tests.wire.test_http2_floods import FLOODS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("attacks", CATALOGUE, ids=lambda attacks: attacks.name)
async def test_it_is_withstood(attacks: Class) -> None:
    failures = await run(attacks)
    assert not failures, "\n".join(
        f"{case.name}: {error!r} {'; '.join(getattr(error, '__notes__', ()))}" for case, error in failures
    )


def test_names_are_unique() -> None:
    assert not [name for name, count in Counter(attacks.name for attacks in CATALOGUE).items() if count > 1]
    for attacks in CATALOGUE:
        assert attacks.source
        assert not [name for name, count in Counter(case.name for case in attacks.cases).items() if count > 1]


def test_what_the_machines_refuse_is_refused_at_the_wire() -> None:
    sent = {case.data for attacks in http1.CLASSES for case in attacks.cases if isinstance(case, Http1Case)}
    assert {data for data, _ in refusals.HEADS.values()} <= sent
    assert {refusals.CHUNKED + body for body, _ in refusals.BODIES.values()} <= sent
    floods = {case.rounds for attacks in http2.CLASSES for case in attacks.cases if isinstance(case, Flood)}
    assert {rounds for rounds, _ in FLOODS.values()} <= floods


# A check that is taken out of the agent -> a case that has to notice.
BLIND: dict[str, tuple[object, str, object, str, str]] = {
    "any Host": (
        head.RequestHead,
        "_read_host",
        lambda self, value: None,
        "authorities that disagree",
        "Host: b'a/b@c'",
    ),
    "any size": (
        chunked,
        "_SIZE",
        re.compile(rb"\+?([0-9A-Fa-f]+)[^\n]*\n"),
        "chunk sizes that are none",
        "a plus before the size",
    ),
    "any value": (
        fields,
        "_VALUE",
        re.compile(rb"(?s).*"),
        "fields that HTTP/1.1 would read otherwise",
        "a value with a line break",
    ),
    "any answer": (
        head.ResponseHead,
        "complete",
        lambda self: None,
        "answers over HTTP/1.1 that are none",
        "TE in an answer without a body",
    ),
}


@pytest.mark.parametrize("name", BLIND)
async def test_the_verdict_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead, attacks, case = BLIND[name]
    [known] = [each for each in CATALOGUE if each.name == attacks]
    [one] = [each for each in known.cases if each.name == case]
    assert not await run(Class(attacks, "", [one]))
    with monkeypatch.context() as patch:
        patch.setattr(fields, "_known", {})  # what is let through by mistake must not be remembered
        patch.setattr(where, what, instead)
        assert await run(Class(attacks, "", [one]))
