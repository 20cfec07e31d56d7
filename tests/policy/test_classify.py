"""The route tables of the protocols that KServe predictors speak, each route with every kind of method."""

import tracemalloc

import pytest

from agent.policy.classify import Classifier, Kind, Route

CONTROL, HEALTH = Route(Kind.CONTROL), Route(Kind.HEALTH)


# OpenAI routes whose answers are streams when the body asks for it.
MAY_STREAM = (b"/completions", b"/responses", b"/messages", b"/transcriptions", b"/speech")


def inference(model: str = "", path: bytes = b"") -> Route:
    return Route(
        Kind.INFERENCE,
        model,
        streams=path.endswith((b"/infer_stream", b"/generate_stream")),
        may_stream=b"/v1/" in path and path.endswith(MAY_STREAM),
        hints=path.startswith(b"/v2/") and path.endswith(b"/infer"),
    )


# POST to one of these takes a slot; the value is the model that the path names.
INFERENCE = {
    b"/v2/models/m/infer": "m",
    b"/v2/models/m/infer_stream": "m",
    b"/v2/models/m/generate": "m",
    b"/v2/models/m/generate_stream": "m",
    b"/v2/models/m/versions/7/infer": "m",
    b"/v2/models/m/versions/7/infer_stream": "m",
    b"/v2/models/m/versions/7/generate": "m",
    b"/v2/models/m/versions/7/generate_stream": "m",
    b"/v1/models/m:predict": "m",
    b"/v1/models/m:explain": "m",
    b"/v1/models/m:classify": "m",
    b"/v1/models/m:regress": "m",
    b"/v1/models/m/versions/7:predict": "m",
    b"/v1/models/m/labels/stable:predict": "m",
    b"/v1/models/m/labels/stable:regress": "m",
    b"/predictions/m": "m",
    b"/predictions/m/1.0": "m",
    b"/explanations/m": "m",
    b"/openai/v1/completions": "",
    b"/openai/v1/chat/completions": "",
    b"/openai/v1/embeddings": "",
    b"/openai/v1/rerank": "",
    b"/v1/completions": "",
    b"/v1/chat/completions": "",
    b"/v1/embeddings": "",
    b"/v1/rerank": "",
    b"/v1/responses": "",
    b"/v1/score": "",
    b"/v1/audio/transcriptions": "",
    b"/v1/audio/translations": "",
    b"/v1/timeseries/forecast": "",
}

# GET of one of these is a probe.
PROBES = (
    b"/",
    b"/v2/health/live",
    b"/v2/health/ready",
    b"/v2/models/m/ready",
    b"/v2/models/m/versions/7/ready",
    b"/v1/models/m",
    b"/health",
    b"/ping",
    b"/healthz",
    b"/readyz",
)

METADATA = (
    b"/v2",
    b"/v2/models",
    b"/v2/models/m",
    b"/v2/models/m/config",
    b"/v2/models/m/stats",
    b"/v2/models/m/versions/7",
    b"/v2/models/stats",
    b"/config",
    b"/stats",
    b"/metrics",
    b"/v1/models",
    b"/openai/v1/models",
    b"/docs",
    b"/openapi.json",
)

# POST to one of these is known not to be inference.
CONTROLS = (
    b"/v2/repository/index",
    b"/v2/repository/models/m/load",
    b"/v2/repository/models/m/unload",
    b"/v2/systemsharedmemory/region/r/register",
    b"/v2/systemsharedmemory/unregister",
    b"/v2/cudasharedmemory/region/r/register",
    b"/v2/trace/setting",
    b"/v2/models/m/trace/setting",
    b"/v2/logging",
    b"/tokenize",
    b"/detokenize",
    b"/load",
)

UNKNOWN = (b"/", b"/my/route", b"/v2/models/m", b"/v2/models/m/infer/more", b"/v2/models//infer", b"/V2/MODELS/m/infer")
METHODS = (b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS")


@pytest.fixture(params=[False, True], ids=["bypass", "admit"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return Classifier(admit_unknown=request.param)


@pytest.mark.parametrize("path", INFERENCE)
def test_inference_is_a_post_to_an_inference_route(classifier: Classifier, path: bytes) -> None:
    expected = inference(INFERENCE[path], path)
    for target in (path, path + b"?trace=1", path + b"?a=/v2/health/live"):
        assert classifier.classify(b"POST", target) == expected
    for method in METHODS:
        assert classifier.classify(method, path).kind is not Kind.INFERENCE


@pytest.mark.parametrize("path", [path for path in INFERENCE if b":" not in path])
def test_a_slash_at_the_end_makes_no_difference(classifier: Classifier, path: bytes) -> None:
    assert classifier.classify(b"POST", path + b"/") == inference(INFERENCE[path], path)


@pytest.mark.parametrize("path", INFERENCE)
def test_an_encoded_letter_does_not_slip_past_the_gate(classifier: Classifier, path: bytes) -> None:
    for place in range(1, len(path)):
        encoded = path[:place] + b"%%%02x" % path[place] + path[place + 1 :]
        assert classifier.classify(b"POST", encoded) == inference(INFERENCE[path], path)
    everything = b"/" + b"".join(b"%%%02X" % byte for byte in path[1:])
    assert classifier.classify(b"POST", everything) == inference(INFERENCE[path], path)


@pytest.mark.parametrize("path", PROBES)
def test_a_probe_is_never_queued(classifier: Classifier, path: bytes) -> None:
    for method in (b"GET", b"HEAD"):
        for target in (path, path + b"?verbose", path if path == b"/" else path + b"/"):
            assert classifier.classify(method, target) == HEALTH


@pytest.mark.parametrize("path", METADATA)
def test_metadata_is_control(classifier: Classifier, path: bytes) -> None:
    assert classifier.classify(b"GET", path) == CONTROL


@pytest.mark.parametrize("path", CONTROLS)
def test_a_known_post_that_is_not_inference_bypasses_under_either_setting(classifier: Classifier, path: bytes) -> None:
    for method in (b"POST", *METHODS):
        assert classifier.classify(method, path) == CONTROL


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_post_is_what_the_setting_says(path: bytes) -> None:
    assert Classifier().classify(b"POST", path) == CONTROL
    assert Classifier(admit_unknown=True).classify(b"POST", path) == inference()


@pytest.mark.parametrize("path", [*UNKNOWN[1:2], b"*"])
def test_an_unknown_route_without_post_bypasses(classifier: Classifier, path: bytes) -> None:
    for method in METHODS:
        assert classifier.classify(method, path) == CONTROL


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/v2/models/my-model.v1_2/infer", "my-model.v1_2"),
        (b"/v2/models/a%20b/infer", "a b"),
        (b"/v2/models/%C3%A4/infer", "\u00c3\u00a4"),
        (b"/v2/models/100%/infer", "100%"),
        (b"/v2/models/versions/versions/versions/infer", "versions"),
        (b"/v2/models/infer/infer", "infer"),
    ],
)
def test_the_model_is_what_the_path_names(path: bytes, model: str) -> None:
    assert Classifier().classify(b"POST", path) == inference(model, path)


def test_an_answer_that_is_remembered_is_the_same_answer(classifier: Classifier) -> None:
    targets = [*INFERENCE, *PROBES, *METADATA, *CONTROLS, *UNKNOWN]
    questions = [(method, target) for method in (b"POST", *METHODS) for target in targets]
    first = [classifier.classify(*question) for question in questions]
    assert [classifier.classify(*question) for question in questions] == first


def test_hostile_targets_pin_little_memory() -> None:
    classifier = Classifier()
    tracemalloc.start()
    try:
        for number in range(3 * Classifier.MAX_SEEN):
            classifier.classify(b"POST", b"/v2/models/m/infer?%d" % number)
        short = tracemalloc.get_traced_memory()[0]
        for number in range(3 * Classifier.MAX_SEEN - 1):
            classifier.classify(b"POST", b"/v2/models/m/infer?%b%d" % (b"x" * 10_000, number))
        long = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert short < 1 << 20
    assert long < 2 << 20


V2, TFS = b"/inference.GRPCInferenceService/", b"/tensorflow.serving.PredictionService/"
TORCH = b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
CALLS = {
    V2 + b"ModelInfer": Route(Kind.INFERENCE, inside=True, hints=True),
    V2 + b"ModelStreamInfer": Route(Kind.INFERENCE, inside=True, streams=True, messages=True),
    V2 + b"ServerLive": HEALTH,
    V2 + b"ServerReady": HEALTH,
    V2 + b"ModelReady": HEALTH,
    V2 + b"ModelMetadata": CONTROL,
    V2 + b"RepositoryModelLoad": CONTROL,
    V2 + b"ModelStatistics": CONTROL,
    b"/grpc.health.v1.Health/Check": HEALTH,
    b"/grpc.health.v1.Health/Watch": HEALTH,
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": CONTROL,
    TFS + b"Predict": Route(Kind.INFERENCE),
    TFS + b"MultiInference": Route(Kind.INFERENCE),
    TFS + b"GetModelMetadata": CONTROL,
    TORCH + b"Predictions": Route(Kind.INFERENCE, inside=True),
    TORCH + b"StreamPredictions": Route(Kind.INFERENCE, inside=True, streams=True),
    TORCH + b"Ping": CONTROL,
    b"/my.Service/Method": CONTROL,
    V2 + b"modelinfer": CONTROL,
    V2 + b"ModelInfer/": CONTROL,
}


@pytest.mark.parametrize("target", CALLS)
def test_grpc_methods(target: bytes) -> None:
    classifier = Classifier()
    assert classifier.classify_call(target, "") == CALLS[target] == classifier.classify_call(target, "")


@pytest.mark.parametrize("target", CALLS)
def test_mm_model_id_names_the_model_and_makes_unknown_services_inference(target: bytes) -> None:
    route = CALLS[target]
    if target == b"/my.Service/Method":
        route = Route(Kind.INFERENCE, lasts=True)
    expected = route._replace(model="m", inside=False) if route.kind is Kind.INFERENCE else route
    assert Classifier().classify_call(target, "m") == expected


def test_unknown_services_are_admitted_on_request() -> None:
    classifier = Classifier(admit_unknown=True)
    assert classifier.classify_call(b"/my.Service/Method", "") == Route(Kind.INFERENCE, lasts=True)
    named = classifier.classify_call(b"/my.Service/Method", "m")
    assert named == Route(Kind.INFERENCE, "m", lasts=True)
    assert classifier.classify_call(b"/tensorflow.serving.PredictionService/Predict", "m") == named._replace(
        lasts=False
    )
    for target, route in CALLS.items():
        if target != b"/my.Service/Method":
            assert classifier.classify_call(target, "") == route


def test_a_message_names_its_model_and_names_are_forgotten_before_they_fill_the_memory() -> None:
    classifier = Classifier()
    route = classifier.classify_call(V2 + b"ModelInfer", "")
    for number in range(3 * Classifier.MAX_SEEN):
        assert classifier.name(route, f"m{number}") == Route(Kind.INFERENCE, f"m{number}", hints=True)
    assert len(classifier._named) <= Classifier.MAX_SEEN
    assert classifier.name(route, "m1") is classifier.name(route, "m1")
    stream = classifier.classify_call(V2 + b"ModelStreamInfer", "")
    assert classifier.name(stream, "m1") == Route(Kind.INFERENCE, "m1", streams=True, messages=True)
