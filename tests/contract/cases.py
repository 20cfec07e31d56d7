"""What is asked of the real predictors, directly and through the agent."""

from dataclasses import dataclass

from . import payloads
from .payloads import INFER, JSON, PREDICT, STREAM, v1, v2
from .rawhttp import Request, chunked, request

ALL = ("kserve", "mlserver", "triton")
BOTH = ("kserve", "mlserver")
KSERVE = ("kserve",)
MLSERVER = ("mlserver",)
TRITON = ("triton",)
BINARY = ("kserve", "triton")
ZIPS = ("mlserver", "triton")

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that are sent one after another on one connection, and the statuses that the predictor answers with."""

    name: str
    predictors: tuple[str, ...]
    requests: tuple[Request, ...]
    statuses: tuple[int, ...]


def one(name: str, predictors: tuple[str, ...], status: int, sent: Request) -> Case:
    """A case of one request."""
    return Case(name, predictors, (sent,), (status,))


def inference() -> list[Case]:
    """Requests that are counted and admitted, and the ways in which they go wrong."""
    return [
        one("v2 json", ALL, 200, request("POST", INFER, v2(), JSON)),
        one("v2 json, no id", BINARY, 200, request("POST", INFER, v2(request_id=""), JSON)),
        one("v2 json, query", ALL, 200, request("POST", f"{INFER}?trace=a%20b&c", v2(), JSON)),
        one("v2 json, encoded path", BOTH, 200, request("POST", "/v2/models/%64ouble/infer", v2(), JSON)),
        one("v2 version", KSERVE, 501, request("POST", "/v2/models/double/versions/1/infer", v2(), JSON)),
        one("v2 version", MLSERVER, 404, request("POST", "/v2/models/double/versions/1/infer", v2(), JSON)),
        one("v2 version", TRITON, 200, request("POST", "/v2/models/double/versions/1/infer", v2(), JSON)),
        one("encoded path", TRITON, 404, request("POST", "/v2/models/%64ouble/infer", v2(), JSON)),
        one("v2 trailing slash", BOTH, 307, request("POST", f"{INFER}/", v2(), JSON)),
        one("generate", MLSERVER, 200, request("POST", "/v2/models/double/generate", v2(), JSON)),
        one("server-sent events", MLSERVER, 200, request("POST", STREAM, v2(), JSON)),
        one("v1", KSERVE, 200, request("POST", PREDICT, v1(), JSON)),
        one("v1 in chunks", KSERVE, 200, request("POST", PREDICT, v1(stream=True), JSON)),
        one("v1", MLSERVER, 404, request("POST", PREDICT, v1(), JSON)),
        one("explain", KSERVE, 501, request("POST", "/v1/models/double:explain", v1(), JSON)),
        one("unknown model", ALL, 404, request("POST", "/v2/models/nobody/infer", v2(), JSON)),
        one("unknown v1 model", KSERVE, 404, request("POST", "/v1/models/nobody:predict", v1(), JSON)),
        one("bad input", ALL, 400, request("POST", INFER, v2(model_parameters={"fail": "input"}), JSON)),
        one("model crash", BOTH, 500, request("POST", INFER, v2(model_parameters={"fail": "crash"}), JSON)),
        one("malformed json", BOTH, 422, request("POST", INFER, b'{"inputs": [', JSON)),
        one("malformed json", TRITON, 500, request("POST", INFER, b'{"inputs": [', JSON)),
        one("malformed v1 json", KSERVE, 400, request("POST", PREDICT, b'{"instances": [', JSON)),
        one("not a v2 request", BOTH, 422, request("POST", INFER, b'{"inputs": 1}', JSON)),
        one("empty body", BOTH, 422, request("POST", INFER, b"", JSON)),
        one("no body at all", BOTH, 422, request("POST", INFER, None, JSON)),
        one("no body at all", TRITON, 200, request("POST", INFER, None, JSON)),
        one("no content type", KSERVE, 400, request("POST", INFER, v2())),
        one("no content type", MLSERVER, 200, request("POST", INFER, v2())),
        one("body nobody reads", ALL, 404, request("POST", "/no/such/route", bytes(8 * MB))),
        one("chunked upload", ALL, 200, chunked("POST", INFER, [v2()[:9], v2()[9:10], v2()[10:]], JSON)),
        one("chunked, trailer", ALL, 200, chunked("POST", INFER, [v2()], JSON, trailer="X-Sum: 1")),
        one("close", ALL, 200, request("POST", INFER, v2(), JSON, "Connection: close")),
    ]


def compression() -> list[Case]:
    """Bodies that are compressed by either side."""
    both_zipped = request("POST", INFER, payloads.zipped(v2(_LONG)), JSON, "Content-Encoding: gzip", _ACCEPT)
    return [
        one("gzip answer", ZIPS, 200, request("POST", INFER, v2(_LONG), JSON, _ACCEPT)),
        one("gzip not for small ones", MLSERVER, 200, request("POST", INFER, v2(), JSON, _ACCEPT)),
        one("gzip unwanted", ALL, 200, request("POST", INFER, v2(_LONG), JSON, "Accept-Encoding: identity")),
        one("gzip unsupported", KSERVE, 200, request("POST", INFER, v2(_LONG), JSON, _ACCEPT)),
        one("gzip both ways", ZIPS, 200, both_zipped),
        one("gzip upload", KSERVE, 400, both_zipped),
    ]


def tensors() -> list[Case]:
    """Large and binary tensors. MLServer knows no binary tensors over REST."""
    cases = []
    for name, size in {"small": 12, "1 MB": MB, "8 MB": 8 * MB}.items():
        body, fields = payloads.v2_binary(payloads.floats(size))
        cases.append(one(f"binary, {name}", BINARY, 200, request("POST", INFER, body, *fields)))
    body, fields = payloads.v2_binary(payloads.floats(12), binary_answer=False)
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    return [
        *cases,
        one("binary in, json out", BINARY, 200, request("POST", INFER, body, *fields)),
        one("binary in chunks", BINARY, 200, chunked("POST", INFER, pieces, *fields)),
        one("binary", MLSERVER, 500, request("POST", INFER, body, *fields)),
        one("json, 1 MB", ALL, 200, request("POST", INFER, _json_of(MB), JSON)),
        one("json, 8 MB", MLSERVER, 200, request("POST", INFER, _json_of(8 * MB), JSON)),
    ]


def metadata() -> list[Case]:
    """Requests that go through uncounted."""
    return [
        one("live", ALL, 200, request("GET", "/v2/health/live")),
        one("ready", ALL, 200, request("GET", "/v2/health/ready")),
        one("model ready", ALL, 200, request("GET", "/v2/models/double/ready")),
        one("unknown model ready", BOTH, 404, request("GET", "/v2/models/nobody/ready")),
        one("unknown model ready", TRITON, 400, request("GET", "/v2/models/nobody/ready")),
        one("config", TRITON, 200, request("GET", "/v2/models/double/config")),
        one("statistics of nobody", TRITON, 400, request("GET", "/v2/models/nobody/stats")),
        one("server", ALL, 200, request("GET", "/v2")),
        one("model", ALL, 200, request("GET", "/v2/models/double")),
        one("unknown model", ALL, 404, request("GET", "/v2/models/nobody")),
        one("root", KSERVE, 200, request("GET", "/")),
        one("root", MLSERVER, 404, request("GET", "/")),
        one("models", KSERVE, 200, request("GET", "/v2/models")),
        one("v1 models", KSERVE, 200, request("GET", "/v1/models")),
        one("v1 model", KSERVE, 200, request("GET", "/v1/models/double")),
        one("openapi", KSERVE, 200, request("GET", "/openapi.json")),
        one("openapi, gzip", MLSERVER, 200, request("GET", "/v2/docs/dataplane.json", None, _ACCEPT)),
        one("docs", MLSERVER, 200, request("GET", "/v2/docs")),
        one("repository", ZIPS, 200, request("POST", "/v2/repository/index", b"{}", JSON)),
        one("repository", KSERVE, 404, request("POST", "/v2/repository/index", b"{}", JSON)),
        one("load nobody", MLSERVER, 404, request("POST", "/v2/repository/models/nobody/load", b"")),
        one("load nobody", TRITON, 503, request("POST", "/v2/repository/models/nobody/load", b"")),
        one("unknown route", ALL, 404, request("GET", "/no/such/route?q")),
        one("unknown route, post", ALL, 404, request("POST", "/no/such/route", b"anything")),
        one("get where post belongs", ALL, 405, request("GET", INFER)),
        one("head", BOTH, 405, request("HEAD", "/v2/health/live")),
        one("head of nothing", BOTH, 404, request("HEAD", "/no/such/route")),
        one("options", ALL, 405, request("OPTIONS", INFER)),
        one("put", ALL, 405, request("PUT", INFER, v2(), JSON)),
        one("delete", ALL, 405, request("DELETE", "/v2/models/double")),
    ]


def sequences() -> list[Case]:
    """Several requests on one connection, errors and bodyless answers between good ones."""
    infer = request("POST", INFER, v2(), JSON)
    # Not a crash: uvicorn closes the connection after one, without a word.
    bad = request("POST", INFER, v2(model_parameters={"fail": "input"}), JSON)
    upload = chunked("POST", INFER, [v2()], JSON)
    head, live = request("HEAD", "/v2/health/live"), request("GET", "/v2/health/live")
    index = request("POST", "/v2/repository/index", b"{}", JSON)
    unload, load = (request("POST", f"/v2/repository/models/other/{verb}", b"") for verb in ("unload", "load"))
    other = request("POST", "/v2/models/other/infer", v2(), JSON)
    mixed = (infer, head, upload, bad, live, request("GET", "/none"), infer, request("DELETE", "/v2"), upload, infer)
    most = (infer, upload, bad, live, request("GET", "/none"), infer, request("DELETE", "/v2"), upload, infer)
    return [
        Case("most", TRITON, most, (200, 200, 400, 200, 404, 200, 405, 200, 200)),
        Case("mixed", BOTH, mixed, (200, 405, 200, 400, 200, 404, 200, 405, 200, 200)),
        Case("fifty", ALL, (infer,) * 50, (200,) * 50),
        Case("streams", MLSERVER, (request("POST", STREAM, v2(), JSON), infer) * 3, (200,) * 6),
        Case("streams", KSERVE, (request("POST", PREDICT, v1(stream=True), JSON), infer) * 3, (200,) * 6),
        Case("repository", MLSERVER, (unload, index, other, load, index, other), (200, 200, 404, 200, 200, 200)),
    ]


_ACCEPT = "Accept-Encoding: gzip"
# Longer than the 500 bytes below which MLServer does not compress.
_LONG = [float(value) for value in range(500)]


def _json_of(size: int) -> bytes:
    """A V2 request of about `size` bytes."""
    return v2([0.125] * (size // len("0.125, ")))
