"""What requests say of themselves in header fields."""

import pytest

from agent.policy.stated import Reader, Said, read_patience

NOTHING = Said(None, 0, 0, proxied=False, form=b"")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"250", 0.25),
        (b"0", 0.0),
        (b"250ms", 0.25),
        (b"2s", 2.0),
        (b"1.5s", 1.5),
        (b"1m", 60.0),
        (b"", None),
        (b"-1", None),
        (b"1h", None),
        (b"1e3", None),
        (b" 5", None),
        (b"5 s", None),
        (b"9" * 10, None),
        ("٣".encode(), None),
    ],
)
def test_patience(text: bytes, seconds: float | None) -> None:
    assert read_patience(text) == seconds


def test_the_named_fields_are_read_whatever_their_case() -> None:
    reader = Reader(deadline=b"x-timeout", priority=b"x-priority", tenant=b"x-tenant")
    said = reader.read([(b"Host", b"h"), (b"X-Timeout", b"2s"), (b"x-priority", b"1"), (b"X-TENANT", b"a")])
    assert (said.patience, said.priority) == (2.0, 1)
    assert said.tenant
    assert said.tenant != reader.read([(b"x-tenant", b"b")]).tenant
    assert reader.read([(b"x-tenant", b"a")]).tenant == said.tenant


@pytest.mark.parametrize(
    "field", [(b"x-timeout", b"soon"), (b"x-priority", b"high"), (b"x-priority", b"99999"), (b"x-tenant", b"")]
)
def test_what_is_malformed_says_nothing(field: tuple[bytes, bytes]) -> None:
    reader = Reader(deadline=b"x-timeout", priority=b"x-priority", tenant=b"x-tenant")
    assert reader.read([field]) == NOTHING


def test_without_names_nothing_is_read() -> None:
    reader = Reader()
    assert not reader.is_needed
    assert reader.read([(b"x-timeout", b"1")]) == NOTHING
    assert Reader(tenant=b"t").is_needed


@pytest.mark.parametrize(
    ("value", "proxied"), [(b"activator", True), (b"Activator", False), (b"activator ", False), (b"", False)]
)
def test_what_came_through_knatives_activator_says_so(value: bytes, *, proxied: bool) -> None:
    reader = Reader(activator=True)
    assert reader.is_needed
    assert reader.read([(b"K-Proxy-Request", value)]) == NOTHING._replace(proxied=proxied)


def test_the_form_in_which_the_load_is_asked_for() -> None:
    reader = Reader(load=True)
    assert reader.is_needed
    assert reader.read([(b"Endpoint-Load-Metrics-Format", b"TEXT")]) == NOTHING._replace(form=b"text")
