"""What is promised in the clear, over TLS on both sides: the same tests, with other sockets."""

# ruff: noqa: F403 - the tests of other modules, with a bed of this one's
import pytest

from tests.net.bed import Opener
from tests.net.test_pipeline import *
from tests.net.test_relay import *
from tests.net.test_stream import *
from tests.net.test_tunnel import *

del test_a_predictor_on_a_unix_socket  # noqa: F821 - in the clear


@pytest.fixture
def bed(tls_bed: Opener) -> Opener:
    return tls_bed
