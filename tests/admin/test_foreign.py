"""Other people's metrics: what predictors really write, what breaks a scrape, and anything at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.admin.foreign import MAX_LINE, Families


def merged(*pages: str, sources: bool | None = None) -> str:
    """The text that comes of these pages."""
    families = Families()
    several = len(pages) > 1 if sources is None else sources
    for number, page in enumerate(pages):
        reader = families.reader(f"page {number}" if several else "")
        for line in page.split("\n"):
            reader.feed(line)
    text = "\n".join(families.lines())
    return text + "\n" if text else ""


def dropped(page: str) -> int:
    reader = Families().reader()
    for line in page.split("\n"):
        reader.feed(line)
    return reader.dropped


# Excerpts as they are written: Triton 2.60, vLLM 0.10 and KServe (prometheus_client), MLServer (starlette_exporter).
AS_WRITTEN = {
    "triton": """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="double",version="1"} 12
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="double",version="1"} 0
""",
    "vllm": """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 3.0
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 7.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 7.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 1.25
""",
    "kserve": """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 11602.0
# HELP request_predict_seconds predict request latency
# TYPE request_predict_seconds histogram
request_predict_seconds_bucket{le="0.005",model_name="double"} 4.0
request_predict_seconds_bucket{le="+Inf",model_name="double"} 4.0
request_predict_seconds_count{model_name="double"} 4.0
request_predict_seconds_sum{model_name="double"} 0.0021
# HELP request_predict_seconds_created predict request latency
# TYPE request_predict_seconds_created gauge
request_predict_seconds_created{model_name="double"} 1.7640123e+09
""",
}


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_what_predictors_write_stays_as_it_is(name: str) -> None:
    assert merged(AS_WRITTEN[name]) == AS_WRITTEN[name]


# What goes in -> what comes out.
CASES = {
    "time stamps": ("a 1 1700000000000\nb 2 -5", "# TYPE a untyped\na 1\n# TYPE b untyped\nb 2\n"),
    "blanks": (' a { x = "1" , y="2" , }   1e-3 ', '# TYPE a untyped\na{x="1",y="2"} 1e-3\n'),
    "no labels": ("a{} 1", "# TYPE a untyped\na 1\n"),
    "carriage returns are the caller's": ("a 1\r", ""),
    "comments": ("# hello\n#\n# TYPE\na 1", "# TYPE a untyped\na 1\n"),
    "an unknown type": ("# TYPE a strange\na 1", "# TYPE a untyped\na 1\n"),
    "special values": (
        "a NaN\nb +Inf\nc -Inf",
        "# TYPE a untyped\na NaN\n# TYPE b untyped\nb +Inf\n# TYPE c untyped\nc -Inf\n",
    ),
    "escapes": (r'a{x="\"},\\",y="\n"} 1', '# TYPE a untyped\na{x="\\"},\\\\",y="\\n"} 1\n'),
    "a family in two places": (
        '# TYPE a gauge\na 1\nb 2\na{x="1"} 3',
        '# TYPE a gauge\na 1\na{x="1"} 3\n# TYPE b untyped\nb 2\n',
    ),
    "a series twice": ("a 1\na 2", "# TYPE a untyped\na 1\n"),
    "a series twice, spelled otherwise": (
        'a{x="1",y="2"} 1\na{ x= "1", y="2" } 2\na{y="2",x="1"} 3',
        '# TYPE a untyped\na{x="1",y="2"} 1\n',
    ),
    "a label twice": ('a{x="1",x="2"} 1\nb 1', "# TYPE b untyped\nb 1\n"),
    "a label of Prometheus's": ('a{__name__="b"} 1', ""),
    "a family of ours": ("# TYPE headgate_overloaded gauge\nheadgate_overloaded 1\na 1", "# TYPE a untyped\na 1\n"),
    "a histogram's own name": ("# TYPE a histogram\na 1\na_sum 2", "# TYPE a histogram\na_sum 2\n"),
    "a summary": (
        '# TYPE a summary\na{quantile="0.5"} 1\na_sum 2\na_count 3',
        '# TYPE a summary\na{quantile="0.5"} 1\na_sum 2\na_count 3\n',
    ),
    "parts of nothing": (
        "a_bucket 1\na_total 2",
        "# TYPE a_bucket untyped\na_bucket 1\n# TYPE a_total untyped\na_total 2\n",
    ),
    "parts of what was something else before": (
        'a 1\n# TYPE a summary\na_sum 2\na{quantile="0.5"} 3',
        '# TYPE a untyped\na 1\na{quantile="0.5"} 3\n# TYPE a_sum untyped\na_sum 2\n',
    ),
    "OpenMetrics, a counter": (
        '# HELP a Text.\n# TYPE a counter\n# UNIT a s\na_total 1 1700000000.5 # {trace="x"} 0.5\na_created 17\n# EOF',
        "# HELP a_total Text.\n# TYPE a_total counter\na_total 1\n",
    ),
    "OpenMetrics, info": ('# TYPE a info\na_info{v="1"} 1', '# TYPE a_info gauge\na_info{v="1"} 1\n'),
    "OpenMetrics, a state set": ('# TYPE a stateset\na{a="on"} 1', '# TYPE a gauge\na{a="on"} 1\n'),
    "OpenMetrics, unknown": ("# TYPE a unknown\na 1", "# TYPE a untyped\na 1\n"),
    "OpenMetrics, a histogram": (
        '# TYPE a histogram\na_bucket{le="+Inf"} 1 # {trace_id="1"} 0.1\na_count 1\na_sum 0.1\na_created 17',
        '# TYPE a histogram\na_bucket{le="+Inf"} 1\na_count 1\na_sum 0.1\n',
    ),
    "OpenMetrics, a histogram of gauges": (
        '# TYPE a gaugehistogram\na_bucket{le="+Inf"} 1\na_gcount 1',
        '# TYPE a_bucket untyped\na_bucket{le="+Inf"} 1\n# TYPE a_gcount untyped\na_gcount 1\n',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_a_page(case: str) -> None:
    page, expected = CASES[case]
    assert merged(page) == expected
    list(parse_text(expected))


MALFORMED = [
    "a",
    "a one",
    "a 1_000",
    "a 0x10",
    "a \u0661",
    "a{x=1} 1",
    'a{x="1} 1',
    'a{x="1"',
    'a{x="1" y="2"} 1',
    "1a 1",
    "a-b 1",
    '{"a.b"} 1',
    "a 1 now",
    "a 1 2 3",
    "<html>",
    "a\x0b1",
    'a{x="\x00"}',
    "a 1" + " " * MAX_LINE + "x",
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_line_that_makes_no_sense_costs_no_more_than_itself(line: str) -> None:
    assert merged(f"a 1\n{line}\nb 2") == "# TYPE a untyped\na 1\n# TYPE b untyped\nb 2\n"
    assert dropped(line) == 1


def test_several_pages_say_where_each_series_is_from() -> None:
    text = merged("# TYPE a gauge\na 1\nb 2", '# TYPE a counter\na 3\na{headgate_source="x"} 4\nc{x="y"} 5')
    assert text == (
        '# TYPE a gauge\na{headgate_source="page 0"} 1\na{headgate_source="page 1"} 3\n'
        '# TYPE b untyped\nb{headgate_source="page 0"} 2\n# TYPE c untyped\nc{x="y",headgate_source="page 1"} 5\n'
    )


PIECES = st.one_of(
    st.sampled_from(["a", "b_total", "_bucket", "headgate_x", "counter", "histogram", "summary", "# TYPE ", "# HELP "]),
    st.sampled_from(["{", "}", 'x="1"', "x", "=", '"', "\\", ",", " ", "\t", "1", "NaN", "-", "#", 'le="+Inf"', "e5"]),
    st.sampled_from([" 1\n", "\n", "\r", "\0", "\ud800", "é"]),
)


@given(st.lists(st.lists(PIECES, max_size=40).map("".join), min_size=1, max_size=3))
def test_whatever_comes_the_text_can_be_parsed_and_no_series_comes_twice(pages: list[str]) -> None:
    text = merged(*pages)
    samples = [sample for family in parse_text(text) for sample in family.samples]
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    assert len(series) == len(set(series))
    assert not any(name.startswith("headgate_") for name, _ in series)


def test_a_hostile_line_takes_no_time() -> None:
    """Each pattern goes over a line once; with backtracking these would take minutes."""
    for line in (
        "a{" + 'x="1",' * 2000 + "!",
        "a{" + " " * 8000 + "!",
        "a{x=" + '"' + "\\" * 9001,
        "a 1" + " 1" * 4000,
    ):
        assert dropped(line) == 1
