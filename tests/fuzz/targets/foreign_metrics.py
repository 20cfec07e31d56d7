"""The text of a predictor's metrics page, as it is merged into ours."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from agent.admin.foreign import RESERVED, Families
from tests.admin import test_foreign as tables
from tests.fuzz.bounds import bounded, large


def seeds() -> Iterator[bytes]:
    for page in (*tables.AS_WRITTEN.values(), *(page for page, _ in tables.CASES.values()), *tables.MALFORMED):
        yield page.encode()
    yield from large(
        b"", b"a 1\n", b"# TYPE a counter\n", b"a{", b'a{x="1",', b"a 1 ", b'a{x="', b"#", b"1", b" ", b"\\"
    )
    yield "\n".join(f'a{{x="{count}"}} {count}' for count in range(2_000)).encode()
    yield "\n".join(f"a{count} {count}" for count in range(2_500)).encode()


def check(data: bytes) -> None:
    families = Families()
    for source in ("", "two"):
        with bounded(len(data)):
            reader = families.reader(source)
            for line in data.decode(errors="replace").split("\n"):
                reader.feed(line.removesuffix("\r"))
    text = "\n".join(families.lines()) + "\n"
    assert all(family.samples for family in text_string_to_metric_families(text))
    # Without types the library takes names as they are; it gives every sample of a counter the ending _total.
    untyped = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
    samples = [sample for family in text_string_to_metric_families(untyped) for sample in family.samples]
    series = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(series) == len(set(series))
    assert not [sample.name for sample in samples if sample.name.startswith(RESERVED)]
    once = _read(data.decode(errors="replace"))
    assert _read(once) == once, "what was told once is told the same way again"


def _read(page: str) -> str:
    families = Families()
    reader = families.reader()
    for line in page.split("\n"):
        reader.feed(line.removesuffix("\r"))
    return "\n".join(families.lines())
