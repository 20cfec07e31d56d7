"""The model servers whose ports can be moved: how each is recognised, and where its ports are set."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from agent.inject.patch.pod import DOMAIN, Container, Patch, RefusalError

SERVER = DOMAIN + "server"
HTTP_KNOB = DOMAIN + "http-port-knob"
GRPC_KNOB = DOMAIN + "grpc-port-knob"


class Knob(NamedTuple):
    """Where a server takes a port from: a flag or a variable. `default` is what it listens on without; 0 is nothing."""

    kind: str
    name: str
    default: int


class Server(NamedTuple):
    """A kind of server. `words` stand in its command line, `image` is how its image's name ends."""

    name: str
    http: Knob | None
    grpc: Knob | None
    words: str
    image: str

    @property
    def knobs(self) -> list[tuple[str, Knob]]:
        """Its knobs, with the scheme of an upstream that speaks what the port speaks."""
        both = (("http", self.http), ("h2c", self.grpc))
        return [(scheme, knob) for scheme, knob in both if knob is not None]


_KSERVE_SERVERS = "sklearn|xgb|lgb|pmml|paddle|huggingface|predictive|autogluon|catboost"

# The first that matches counts. Flags that are given twice: the last one wins, with all of them.
SERVERS = (
    Server(
        "mlserver",
        Knob("env", "MLSERVER_HTTP_PORT", 8080),
        Knob("env", "MLSERVER_GRPC_PORT", 8081),
        r"(\S*/)?mlserver",
        r"mlserver",
    ),
    Server(
        "triton",
        Knob("arg", "--http-port", 8000),
        Knob("arg", "--grpc-port", 8001),
        r"(\S*/)?tritonserver",
        r"tritonserver",
    ),
    Server(
        "tfserving",
        Knob("arg", "--rest_api_port", 0),
        Knob("arg", "--port", 8500),
        r"(\S*/)?tensorflow_model_server|--rest_api_port(=.*)?",
        r"tensorflow-serving|tensorflow/serving",
    ),
    Server(
        "openvino",
        Knob("arg", "--rest_port", 0),
        Knob("arg", "--port", 9178),
        r"(\S*/)?ovms|--rest_port(=.*)?",
        r"openvino/model_server|ovms",
    ),
    Server(
        "kserve",
        Knob("arg", "--http_port", 8080),
        Knob("arg", "--grpc_port", 8081),
        rf"--(http|grpc)_port(=.*)?|({_KSERVE_SERVERS})server",
        rf"({_KSERVE_SERVERS})server(-gpu)?",
    ),
    Server(
        "vllm",
        Knob("arg", "--port", 8000),
        None,
        r"(\S*/)?vllm|vllm\.entrypoints\.\S+",
        r"vllm-openai|vllm",
    ),
)
_NAMES = [*(server.name for server in SERVERS), "custom"]
_FALLBACK = (
    "use the transformer-container recipe of k8s/examples/any-server.yaml, or name the server with "
    f"{SERVER} or its knob with {HTTP_KNOB}"
)


def server_of(container: Container, annotations: Mapping[str, str]) -> Server:
    """Which server runs in this container. Raises RefusalError for one that is not known."""
    named = annotations.get(SERVER)
    if named is not None and named not in _NAMES:
        raise RefusalError(f"{SERVER} {named!r} is not accepted: expected one of {', '.join(_NAMES)}")
    if named == "custom" or (named is None and (HTTP_KNOB in annotations or GRPC_KNOB in annotations)):
        return _custom(annotations)
    if named is not None:
        return next(server for server in SERVERS if server.name == named)
    shell = shell_of(container)
    tokens = container.tokens if shell is None else [*container.tokens, *shell.script.split()]
    image = re.split(r"[@:](?!.*/)", str(container.spec.get("image", "")))[0]
    for server in SERVERS:
        if _is(server, container, tokens, image):
            return server
    raise RefusalError(f"the server in {container.name} is not known: {_FALLBACK}")


def _is(server: Server, container: Container, tokens: list[str], image: str) -> bool:
    if any(knob.kind == "env" and container.env(knob.name) for _, knob in server.knobs):
        return True
    words, names = _patterns(server)
    return any(map(words.fullmatch, tokens)) or names.search(image) is not None


@cache
def _patterns(server: Server) -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(server.words), re.compile(rf"(^|/)({server.image})$")


def _custom(annotations: Mapping[str, str]) -> Server:
    knobs: list[Knob | None] = []
    for name in (HTTP_KNOB, GRPC_KNOB):
        text = annotations.get(name)
        kind, _, value = (text or "").partition(":")
        pattern = {"env": r"[A-Za-z_][A-Za-z0-9_]*", "arg": r"--?[A-Za-z][A-Za-z0-9_.\-]*"}.get(kind)
        if text is not None and (pattern is None or re.fullmatch(pattern, value) is None):
            raise RefusalError(f"{name} {text!r} is not accepted: expected env:NAME or arg:--flag")
        knobs.append(None if text is None else Knob(kind, value, 0))
    if knobs == [None, None]:
        raise RefusalError(f"{SERVER} custom needs {HTTP_KNOB} or {GRPC_KNOB}")
    return Server("custom", knobs[0], knobs[1], "", "")


class Shell(NamedTuple):
    """A container whose command is a shell's script."""

    script: str
    passes_on: bool


def shell_of(container: Container) -> Shell | None:
    """The script, and whether arguments that are appended reach the server through `$@`.

    The first argument after a script is its `$0`, so one must be there already.
    """
    tokens = container.tokens
    if len(tokens) < 3 or tokens[0].rpartition("/")[2] not in {"sh", "bash", "ash", "dash"} or tokens[1] != "-c":
        return None
    return Shell(tokens[2], "$@" in tokens[2] and len(tokens) > 3)


def read(container: Container, knob: Knob) -> int:
    """The port that this knob is set to, its default where it is not. Raises RefusalError when that is not a number."""
    if knob.kind == "env":
        variable = container.env(knob.name)
        text = str(knob.default) if variable is None else variable[1].get("value")
    else:
        told = text_of(container, knob.name)
        text = str(knob.default) if told is None else told
    if text is None or re.fullmatch(r"[0-9]{1,5}", text) is None:
        raise RefusalError(f"{knob.name} of {container.name} is not a plain number: {_FALLBACK}")
    return int(text)


def text_of(container: Container, flag: str) -> str | None:
    """What a flag is set to, among the arguments or in a shell's script; None where it is not."""
    place = _flag(container, flag)
    if place is not None:
        return place[1]
    shell = shell_of(container)
    inside = re.findall(rf"{re.escape(flag)}[= ]+([^\s\"'\\]+)", shell.script) if shell is not None else []
    return inside[-1] if inside else None


def write(patch: Patch, container: Container, knob: Knob, port: int) -> None:
    """Set the port. Raises RefusalError where that cannot be done from outside."""
    if knob.kind == "env":
        variable = container.env(knob.name)
        if variable is None:
            patch.append(container.spec, (*container.path, "env"), {"name": knob.name, "value": str(port)})
        else:
            patch.replace((*container.path, "env", variable[0], "value"), str(port))
        return
    shell = shell_of(container)
    if shell is not None and not shell.passes_on:
        raise RefusalError(f"the script in {container.name} takes no arguments: {_FALLBACK}")
    place = _flag(container, knob.name)
    if place is not None:
        index, _ = place
        commands: Sequence[str] = container.spec.get("command") or ()
        where = ("command", index) if index < len(commands) else ("args", index - len(commands))
        joined = container.tokens[index].startswith("-")
        patch.replace((*container.path, *where), f"{knob.name}={port}" if joined else str(port))
        return
    if not container.tokens:
        # Arguments would replace the image's own CMD, which nobody here knows.
        raise RefusalError(f"{container.name} has neither command nor args, so no flag can be added: {_FALLBACK}")
    patch.append(container.spec, (*container.path, "args"), f"{knob.name}={port}")


def _flag(container: Container, name: str) -> tuple[int, str] | None:
    """The last value of a flag among the tokens after a shell's script, if there is one, and its index."""
    tokens = container.tokens
    first = 0 if shell_of(container) is None else 3
    found = None
    for index in range(first, len(tokens)):
        if tokens[index].startswith(name + "="):
            found = index, tokens[index][len(name) + 1 :]
        elif tokens[index] == name and index + 1 < len(tokens):
            found = index + 1, tokens[index + 1]
    return found
