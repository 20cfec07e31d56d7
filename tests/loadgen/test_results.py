"""Results as documents: written, read, merged, compared, kept and shown, with nothing lost on the way."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import settings as hypothesis

from loadgen import cli, hdr
from loadgen.compare import compare, render
from loadgen.document import DocumentError, Facts, make_document, read_levels
from loadgen.exits import Exit
from loadgen.history import History
from loadgen.html import render_page
from loadgen.level import Level, Window
from loadgen.merging import merge_documents, merge_levels
from loadgen.record import Recorder, merged
from loadgen.resume import resumed, take
from loadgen.settings import Settings, SettingsError, read_settings
from tests.loadgen.test_record import histogram_of, values
from tests.loadgen.test_report import recorder

FACTS = Facts("base", "2026-01-01T00:00:00Z", "1")


def document(*levels: Level, name: str = "base", **more: object) -> dict[str, Any]:
    flags = argparse.Namespace(url="http://h:1", model="m", seed="5", slo=["p99<1s"], tag=["team=a"])
    facts = Facts(name, FACTS.started, "1")
    made = make_document(read_settings("run", flags), facts, levels, ["a warning"], summary="a <b> summary", **more)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def level(ok: int = 500, shed: int = 20, callers: int = 0, seconds: float = 10.0) -> Level:
    parts = [recorder(ok=ok // 2, shed=shed), recorder(ok=ok - ok // 2)]
    windows = [Window(0.0, parts[0]), Window(1.0, parts[1])]
    return Level(
        callers, 0.0 if callers else 50.0, merged(parts), seconds, windows=windows, window_s=1.0, sent=ok + shed
    )


@hypothesis(deadline=None)
@given(values)
def test_the_librarys_histogram_has_the_same_percentiles_and_nothing_is_lost(numbers: list[int]) -> None:
    numbers = [min(number, 10**13) for number in numbers]
    ours, theirs = histogram_of(numbers), HdrHistogram(1, 48 * 3600 * 10**9, 2)
    for number in numbers:
        theirs.record_value(number)
    back = hdr.decode(hdr.encode(ours))
    assert back.counts == ours.counts
    for quantile in (0.5, 0.9, 0.99):
        exact = theirs.get_value_at_percentile(quantile * 100)
        # The library takes ranks half up, so where a rank is a whole number it may be one sample off.
        near = [ours.percentile(max(0.0, quantile + sign / len(numbers))) for sign in (-1, 0, 1)]
        assert min(near) <= exact * (1 + 1 / 128) + 1
        assert exact <= max(near) * (1 + 1 / 128) + 1
    with pytest.raises(ValueError):
        hdr.decode("not one")


def test_the_log_is_read_by_the_library(tmp_path: Path) -> None:
    hdr.write_log(
        tmp_path / "x.hlog", {"a": (0.0, 5.0, histogram_of([5 * 10**6] * 7)), "b": (5.0, 9.0, histogram_of([1]))}
    )
    reader = HistogramLogReader(str(tmp_path / "x.hlog"), HdrHistogram(1, 10**13, 2))
    first = reader.get_next_interval_histogram()
    reader.close()
    assert (first.get_tag(), first.get_total_count()) == ("a", 7)
    assert first.get_value_at_percentile(50) == pytest.approx(5 * 10**6, rel=0.01)


def test_levels_come_back_as_they_were() -> None:
    written = level()
    (read,) = read_levels(document(written))
    for outcome, histogram in written.total.response.items():
        other = read.total.response[outcome]
        assert (other.counts, other.count, other.max, other.total) == (
            histogram.counts,
            histogram.count,
            histogram.max,
            histogram.total,
        )
    assert (read.name, read.seconds, read.throughput) == (written.name, written.seconds, written.throughput)
    assert read.windows[1].recorder.response == read.windows[1].recorder.response
    assert read.total.statuses == written.total.statuses
    with pytest.raises(DocumentError, match="schema 99"):
        read_levels({"schema": 99, "levels": []})
    with pytest.raises(DocumentError, match="cannot be read"):
        read_levels({"schema": 1, "levels": [{}]})


def test_parts_are_merged_count_by_count() -> None:
    parts = [level(ok=300, callers=2), level(ok=500, callers=3)]
    whole = merge_levels(parts)
    assert (whole.callers, whole.total.count, whole.throughput) == (5, 840, 80.0)
    assert whole.answers.counts == merged([part.total for part in parts]).service[whole_outcome()].counts
    assert [window.start_s for window in whole.windows] == [0.0, 1.0]
    assert sum(window.recorder.count for window in whole.windows) == 840
    merged_document = merge_documents([document(part) for part in parts])
    assert merged_document["levels"][0]["count"] == 840
    assert merged_document["tags"]["merged"] == "2"
    with pytest.raises(DocumentError, match="not a part of the same load"):
        merge_documents([document(parts[0]), {**document(parts[1]), "kind": "sweep"}])


def whole_outcome() -> Any:
    return next(iter(Recorder().response))


def test_a_comparison_has_a_verdict_for_each_figure() -> None:
    base = document(level(ok=1000, shed=0), advice={"limit": 8})
    same = compare(base, base, 0.05)
    assert {verdict.word for verdict in same} <= {"within noise", "ok", "same"}
    slow = compare(base, document(level(ok=700, shed=0), advice={"limit": 6}), 0.05)
    words = {verdict.name: verdict.word for verdict in slow}
    assert words["throughput at 50/s"] == "REGRESSION"
    assert words["p50 at 50/s"] == "better"
    assert words["recommended limit"] == "changed"
    shed = {verdict.name: verdict.word for verdict in compare(base, document(level(ok=1000, shed=200)), 0.05)}
    assert shed["not answered at 50/s"] == "REGRESSION"
    assert "REGRESSION (tolerance 5%)" in render(slow, "a", "b", 0.05)
    limited = document(Level(0, 50.0, recorder(ok=700), 10.0, backlogged=9))
    assert {verdict.word for verdict in compare(base, limited, 0.05)} == {"not trusted"}


def test_the_page_holds_everything_and_reaches_for_nothing() -> None:
    page = render_page([document(level())], ["</script><b>"])
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "").replace("http://h:1", "")
    assert "https://" not in page
    assert page.count("</script>") == 2
    assert "src=" not in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    (run,) = data
    assert run["summary"] == "</script><b>"
    assert run["levels"][0]["outcomes"]["shed"] == 20
    assert len(run["levels"][0]["windows"]) == 2


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


@pytest.mark.usefixtures("own_history")
def test_compare_report_and_history_take_names_files_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with History.open() as kept:
        kept.add(document(level(ok=1000, shed=0)))
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(document(level(ok=700, shed=0), name="new")))
    assert run("compare", "base", "base") == Exit.OK
    assert run("compare", "base", f"{folder}") == Exit.FAILED
    assert run("compare", "base", f"{folder}", "--tolerance", "50%", "--format", "json") == Exit.OK
    page = tmp_path / "page.html"
    assert run("report", "base", f"{folder / 'result.json'}", "--html", f"{page}") == Exit.OK
    assert page.read_text().startswith("<!doctype html>")
    assert run("report", "base", f"{folder}", "--merge", "--format", "csv") == Exit.OK
    assert run("history") == Exit.OK
    assert "\nbase      run" in capsys.readouterr().out
    assert run("history", "--remove", "base") == Exit.OK
    assert run("history", "--tag", "team=a") == Exit.OK
    assert "the history is empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "nothing", "nothing"], "nothing: no such folder, file or name in the history"),
        (["compare", "a"], "NEW"),
        (["report", __file__], "test_results.py: "),
        (["history", "--limit", "0"], "--limit '0'; accepted"),
        (["history", "--remove", "nothing"], "--remove nothing"),
        (["history", "--history", "nonsense"], "the history cannot be read"),
        (["selftest", "--duration", "1"], "--duration '1'; accepted"),
        (["history", "--bogus"], "--bogus is not a flag of `history`"),
    ],
)
@pytest.mark.usefixtures("own_history")
def test_what_cannot_be_used_is_exit_64(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == Exit.USAGE
    assert said in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_exit_1(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(document(level())))
    assert run("report", f"{file}", "--html", "/no/such/folder/x.html") == Exit.UNWRITTEN


def test_only_what_belongs_together_is_resumed(tmp_path: Path) -> None:
    def resuming(command: str = "sweep", **flags: object) -> Settings:
        given = {"url": "http://h:1", "model": "m", "slo": ["p99<1s"], "resume": f"{tmp_path}", **flags}
        return read_settings(command, argparse.Namespace(**given))

    with pytest.raises(SettingsError, match="no result can be read there"):
        resumed(resuming())
    levels = (level(callers=1), level(callers=2))
    held = {**document(*levels), "kind": "sweep"}
    held["settings"] |= {"warmup_s": 2.0}
    (tmp_path / "result.json").write_text(json.dumps(held))
    settings, done = resumed(resuming())
    assert (settings.seed, settings.output) == (5, tmp_path)
    found = take(done, "level", callers=2)
    assert found is not None
    assert found.throughput == levels[1].throughput
    assert take(done, "level", callers=2) is None
    assert take(done, "proof", callers=1) is None
    assert [one.callers for one in done] == [1]
    with pytest.raises(SettingsError, match=r"it was measured with timeout_s 10.0, not 3.0"):
        resumed(resuming(timeout="3s"))
    with pytest.raises(SettingsError, match="it is of `sweep`"):
        resumed(resuming("search"))
