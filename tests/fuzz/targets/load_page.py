"""Requests for the load page: method, a newline, the Accept field, a newline, the target."""

import json
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import FakeServer
from tests.fuzz.bounds import bounded

_SERVER = FakeServer()


def seeds() -> Iterator[bytes]:
    for query in (b"", b"?window=60s", b"?window=15", b"?a=b&window=1s&c", b"?window=0", b"?window=999", b"?window=x"):
        yield b"GET\n*/*\n/.headgate/load" + query
    yield b"HEAD\ntext/plain;version=0.0.4,*/*;q=0.1\n/.headgate/load?window=60s"
    yield b"POST\napplication/openmetrics-text, application/json\n/.headgate/load"


def check(data: bytes) -> None:
    method, _, rest = data.partition(b"\n")
    accept, _, target = rest.partition(b"\n")
    with bounded(len(data)):
        page = _SERVER.load.answer(method, target, accept, 0.0)
    assert page.status in {200, 400, 405}
    assert (page.status == 405) == (method not in {b"GET", b"HEAD"}) == bool(page.allow)
    if page.content_type == "application/json":
        assert isinstance(json.loads(page.body), dict)
    else:
        assert list(text_string_to_metric_families(page.body.decode()))
