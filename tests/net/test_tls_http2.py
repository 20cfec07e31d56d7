"""What is promised of HTTP/2 in the clear, over TLS on both sides: the same tests, with other sockets."""

# ruff: noqa: F403 - the tests of other modules, with a bed of this one's
import pytest

from tests.net.http2_bed import Http2Opener
from tests.net.test_http2_cancel import *
from tests.net.test_http2_flow import *
from tests.net.test_http2_relay import *

del test_both_protocols_on_one_port  # noqa: F821 - ALPN decides, in test_tls
del test_a_route_without_http2_says_so  # noqa: F821 - the same


@pytest.fixture
def h2bed(tls_h2bed: Http2Opener) -> Http2Opener:
    return tls_h2bed
