"""What a request can ask of the models, whatever predictor runs them.

delay_s   work for so many seconds
hold      wait until a request says `release` with the same key; once released, a key holds nobody
release   see `hold`
begun     wait until the model has begun so many requests, this one not counted
fail      "input": blame the request; "crash": raise what no handler expects
"""

import asyncio
from collections.abc import Mapping


class BadInputError(Exception):
    """The request asked to be found wrong."""


class Behaviour:
    """The state of one model."""

    def __init__(self) -> None:
        self._gates: dict[str, asyncio.Event] = {}
        self._begun = 0
        self._news = asyncio.Condition()

    async def play(self, wishes: Mapping[str, object]) -> None:
        """Do what the request's parameters ask for. Raises BadInputError, or ZeroDivisionError for a crash."""
        async with self._news:
            if begun := wishes.get("begun"):
                await self._news.wait_for(lambda: self._begun >= int(str(begun)))
            else:
                self._begun += 1
                self._news.notify_all()
        if release := wishes.get("release"):
            self._open(str(release))
        if delay_s := wishes.get("delay_s"):
            await asyncio.sleep(float(str(delay_s)))
        if hold := wishes.get("hold"):
            await self._pass(str(hold))
        match wishes.get("fail"):
            case "input":
                raise BadInputError("the request asked to be found wrong")
            case "crash":
                raise ZeroDivisionError("the request asked for a crash")

    def _open(self, key: str) -> None:
        self._gate(key).set()

    async def _pass(self, key: str) -> None:
        await self._gate(key).wait()

    def _gate(self, key: str) -> asyncio.Event:
        return self._gates.setdefault(key, asyncio.Event())
