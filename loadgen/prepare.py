"""From settings to a target: asks the server what the model takes, and encodes the requests before any clock starts."""

import contextlib
import itertools
import json
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen import h2
from loadgen.answers import read_answer
from loadgen.bodies import binary_body, chat_body, grpc_body, random_prompt, v1_body
from loadgen.client import MAX_CONNECTIONS, Address, Tls
from loadgen.grpc_client import call
from loadgen.http_client import fetch, resolve
from loadgen.inputs import read_entries, read_folder, values_of
from loadgen.payload import (
    POOL_BODIES,
    GivenError,
    PayloadError,
    Tensor,
    Values,
    encode_request,
    json_body,
    model_path,
    pool_size,
    random_values,
    resolve_tensors,
    zero_values,
)
from loadgen.record import Cause, GrpcStatus, Outcome, Sample, status_name
from loadgen.settings import Settings
from loadgen.shm import REGIONS, SharedMemoryError, grpc_message, grpc_shared, json_shared
from loadgen.target import Target, Wire
from loadgen.units import format_duration
from loadgen.values import Protocol
from protos.open_inference_pb2 import ModelMetadataRequest, ModelMetadataResponse

_SERVICE = "/inference.GRPCInferenceService"
_METHODS = {Protocol.GRPC: "ModelInfer", Protocol.GRPC_STREAM: "ModelStreamInfer"}
_WIRES = {Protocol.GRPC: Wire.GRPC, Protocol.OPENAI: Wire.EVENTS}
_MIX = 1000
# Below it JSON is as short, and a server need not be asked what else it takes.
_BINARY_PAYS = 1000
_PROMPT_LENGTH = 200
_CHAT = "/v1/chat/completions"
_TEXT = 200  # characters of a server's own words in a message


class UnreachableError(Exception):
    """The target cannot be asked; the text says how that showed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A target, and what a reader wants to know of its requests."""

    target: Target
    tensors: Sequence[Tensor]
    bodies: int
    mean_bytes: float
    request: str


async def prepare(settings: Settings) -> Prepared:
    """Raises UnreachableError, and PayloadError where no request can be made."""
    try:
        address = await resolve(settings.url.host, settings.url.port)
    except OSError as error:
        raise UnreachableError(f"{settings.url.host}: {error.strerror}") from None
    server = Server(settings, address, make_tls(settings))
    pools, tensors = [], []
    for model in settings.models or ("",):
        inputs = await server.inputs(model) if settings.has_tensors else _typed(settings.shape)
        tensors += inputs
        pools.append(await server.pool(model, inputs))
    order = _mixed([weight for _, weight in settings.model] or [1.0])
    feeds = [itertools.cycle(pool) for pool in pools]
    several = len(pools) > 1
    wire = await server.wire(pools[0][0])
    target = Target(
        address,
        [next(feeds[number]) for number in order] if several else pools[0],
        settings.timeout,
        max_connections=most_connections(settings),
        wire=wire,
        tls=server.tls,
        head=server.infer_head() if settings.is_grpc else b"",
        streams=settings.streams,
        models=settings.models,
        model_of=order if several else (),
    )
    sizes = [len(request) for pool in pools for request in pool]
    return Prepared(target, tensors, len(sizes), sum(sizes) / len(sizes), _described(settings, tensors))


def _hint(cause: Cause, settings: Settings) -> str:
    """What to look at where not even a question was answered."""
    match cause:
        case Cause.CONNECT if settings.url.is_tls:
            return "; does it listen there and speak TLS, and do you trust its certificate (--ca)?"
        case Cause.CONNECT if settings.is_grpc:
            return "; does it listen there, and is that its gRPC port?"
        case Cause.CONNECT:
            return "; does it listen there?"
        case Cause.TIMEOUT:
            return f"; it said nothing for {format_duration(settings.timeout)} (--timeout)"
    return "; does it speak gRPC there (grpc://)?" if not settings.is_grpc else "; is that its gRPC port?"


def most_connections(settings: Settings) -> int:
    """How many may be opened, so that no more than --max-in-flight requests are under way."""
    shared = settings.streams if settings.is_grpc else 1
    return settings.connections or max(1, min(settings.max_in_flight // shared, MAX_CONNECTIONS))


def _typed(shapes: Sequence[Tensor]) -> list[Tensor]:
    return [shape._replace(datatype=shape.datatype or "FP32") for shape in shapes]


def _described(settings: Settings, tensors: Sequence[Tensor]) -> str:
    what = ", ".join(dict.fromkeys(map(str, tensors))) + (" in shared memory" if settings.shm == "system" else "")
    if settings.protocol is Protocol.OPENAI:
        return f"chat, at most {settings.max_tokens} tokens"
    return what or ("the given body" if settings.protocol is Protocol.POST else "the given requests")


def make_tls(settings: Settings) -> Tls | None:
    """How to speak TLS; None in the clear. Raises PayloadError for certificates that cannot be read."""
    if not settings.url.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as error:  # ssl.SSLError is one
        raise GivenError(f"--ca, --cert or --key: {error.strerror or error}") from None
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if settings.is_grpc else ["http/1.1"])
    name = settings.authority.rpartition(":")[0] or settings.authority or settings.url.host
    return Tls(context, name)


def _mixed(weights: Sequence[float]) -> list[int]:
    """Which model each request goes to: as evenly spread as the weights allow."""
    credit = [0.0] * len(weights)
    order = []
    for _ in range(_MIX if len(weights) > 1 else 1):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(weights)
        order.append(chosen)
    return order


class Server:
    """What is asked of the server and how requests to it look."""

    def __init__(self, settings: Settings, address: Address, tls: Tls | None) -> None:
        self.tls = tls
        self._settings = settings
        self._address = address
        self._authority = settings.authority or settings.url.authority
        self._is_binary: bool | None = {"auto": None, "json": False, "binary": True}[settings.tensor_format]

    def call_head(self, method: str) -> bytes:
        """The header block of a gRPC call."""
        scheme = "https" if self._settings.url.is_tls else "http"
        path = self._settings.path or f"{self._settings.url.prefix}{_SERVICE}/{method}"
        return h2.call_head(scheme, self._authority, path, self._settings.header, self._settings.timeout)

    def _service_head(self, method: str) -> bytes:
        """The same for what is asked besides the load, which --path does not move."""
        scheme = "https" if self._settings.url.is_tls else "http"
        path = f"{self._settings.url.prefix}{_SERVICE}/{method}"
        return h2.call_head(scheme, self._authority, path, self._settings.header, self._settings.timeout)

    def infer_head(self) -> bytes:
        """The header block of the call that the load makes."""
        return self.call_head(_METHODS[self._settings.protocol])

    async def wire(self, request: bytes) -> Wire:
        """How requests such as this travel. Streams stay open only where the server marks the last answer of a request,
        which it is asked once: without the mark only a stream's end tells that nothing more comes."""
        settings = self._settings
        if not settings.is_stream:
            return _WIRES.get(settings.protocol, Wire.HTTP)
        head = self.infer_head()
        answer = await call(self._address, head, request, settings.timeout, self.tls, is_stream=True)
        with contextlib.suppress(ValueError):
            if answer.body and read_answer(answer.body[5:]).is_last is not None:
                return Wire.GRPC_OPEN
        return Wire.GRPC_ENDED

    def verbatim(self, model: str, body: bytes) -> bytes:
        """A request with this body. Raises PayloadError over gRPC, where bodies are messages."""
        settings = self._settings
        if settings.is_grpc:
            raise GivenError("a body in a trace is sent over HTTP only")
        own = {Protocol.OPENAI: _CHAT, Protocol.V1: f"/v1/models/{model}:predict", Protocol.POST: "/"}
        infer = f"{model_path('', model, settings.model_version)}/infer"
        return self._post(body, settings.path or own.get(settings.protocol, infer))

    async def inputs(self, model: str) -> list[Tensor]:
        """What the model takes, by its metadata and --shape."""
        settings = self._settings
        asked, answer = await (self._grpc_metadata(model) if settings.is_grpc else self._http_metadata(model))
        if answer.cause is not None and not settings.shape:
            raise UnreachableError(f"{answer.cause} ({asked}){_hint(answer.cause, settings)}")
        metadata = self._metadata(answer)
        try:
            return resolve_tensors(metadata, settings.shape, settings.batch)
        except PayloadError as error:
            told = f"{asked} answered {status_name(answer.status)}{words(answer)}"
            if answer.status in {404, GrpcStatus.NOT_FOUND}:
                advice = f"is there a model {model!r}? It may have another name, or not be loaded"
                raise UnreachableError(f"{told}; {advice}; without metadata describe its inputs with --shape") from None
            raise PayloadError(f"{told}: {error}") from None

    async def _http_metadata(self, model: str) -> tuple[str, Sample]:
        path = model_path(self._settings.url.prefix, model, self._settings.model_version)
        return f"GET {path}", await self._get(path)

    async def _get(self, path: str) -> Sample:
        request = encode_request("GET", self._authority, path, self._settings.header)
        return await fetch(self._address, request, self._settings.timeout, self.tls)

    async def _grpc_metadata(self, model: str) -> tuple[str, Sample]:
        request = ModelMetadataRequest(name=model, version=self._settings.model_version)
        head = self._service_head("ModelMetadata")
        message = h2.message(request.SerializeToString())
        return "ModelMetadata", await call(self._address, head, message, self._settings.timeout, self.tls)

    def _metadata(self, answer: Sample) -> object:
        if answer.outcome is not Outcome.OK:
            return None
        if not self._settings.is_grpc:
            with contextlib.suppress(ValueError):
                return json.loads(answer.body)
            return None
        told = ModelMetadataResponse.FromString(answer.body[5:])
        return {"inputs": [{"name": i.name, "datatype": i.datatype, "shape": list(i.shape)} for i in told.inputs]}

    async def pool(self, model: str, tensors: Sequence[Tensor]) -> list[bytes]:
        """The requests to one model, in a shape that the client sends as it is."""
        settings = self._settings
        if settings.protocol is Protocol.POST:
            return [self._post(body, settings.path or "/") for body in self._given_bodies()]
        if settings.protocol is Protocol.OPENAI:
            return [self._post(body, settings.path or _CHAT) for body in self._chats(model)]
        entries = self._values(tensors)
        if settings.protocol is Protocol.V1:
            return [self._post(body, settings.path or f"/v1/models/{model}:predict") for body in self._v1(entries)]
        if settings.shm == "system":
            return await self._shared(model, entries)
        if settings.is_grpc:
            typed = self._is_binary is False
            if typed and any(tensor.datatype == "FP16" for tensor in tensors):
                raise GivenError("FP16 exists over gRPC as raw bytes only; leave --tensor-format json out")
            return [
                h2.message(
                    grpc_body(
                        model, settings.model_version, values, number, as_raw=not typed, is_stream=settings.is_stream
                    )
                )
                for number, values in enumerate(entries)
            ]
        if self._is_binary is None:
            large = sum(tensor.elements for tensor in tensors) >= _BINARY_PAYS
            self._is_binary = large and await self._takes_binary()
        path = settings.path or f"{model_path('', model, settings.model_version)}/infer"
        return [self._infer(values, number, path) for number, values in enumerate(entries)]

    async def _shared(self, model: str, entries: Sequence[Values]) -> list[bytes]:
        settings = self._settings
        try:
            places = await REGIONS.hold(entries, self._ask_memory)
        except (SharedMemoryError, OSError) as error:
            raise UnreachableError(f"--shm system: {error}; it is for Triton with this host's /dev/shm") from None
        if settings.is_grpc:
            return [
                h2.message(grpc_shared(model, settings.model_version, one, number, is_stream=settings.is_stream))
                for number, one in enumerate(places)
            ]
        path = settings.path or f"{model_path('', model, settings.model_version)}/infer"
        return [self._post(json_shared(one, number), path) for number, one in enumerate(places)]

    async def _ask_memory(self, action: str, told: dict[str, Any]) -> str:
        """Register or unregister a region; what the server has against it."""
        settings = self._settings
        if settings.is_grpc:
            head = self._service_head(f"SystemSharedMemory{action.capitalize()}")
            answer = await call(self._address, head, grpc_message(told), settings.timeout, self.tls)
        else:
            path = f"{settings.url.prefix}/v2/systemsharedmemory/region/{told['name']}/{action}"
            body = json.dumps({name: value for name, value in told.items() if name != "name"}).encode()
            request = encode_request("POST", self._authority, path, settings.header, body)
            answer = await fetch(self._address, request, settings.timeout, self.tls)
        if answer.outcome is Outcome.OK:
            return ""
        return str(answer.cause or f"{status_name(answer.status)}{words(answer)}")

    async def _takes_binary(self) -> bool:
        """Whether the server names Triton's extension among its own."""
        answer = await self._get(f"{self._settings.url.prefix}/v2")
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            return "binary_tensor_data" in (json.loads(answer.body).get("extensions") or ())
        return False

    def _infer(self, values: Values, number: int, path: str) -> bytes:
        if not self._is_binary:
            return self._post(json_body(values, number), path)
        body, head_size = binary_body(values, number)
        own = [("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", f"{head_size}")]
        return self._post(body, path, own)

    def _post(self, body: bytes, path: str, own: Sequence[tuple[str, str]] | None = None) -> bytes:
        where = f"{self._settings.url.prefix}{path}"
        if own is None:
            return encode_request("POST", self._authority, where, self._settings.header, body)
        return encode_request("POST", self._authority, where, self._settings.header, body, own)

    def _values(self, tensors: Sequence[Tensor]) -> list[Any]:
        settings = self._settings
        source = random.Random(settings.seed)
        if settings.input_data == "zero":
            return [zero_values(tensors)]
        if settings.input_data == "random":
            count = settings.pool or pool_size(tensors)
            return [random_values(tensors, source, settings.string_length) for _ in range(count)]
        path = Path(settings.input_data)
        if path.is_dir():
            return [read_folder(path, tensors)]
        entries = read_entries(path)
        return entries if settings.protocol is Protocol.V1 else [values_of(entry, tensors) for entry in entries]

    def _v1(self, entries: Sequence[Any]) -> list[bytes]:
        if entries and isinstance(entries[0], dict):
            return [json.dumps(entry).encode() for entry in entries]
        if not self._settings.shape:
            raise GivenError("V1 has no metadata: describe the input with --shape NAME:DIM,DIM, or give --input-data")
        return [v1_body(values) for values in entries]

    def _chats(self, model: str) -> list[bytes]:
        settings = self._settings
        if settings.input_data in {"random", "zero"}:
            source = random.Random(settings.seed)
            length = settings.string_length if settings.string_length > 16 else _PROMPT_LENGTH
            prompts: list[Any] = [random_prompt(source, length) for _ in range(settings.pool or POOL_BODIES)]
        else:
            prompts = read_entries(Path(settings.input_data))
        return [chat_body(model, _messages(prompt), settings.max_tokens) for prompt in prompts]

    def _given_bodies(self) -> list[bytes]:
        settings = self._settings
        if settings.data:
            return [settings.data.encode()]
        if settings.data_file is not None:
            return [settings.data_file.read_bytes()]
        path = Path(settings.input_data)
        if path.is_dir():
            return [file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()]
        return [
            entry.encode() if isinstance(entry, str) else json.dumps(entry).encode() for entry in read_entries(path)
        ]


def _messages(prompt: Any) -> list[dict[str, object]]:
    match prompt:
        case {"messages": [*messages]}:
            return messages
        case {"prompt": str(text)} | str(text):
            return [{"role": "user", "content": text}]
    raise GivenError("--input-data: a chat is a prompt, or an object with prompt or messages")


def words(answer: Sample) -> str:
    """What the server said itself, in a form to put behind a status; empty when it said nothing."""
    text = dict(answer.headers).get(b"grpc-message", answer.body).decode(errors="replace").strip()
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("error", text))
    return f" ({text[:_TEXT]!r})" if text else ""


async def probe(settings: Settings, target: Target) -> Sample:
    """One request of the load, with everything that came back."""
    if not settings.is_grpc:
        return await fetch(target.address, target.requests[0], settings.timeout, target.tls)
    request = target.requests[0]
    return await call(target.address, target.head, request, settings.timeout, target.tls, is_stream=settings.is_stream)
