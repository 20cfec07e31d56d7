"""Several clients at once, and requests that the model holds until the test lets them go."""

import json
import selectors
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .payloads import INFER, JSON, v2
from .processes import Server
from .rawhttp import Answer, RawClient, Request, exchange, request


def release(server: Server, key: str) -> None:
    """Let what holds for `key` go on. Asks the predictor itself: the agent's slots may all be taken."""
    sent = request("POST", INFER, v2(model_parameters={"release": key}), JSON)
    (answer,) = exchange(server.address, sent)
    assert answer.status == 200


def held(key: str, model: str = "double") -> Request:
    """A request that takes until `key` is released."""
    return request("POST", f"/v2/models/{model}/infer", v2(model_parameters={"hold": key}), JSON)


@contextmanager
def asking(address: str, requests: Sequence[Request]) -> Iterator[list[RawClient]]:
    """Each request on a connection of its own, all sent."""
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(address)) for _ in requests]
        for client, sent in zip(clients, requests, strict=True):
            client.send(sent.data)
        yield clients


def receive(clients: list[RawClient], count: int) -> list[Answer]:
    """The first `count` answers, in the order in which they come; their clients leave the list."""
    answers: list[Answer] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ, client)
        while len(answers) < count:
            ready = selector.select(timeout=30)
            assert ready, f"{len(answers)} of {count} answers came"
            for client in [key.data for key, _ in ready[: count - len(answers)]]:
                answers.append(client.receive("POST"))
                selector.unregister(client)
                clients.remove(client)
    return answers


def check_refusal(answer: Answer, status: int, reason: bytes) -> None:
    """What every client can make sense of."""
    assert answer.status == status, answer
    assert answer.values(b"x-headgate-reason") == [reason]
    assert answer.values(b"content-type") == [b"application/json"]
    error = json.loads(answer.body)["error"]
    assert isinstance(error, str)
    assert "127.0.0.1" not in error
