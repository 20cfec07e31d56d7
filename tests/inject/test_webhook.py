"""The webhook over real TLS: reviews, what is no review, certificates that change, and its pages."""

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.errors import CertificateError
from agent.inject.certificates import Certificates
from tests.sockets import PATIENCE_S

from .endpoint import HOST, Endpoint, Pair, endpoint, review_of
from .goldens import CASES, Case

NATIVE_CASES = [case for case in CASES if case.defaults.kind == "native"]
SKLEARN = next(case.before for case in CASES if case.name == "standard-sklearn")


@pytest.fixture
async def webhook(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with endpoint(tmp_path) as running:
        yield running


def patched(pod: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    assert response["patchType"] == "JSONPatch"
    made: dict[str, Any] = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(response["patch"])))
    return made


async def metric(webhook: Endpoint, name: str, **labels: str) -> float:
    _, text = await webhook.get("/metrics")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


@pytest.mark.parametrize("case", NATIVE_CASES, ids=lambda case: case.name)
async def test_a_review_is_answered_with_the_golden_pod(webhook: Endpoint, case: Case) -> None:
    head, golden = yaml.safe_load_all(case.golden.read_text())
    response = await webhook.review(case.before)
    assert response["uid"] == "705ab4f5-6393-11e8-b7cc-42010a800002"
    assert response["allowed"] is True
    assert response.get("warnings", []) == head["warnings"]
    assert response["auditAnnotations"] == {"decision": f"{head['verdict']}: {head['reason']}"}
    assert (patched(case.before, response) if "patch" in response else case.before) == golden
    assert await metric(webhook, "headgate_webhook_reviews_total", mode=head["mode"], verdict=head["verdict"]) == 1


async def test_fifty_at_once_get_the_answer_to_their_own_question(webhook: Endpoint) -> None:
    async def ask(number: int) -> None:
        case = NATIVE_CASES[number % len(NATIVE_CASES)]
        response = await webhook.review(case.before, uid=f"uid-{number}")
        assert response["uid"] == f"uid-{number}"
        golden = list(yaml.safe_load_all(case.golden.read_text()))[1]
        assert (patched(case.before, response) if "patch" in response else case.before) == golden

    for first in range(0, 200, 50):
        await asyncio.gather(*(ask(number) for number in range(first, first + 50)))
    assert await metric(webhook, "headgate_webhook_reviews_total") == 200
    assert await metric(webhook, "headgate_webhook_review_seconds_count") == 200


async def test_a_dry_run_is_answered_like_any_other(webhook: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "headgate"):
        assert (await webhook.review(SKLEARN, dryRun=True)) == await webhook.review(SKLEARN)
    facts = [record.facts for record in caplog.records if record.message == "review"]  # type: ignore[attr-defined]
    assert [one["dry_run"] for one in facts] == [True, False]


async def test_every_decision_is_an_event(webhook: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "headgate"):
        await webhook.review(SKLEARN)
    (record,) = [record for record in caplog.records if record.message == "review"]
    facts: dict[str, Any] = record.facts  # type: ignore[attr-defined]
    assert facts.pop("ms") > 0
    assert facts == {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "namespace": "ml",
        "pod": "iris-predictor-6b7f9c5d8-",
        "dry_run": False,
        "mode": "standard",
        "verdict": "injected",
        "reason": "8080=http://127.0.0.1:18080",
        "warnings": [],
    }


WHOLE = json.loads(review_of(SKLEARN))
MALFORMED = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "another kind": json.dumps({**WHOLE, "kind": "Pod"}).encode(),
    "v1beta1": json.dumps({**WHOLE, "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    "no request": json.dumps({**WHOLE, "request": None}).encode(),
    "no uid": json.dumps({**WHOLE, "request": {**WHOLE["request"], "uid": ""}}).encode(),
    "a number for a uid": json.dumps({**WHOLE, "request": {**WHOLE["request"], "uid": 7}}).encode(),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_review_is_told_so(webhook: Endpoint, name: str) -> None:
    status, body = await webhook.post(MALFORMED[name])
    assert (status, body.count(b"\n")) == (400, 1)
    assert await metric(webhook, "headgate_webhook_malformed_total") == 1
    assert (await webhook.review(SKLEARN))["allowed"] is True


async def test_a_huge_review_is_refused_and_the_next_one_is_answered(webhook: Endpoint) -> None:
    status, _ = await webhook.post(review_of({**SKLEARN, "padding": "x" * (8 << 20)}))
    assert status == 413
    assert (await webhook.review(SKLEARN))["patchType"] == "JSONPatch"


async def test_a_large_pod_is_injected(webhook: Endpoint) -> None:
    annotations = {**SKLEARN["metadata"]["annotations"], "example.org/blob": "x" * 250_000}
    pod = {**SKLEARN, "metadata": {**SKLEARN["metadata"], "annotations": annotations}}
    assert patched(pod, await webhook.review(pod))["spec"]["initContainers"][-1]["name"] == "headgate"


@pytest.mark.parametrize(
    "request_",
    [{"operation": "UPDATE"}, {"kind": {"group": "apps", "kind": "Deployment"}}, {"kind": None}],
    ids=["update", "deployment", "no kind"],
)
async def test_anything_but_a_new_pod_is_let_through(webhook: Endpoint, request_: dict[str, object]) -> None:
    response = await webhook.review(SKLEARN, **request_)
    assert response["allowed"] is True
    assert "patch" not in response


BROKEN: dict[str, object] = {
    "null": None,
    "text": "pod",
    "empty": {},
    "containers are a number": {"metadata": SKLEARN["metadata"], "spec": {"containers": 7}},
    "a container without a name": {"metadata": SKLEARN["metadata"], "spec": {"containers": [{}]}},
    "labels are a list": {"metadata": {"labels": ["x"]}, "spec": {"containers": []}},
    "metadata is a list": {"metadata": [], "spec": {}},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_failure_of_ours_never_costs_a_pod(
    webhook: Endpoint, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = await webhook.review(BROKEN[name])
    assert (response["allowed"], "patch" in response) == (True, False)
    assert response["warnings"] == ["headgate is not injected: the webhook failed; its log says why"]
    assert await metric(webhook, "headgate_webhook_reviews_total", verdict="failed") == 1
    assert any(record.message == "review failed" and record.exc_info for record in caplog.records)


async def test_its_pages(webhook: Endpoint) -> None:
    assert await webhook.get("/healthz") == (200, "ok\n")
    assert await webhook.get("/readyz") == (200, "serving\n")
    assert (await webhook.get("/mutate"))[0] == 405
    assert (await webhook.get("/"))[0] == 404
    webhook.webhook.drain()
    assert await webhook.get("/readyz") == (503, "draining\n")
    assert (await webhook.get("/healthz"))[0] == 200
    assert (await webhook.review(SKLEARN))["patchType"] == "JSONPatch"


async def dial(webhook: Endpoint, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.open_connection("127.0.0.1", webhook.port, ssl=context, server_hostname=HOST)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readuntil(b"ok\n")


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def test_a_new_certificate_is_taken_up_and_open_connections_stay(webhook: Endpoint) -> None:
    old = webhook.pair.client()
    reader, writer = await dial(webhook, old)
    ends = await metric(webhook, "headgate_webhook_certificate_not_after_seconds")
    webhook.pair.renew()
    webhook.webhook.look()
    assert (await ask(reader, writer)).startswith(b"HTTP/1.1 200")
    new_reader, new_writer = await dial(webhook, webhook.pair.client())
    assert (await ask(new_reader, new_writer)).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLCertVerificationError):
        await dial(webhook, old)
    nameless = webhook.pair.client()
    nameless.check_hostname = False
    async with asyncio.timeout(PATIENCE_S):
        _, by_address = await asyncio.open_connection("127.0.0.1", webhook.port, ssl=nameless, server_hostname="")
    assert ends > 0
    for one in (writer, new_writer, by_address):
        await close(one)


async def test_half_of_a_new_pair_changes_nothing(webhook: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    old = webhook.pair.client()
    other = webhook.pair.directory / "other"
    other.mkdir()
    stranger = Pair(other)
    mine = webhook.pair.files["tls.crt"]
    for cert, key in ((mine, stranger.files["tls.key"]), (b"", b""), (b"-----BEGIN", mine)):
        webhook.pair.write({"tls.crt": cert, "tls.key": key})
        webhook.webhook.look()
        _, writer = await dial(webhook, old)
        await close(writer)
    assert [record.message for record in caplog.records].count("certificate kept") == 3
    webhook.pair.write({})
    webhook.webhook.look()
    _, writer = await dial(webhook, old)
    await close(writer)


def test_files_that_are_no_pair_are_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="none: No such file"):
        Certificates(str(tmp_path / "none"), str(tmp_path / "none"))
    (tmp_path / "empty").write_text("")
    with pytest.raises(CertificateError, match="are no certificate with its key"):
        Certificates(str(tmp_path / "empty"), str(tmp_path / "empty"))


async def test_strangers_are_turned_away_and_others_are_served(webhook: Endpoint) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", webhook.port)
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            assert b"HTTP/1.1 2" not in await reader.read()
    await close(writer)
    with pytest.raises(ssl.SSLCertVerificationError):
        await dial(webhook, ssl.create_default_context())
    old = webhook.pair.client()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    _, modern = await dial(webhook, old)
    await close(modern)
    assert (await webhook.review(SKLEARN))["allowed"] is True
