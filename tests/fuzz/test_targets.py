"""Every input of the repository for every target, and proof that the targets notice what they are for."""

import re
import tracemalloc
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire import fields
from tests.examples import examples
from tests.fuzz import bounds, runner
from tests.fuzz.targets import NAMES, Target, load
from tests.wire.test_http1_mutants import Edit, edits, mutated

# A busy machine is no finding; work that grows with the square of an input is more than this too slow.
SLACK = 5.0
CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", NAMES)
def test_every_input_that_is_kept_is_read_as_it_should(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.allowance, "slowdown", SLACK)
    target = load(name)
    inputs = target.inputs()
    assert inputs
    for data in inputs:
        try:
            runner.replay(target, data)
        except Exception as error:
            error.add_note(f"the input: {data!r}")
            raise


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), changes=st.lists(edits, min_size=1, max_size=4))
@settings(max_examples=examples(80))
def test_mutants_of_what_is_kept_are_read_as_they_should(name: str, data: st.DataObject, changes: list[Edit]) -> None:
    """The same where there is no atheris."""
    target, inputs = loaded(name)
    mutant = mutated(data.draw(st.sampled_from(inputs)), changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds.allowance, "slowdown", SLACK)
        target.check(mutant)


@cache
def loaded(name: str) -> tuple[Target, list[bytes]]:
    target = load(name)
    return target, target.inputs()


def test_no_input_is_kept_for_nobody() -> None:
    folders = {path.name for kind in ("corpus", "crashers") for path in (CORPUS.parent / kind).glob("*/")}
    assert folders <= set(NAMES)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


# What would be wrong -> the target that has to notice: module, attribute, value.
DEFECTS: dict[str, tuple[str, str, Any]] = {
    "http1_request": ("agent.wire.chunked", "_SIZE", re.compile(rb"([0-9A-Fa-f]{1,15}) ?(?:;[^\n]*)?\r?\n")),
    "http1_response": ("agent.wire.chunked", "_SIZE", re.compile(rb"([0-9A-Fa-f]{1,15}) ?(?:;[^\n]*)?\r?\n")),
    "http2_server": ("agent.wire.fields", "_VALUE", re.compile(rb"[^\0]*")),
    "http2_client": ("agent.wire.fields", "_NAME", re.compile(rb"[^\0]+")),
    "hpack_fields": ("agent.wire.fields", "_VALUE", re.compile(rb"[^\0]*")),
    "grpc_timeout": ("agent.wire.grpc", "_TIMEOUT", re.compile(rb"([0-9]{1,9})([HMSmun])")),
    "model_name": ("agent.wire.grpc", "_NAME_TAG", 0x12),
    "hints": ("agent.wire.hints", "_MAX_PATIENCE_S", 1e9),
    "classify": ("agent.policy.classify", "unquote_to_bytes", lambda path: path),
    "foreign_metrics": ("agent.admin.foreign", "RESERVED", "none_"),
    "load_page": ("agent.scale.page", "_NOT_ALLOWED", None),
    "live_settings": ("agent.settings", "SettingsError", ValueError),
    "sniff": ("agent.wire.sniff", "PREFACE", b"PRI * HTTP/1.1\r\n"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_target_notices_a_defect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load(name)
    module, attribute, value = DEFECTS[name]
    monkeypatch.setattr(fields, "_known", {})  # what is let through by mistake must not be remembered
    monkeypatch.setattr(import_module(module), attribute, value)
    assert any(map(partial(fails, target), target.inputs()))


def fails(target: Target, data: bytes) -> bool:
    try:
        target.check(data)
    except Exception:  # whatever it raises is a finding
        return True
    return False


def test_what_costs_too_much_is_noticed() -> None:
    allowance = bounds.Allowance()
    with pytest.raises(bounds.ExcessError, match="ms for 100 bytes"), allowance.bounded(100):
        sum(range(10**7))
    with allowance.bounded(100):
        kept = bytearray(1 << 23)
    tracemalloc.start()
    try:
        with pytest.raises(bounds.ExcessError, match="bytes of memory"), allowance.bounded(100):
            kept = bytearray(1 << 23)
        with allowance.bounded(1 << 20):
            kept = bytearray(1 << 23)
    finally:
        tracemalloc.stop()
    assert kept


def test_a_finding_is_judged_again_without_instruments() -> None:
    calls = []

    def slow_once(data: bytes) -> None:
        calls.append(data)
        if len(calls) == 2:
            raise bounds.ExcessError("slow")

    def slow(data: bytes) -> None:
        raise bounds.ExcessError("slow")

    runner.replay(Target("slow once", slow_once, list), b"")
    assert len(calls) == 3
    with pytest.raises(bounds.ExcessError):
        runner.replay(Target("slow", slow, list), b"")
