"""Every failure in every phase, and who leaves how, over TLS on both sides: the same tests, with other sockets."""

# ruff: noqa: F403 - the tests of other modules, with a bed of this one's
import pytest

from tests.faults.test_client import *
from tests.faults.test_drain import *
from tests.faults.test_phases import *
from tests.faults.test_predictor import *
from tests.net.bed import Opener

del test_many_failures_leave_the_full_capacity  # noqa: F821 - counts on a dial to take no time
del test_clients_that_leave_while_the_predictor_is_down_are_not_sent_to_it  # noqa: F821 - leaves within 10 ms
del test_a_close_that_the_loop_has_not_heard_of_is_seen  # noqa: F821 - an answer and its close come in one turn


@pytest.fixture
def bed(tls_bed: Opener) -> Opener:
    return tls_bed
