"""What a request is: inference is counted and admitted, everything else goes straight through.

The routes are those of the Open Inference Protocol (V2), KServe V1, Triton's generate extension, the OpenAI API as
KServe and vLLM serve it, and TorchServe; over gRPC the methods of the Open Inference Protocol, TensorFlow Serving and
TorchServe, and whatever names its model for ModelMesh. Only POST can be inference: a health or repository call must
never wait behind a queue.
"""

import re
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote_to_bytes


class Kind(StrEnum):
    """What a request is for. Only `INFERENCE` takes a slot."""

    INFERENCE = "inference"
    HEALTH = "health"
    CONTROL = "control"  # metadata, repository, metrics and whatever the route table does not know
    PAGE = "page"  # the agent's own, never forwarded and never counted


class Route(NamedTuple):
    """The classification of a request; `model` is empty where neither path nor metadata name one.

    `inside` says that the first gRPC message names it, `streams` that the answer comes in pieces and its first byte
    counts, `may_stream` that it does if the client asks so in the body, `messages` that each message is a request
    of its own, `hints` that its first bytes are a request of the Open Inference Protocol (see `wire.hints`), and
    `lasts` that nobody knows whether its request has an end: it may be a stream that says nothing for long.
    """

    kind: Kind
    model: str = ""
    inside: bool = False
    streams: bool = False
    may_stream: bool = False
    messages: bool = False
    hints: bool = False
    lasts: bool = False


_MODEL = rb"/models/([^/:]+)(?:/(?:versions|labels)/[^/:]+)?"
_INFERENCE = re.compile(
    rb"/v2" + _MODEL + rb"/(?:infer|infer_stream|generate|generate_stream)/?"
    rb"|/v1" + _MODEL + rb":(?:predict|explain|classify|regress)"
    rb"|/(?:predictions|explanations)/([^/]+)(?:/[^/]+)?/?"
    rb"|(?:/[^/]+)?/v1/(?:completions|chat/completions|embeddings|rerank|responses|messages|score|classify|pooling"
    rb"|moderations|audio/(?:transcriptions|translations|speech)|images/(?:generations|edits|variations))/?"
    rb"|/v1/timeseries/forecast/?|/v2/rerank/?|/rerank/?|/score/?|/pooling/?|/classify/?|/invocations/?"
    rb"|/generate(?:_stream)?/?"
)
_HINTS = re.compile(rb"/v2" + _MODEL + rb"/infer/?")
_STREAMS = re.compile(rb"/(?:infer_stream|generate_stream)/?$")
# The OpenAI routes stream when the body says so.
_MAY_STREAM = re.compile(rb"/v1/(?:completions|chat/completions|responses|messages|audio/(?:transcriptions|speech))/?$")
_HEALTH = re.compile(
    rb"/|/v2/health/(?:live|ready)/?|/v2"
    + _MODEL
    + rb"/ready/?|/v1"
    + _MODEL
    + rb"/?|/health/?|/ping/?|/healthz/?|/readyz/?|/livez/?"
)
# The rest of the protocols' POST routes: known, so that `--unknown-route admit` does not queue them.
_CONTROL = re.compile(
    rb"/v2/repository/.*|/v2/(?:trace|logging)(?:/.*)?|/v2/(?:system|cuda)sharedmemory/.*|/v2"
    + _MODEL
    + rb"/trace/setting"
    rb"|/(?:de)?tokenize/?|/load/?|/models(?:/.*)?|/v1/(?:un)?load_lora_adapter/?"
)


_GRPC_INFERENCE = {
    b"/inference.GRPCInferenceService/ModelInfer": Route(Kind.INFERENCE, inside=True, hints=True),
    b"/inference.GRPCInferenceService/ModelStreamInfer": Route(
        Kind.INFERENCE, inside=True, streams=True, messages=True
    ),
    b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": Route(Kind.INFERENCE, inside=True),
    b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions": Route(
        Kind.INFERENCE, inside=True, streams=True
    ),
    b"/tensorflow.serving.PredictionService/Predict": Route(Kind.INFERENCE),
    b"/tensorflow.serving.PredictionService/Classify": Route(Kind.INFERENCE),
    b"/tensorflow.serving.PredictionService/Regress": Route(Kind.INFERENCE),
    b"/tensorflow.serving.PredictionService/MultiInference": Route(Kind.INFERENCE),
}
_GRPC_HEALTH = re.compile(
    rb"/grpc\.health\.v1\.Health/.*|/inference\.GRPCInferenceService/(?:Server(?:Live|Ready)|ModelReady)"
)
# Services of which every other method is metadata or control; `--unknown-route admit` does not queue them.
_GRPC_CONTROL = re.compile(
    rb"/(?:inference\.GRPCInferenceService|tensorflow\.serving\.(?:PredictionService|ModelService)"
    rb"|org\.pytorch\.serve\.grpc\.\w+\.\w+|grpc\.(?:health|reflection)\.\w+\.\w+)/.*"
)


class Classifier:
    """Maps (method, target) to a Route and remembers the answer for the targets that repeat.

    `admit_unknown` makes a POST to a route that no protocol knows count as inference; the safer default lets it
    through. `page` is the path that the agent answers itself, empty for none.
    """

    __slots__ = ("_admit_unknown", "_named", "_page", "_seen")

    # Bounds what hostile targets can pin; a predictor has a handful of routes.
    MAX_SEEN = 1024
    MAX_TARGET_BYTES = 256

    def __init__(self, *, admit_unknown: bool = False, page: bytes = b"") -> None:
        self._admit_unknown = admit_unknown
        self._page = page
        self._seen: dict[tuple[bytes, bytes], Route] = {}
        self._named: dict[tuple[bool, bool, bool, bool, str], Route] = {}

    def classify(self, method: bytes, target: bytes) -> Route:
        """`target` is a request target in origin form, query included."""
        key = (method, target)
        route = self._seen.get(key)
        if route is None:
            route = self._decide(method, target.partition(b"?")[0])
            self._keep(key, route)
        return route

    def classify_call(self, target: bytes, model: str) -> Route:
        """A gRPC call's method in path form, and what `mm-model-id` names or ""."""
        key = (b"", target)
        route = self._seen.get(key)
        if route is None:
            route = self._decide_call(target)
            self._keep(key, route)
        if not model:
            return route
        if route.kind is Kind.CONTROL and _GRPC_CONTROL.fullmatch(target) is None:
            return Route(Kind.INFERENCE, model, lasts=True)  # ModelMesh serves the predictors' own services
        return self.name(route, model) if route.kind is Kind.INFERENCE else route

    def name(self, route: Route, model: str) -> Route:
        """The same route, now that its message has named the model."""
        key = (
            route.streams,
            route.messages,
            route.hints,
            route.lasts,
            model,
        )  # all that distinguishes routes that a message names
        named = self._named.get(key)
        if named is None:
            named = route._replace(model=model, inside=False)
            if len(model) <= self.MAX_TARGET_BYTES:
                if len(self._named) >= self.MAX_SEEN:
                    self._named.clear()
                self._named[key] = named
        return named

    def _keep(self, key: tuple[bytes, bytes], route: Route) -> None:
        if len(key[1]) <= self.MAX_TARGET_BYTES:
            if len(self._seen) >= self.MAX_SEEN:
                self._seen.clear()
            self._seen[key] = route

    def _decide_call(self, target: bytes) -> Route:
        if target.partition(b"?")[0] == self._page:
            return Route(Kind.PAGE)
        inference = _GRPC_INFERENCE.get(target)
        if inference is not None:
            return inference
        if _GRPC_HEALTH.fullmatch(target) is not None:
            return Route(Kind.HEALTH)
        if self._admit_unknown and _GRPC_CONTROL.fullmatch(target) is None:
            return Route(Kind.INFERENCE, lasts=True)
        return Route(Kind.CONTROL)

    def _decide(self, method: bytes, path: bytes) -> Route:
        # The target is forwarded as it came, but predictors decode it: an encoded letter must not slip past the gate.
        if b"%" in path:
            path = unquote_to_bytes(path)
        if path == self._page:
            return Route(Kind.PAGE)
        if method == b"POST":
            match = _INFERENCE.fullmatch(path)
            if match is not None:
                model = next((group for group in match.groups() if group), b"")
                return Route(
                    Kind.INFERENCE,
                    model.decode("latin-1"),
                    streams=_STREAMS.search(path) is not None,
                    may_stream=_MAY_STREAM.search(path) is not None,
                    hints=_HINTS.fullmatch(path) is not None,
                )
            if self._admit_unknown and _CONTROL.fullmatch(path) is None:
                return Route(Kind.INFERENCE)
        elif method in {b"GET", b"HEAD"} and _HEALTH.fullmatch(path) is not None:
            return Route(Kind.HEALTH)
        return Route(Kind.CONTROL)
