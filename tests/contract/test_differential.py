"""What the agent forwards of ambiguous requests predictors read as it did; `tests.fuzz.differential` has the rest."""

from itertools import chain, islice
from pathlib import Path

import pytest

from tests.fuzz import ambiguous
from tests.fuzz.differential import REFUSED, comes_to_an_end, judging

from .processes import Server

pytestmark = pytest.mark.contract


def test_ambiguous_requests_are_refused_or_read_as_the_agent_reads_them(server: Server, tmp_path: Path) -> None:
    """All that is not refused of the table, and of so many from the generator; of the others one in ten."""
    inputs = list(chain(ambiguous.table(), islice(ambiguous.generated(1), 100)))
    refused = [data for data in inputs if comes_to_an_end(data) == "fault"]
    asked = [data for data in inputs if comes_to_an_end(data) not in {"fault", ""}] + refused[::10]
    with judging(server, tmp_path) as judge:
        results = [judge.judge(data) for data in asked]
    wrong = {result.data: result.wrong for result in results if result.wrong}
    assert not wrong
    refusals = [result for result in results if result.kind == REFUSED]
    assert [result.data for result in refusals][-len(refused[::10]) :] == refused[::10]
    assert len(results) - len(refusals) > 40
