"""All classes, and how they are run."""

from tests.hostile import http1, http1_plays, http2, http2_plays, predictors, resources
from tests.hostile.case import Case, Class
from tests.hostile.site import Site

CATALOGUE: list[Class] = [
    *http1.CLASSES,
    *http1_plays.CLASSES,
    *http2.CLASSES,
    *http2_plays.CLASSES,
    *predictors.CLASSES,
    *resources.CLASSES,
]


async def run(attacks: Class) -> list[tuple[Case, Exception]]:
    """Play the cases of a class one after the other against one agent; returns those that it did not withstand.

    After a failure the agent is another one, for what is left of the case would spoil the next.
    """
    failures: list[tuple[Case, Exception]] = []
    site = await Site().start(**attacks.settings)
    for case in attacks.cases:
        try:
            await case.play(site)
        except Exception as error:
            failures.append((case, error))
            try:
                await site.stop()
            except AssertionError as left:
                error.add_note(f"left behind: {left}")
            site = await Site().start(**attacks.settings)
    await site.stop()
    return failures
