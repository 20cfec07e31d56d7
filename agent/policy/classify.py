"""What a request is: inference is counted and admitted, everything else goes straight through.

The routes are those of the Open Inference Protocol (V2), KServe V1, Triton's generate extension, the OpenAI API as
KServe and vLLM serve it, and TorchServe. Only POST can be inference: a health or repository call must never wait behind
a queue.
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


class Route(NamedTuple):
    """The classification of a request; `model` is empty where the path does not name one."""

    kind: Kind
    model: str = ""


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


class Classifier:
    """Maps (method, target) to a Route and remembers the answer for the targets that repeat.

    `admit_unknown` makes a POST to a route that no protocol knows count as inference; the safer default lets it
    through.
    """

    __slots__ = ("_admit_unknown", "_seen")

    # Bounds what hostile targets can pin; a predictor has a handful of routes.
    MAX_SEEN = 1024
    MAX_TARGET_BYTES = 256

    def __init__(self, *, admit_unknown: bool = False) -> None:
        self._admit_unknown = admit_unknown
        self._seen: dict[tuple[bytes, bytes], Route] = {}

    def classify(self, method: bytes, target: bytes) -> Route:
        """`target` is a request target in origin form, query included."""
        key = (method, target)
        route = self._seen.get(key)
        if route is None:
            route = self._decide(method, target.partition(b"?")[0])
            if len(target) <= self.MAX_TARGET_BYTES:
                if len(self._seen) >= self.MAX_SEEN:
                    self._seen.clear()
                self._seen[key] = route
        return route

    def _decide(self, method: bytes, path: bytes) -> Route:
        # The target is forwarded as it came, but predictors decode it: an encoded letter must not slip past the gate.
        if b"%" in path:
            path = unquote_to_bytes(path)
        if method == b"POST":
            match = _INFERENCE.fullmatch(path)
            if match is not None:
                model = next((group for group in match.groups() if group), b"")
                return Route(Kind.INFERENCE, model.decode("latin-1"))
            if self._admit_unknown and _CONTROL.fullmatch(path) is None:
                return Route(Kind.INFERENCE)
        elif method in {b"GET", b"HEAD"} and _HEALTH.fullmatch(path) is not None:
            return Route(Kind.HEALTH)
        return Route(Kind.CONTROL)
