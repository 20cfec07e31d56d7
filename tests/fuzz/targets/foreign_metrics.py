"""The text of a predictor's metrics page, as it is merged into ours."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from agent.admin.foreign import RESERVED, Families
from tests.admin import test_foreign as tables
from tests.fuzz.bounds import bounded


def seeds() -> Iterator[bytes]:
    for page in (*tables.AS_WRITTEN.values(), *(page for page, _ in tables.CASES.values()), *tables.MALFORMED):
        yield page.encode()


def check(data: bytes) -> None:
    families = Families()
    with bounded(len(data), memory=4 << 20):
        for source in ("", "two"):
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
    again = Families()
    reader = again.reader()
    for line in text.split("\n"):
        reader.feed(line)
    assert "\n".join(again.lines()) + "\n" == text, "what was told once is told the same way again"
