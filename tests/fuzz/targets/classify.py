"""Request targets and gRPC methods: what they are for, and which model they name. Method, a newline, the target."""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from agent.policy.classify import Classifier, Kind, Route
from agent.wire.message import Limits
from tests.fuzz.bounds import bounded, large
from tests.policy import test_classify as tables

PAGE = b"/.headgate/load"


def seeds() -> Iterator[bytes]:
    for target in (*tables.INFERENCE, *tables.PROBES, *tables.METADATA, *tables.CONTROLS, *tables.UNKNOWN, PAGE):
        path = target if isinstance(target, bytes) else target[-1]
        yield b"POST\n" + path
        yield b"GET\n" + path + b"?a=b"
    yield from large(b"POST\n/v2/models/", b"x", b"/", b"%41", b":", b"m/versions/", b"m/infer/", size=16_384)
    for call in tables.CALLS:
        yield b"\n" + (call if isinstance(call, bytes) else call[0])


def check(data: bytes) -> None:
    method, _, target = data[: Limits().target].partition(b"\n")
    for admit_unknown in (False, True):
        classifier = Classifier(admit_unknown=admit_unknown, page=PAGE)
        with bounded(len(data)):
            route = classifier.classify(method, target)
        _check_route(route)
        assert classifier.classify(method, target) == route
        assert route.kind is not Kind.INFERENCE or method == b"POST"
        path, mark, query = target.partition(b"?")
        # However a predictor decodes the path, once, the gate has done the same.
        plain = unquote_to_bytes(path)
        if b"?" not in plain and b"%" not in plain:
            assert classifier.classify(method, plain + mark + query) == route
        encoded = b"".join(b"%%%02x" % byte for byte in plain)
        assert classifier.classify(method, encoded) == route
        for model in ("", "m"):
            with bounded(len(data)):
                call = classifier.classify_call(target, model)
            _check_route(call)
            assert call.kind is not Kind.INFERENCE or not model or call.model == model


def _check_route(route: Route) -> None:
    assert isinstance(route, Route)
    assert route.kind in Kind
    assert not route.model or route.kind is Kind.INFERENCE
