"""Who may read the admin port once there is a token: over a real socket."""

import base64
from collections.abc import AsyncIterator

import pytest

from tests.admin.test_app import Port, opened

TOKEN = b"s3cret"
OPEN, PROTECTED = ("/healthz", "/readyz"), ("/metrics", "/status", "/debug/state", "/.headgate/load", "/nothing")


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with opened({}) as running:
        running.server.secure.token = TOKEN
        yield running


def bearer(token: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.decode('latin-1')}"}


def basic(user: bytes, password: bytes) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(user + b":" + password).decode()}


async def status(port: Port, path: str, headers: dict[str, str] | None = None) -> int:
    async with port.get(path, headers or {}) as response:
        return response.status


@pytest.mark.parametrize("path", OPEN)
async def test_probes_need_nothing(port: Port, path: str) -> None:
    assert await status(port, path) == 200


@pytest.mark.parametrize("path", PROTECTED)
async def test_everything_else_is_for_those_who_have_the_token(port: Port, path: str) -> None:
    async with port.get(path, {}) as response:
        assert response.status == 401
        assert response.headers.getall("WWW-Authenticate")[0] == 'Bearer realm="headgate"'
        assert "s3cret" not in await response.text()
    assert await status(port, path, bearer(TOKEN)) == (404 if path == "/nothing" else 200)


async def test_the_drain_is_not_begun_by_strangers(port: Port) -> None:
    assert await status(port, "/wait-for-drain") == 401
    assert not port.drain.begun.is_set()
    port.drain.done.set()
    assert await status(port, "/wait-for-drain", bearer(TOKEN)) == 200


@pytest.mark.parametrize(
    "headers",
    [
        bearer(b""),
        bearer(b"s3cre"),
        bearer(b"s3crets"),
        bearer(b"S3CRET"),
        {"Authorization": "s3cret"},
        {"Authorization": "Bearer"},
        {"Authorization": "Digest s3cret"},
        {"Authorization": "Bearer \u00e9"},
        basic(b"s3cret", b""),
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Basic \u00e9"},
        {"Authorization": "Basic " + base64.b64encode(b"s3cret").decode()},
    ],
)
async def test_nothing_but_the_token_will_do(port: Port, headers: dict[str, str]) -> None:
    assert await status(port, "/metrics", headers) == 401


@pytest.mark.parametrize("headers", [bearer(TOKEN), {"Authorization": "bearer  s3cret"}, basic(b"anyone", TOKEN)])
async def test_browsers_may_show_it_as_a_password(port: Port, headers: dict[str, str]) -> None:
    assert await status(port, "/metrics", headers) == 200


async def test_the_page_for_people_fetches_with_what_its_reader_has_given(port: Port) -> None:
    async with port.get("/status/events", basic(b"", TOKEN)) as response:
        assert response.status == 200
    assert await status(port, "/status/events") == 401


async def test_a_new_token_counts_from_the_next_request_on(port: Port) -> None:
    port.server.secure.token = b"another"
    assert await status(port, "/metrics", bearer(TOKEN)) == 401
    assert await status(port, "/metrics", bearer(b"another")) == 200
