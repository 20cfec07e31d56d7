"""`compare`, `report` and `history`: what is done with results that are there."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadgen import outputs
from loadgen.compare import compare, render
from loadgen.document import SCHEMA, DocumentError, read_levels
from loadgen.exits import Exit
from loadgen.history import History, HistoryError
from loadgen.html import render_page
from loadgen.merging import merge_documents
from loadgen.report import table
from loadgen.settings import SettingsError
from loadgen.tables import plain_table
from loadgen.units import format_rate
from loadgen.values import integer, one_of, parse_share, parse_tag

TOLERANCE = 0.05
_ENTRIES = 20


def load(name: str, history_url: str) -> dict[str, Any]:
    """A result: from a folder, from a file, or by its name in the history. Raises SettingsError."""
    path = Path(name)
    if path.is_dir():
        path /= "result.json"
    if path.is_file():
        return _read(path)
    try:
        with History.open(history_url) as history:
            kept = history.document(name)
    except HistoryError as error:
        raise SettingsError([f"{name} is no file, and the history cannot be read: {error}"]) from None
    if kept is None:
        raise SettingsError([f"{name}: no such folder, file or name in the history (see headgate-load history)"])
    return kept


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError([f"{path}: {error}"]) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SettingsError([f"{path}: not a result of headgate-load"])
    return document


def run_compare(given: argparse.Namespace) -> Exit:
    """Two results, a verdict for each figure; FAILED where one got worse. Raises SettingsError."""
    tolerance = _parsed(parse_share, "--tolerance", given.tolerance, "a share such as 5%", TOLERANCE)
    base, new = (load(name, given.history or "") for name in (given.base, given.new))
    try:
        verdicts = compare(base, new, tolerance)
    except DocumentError as error:
        raise SettingsError([f"{error}"]) from None
    if not verdicts:
        raise SettingsError(["the two have no level in common: compare runs of the same command and levels"])
    if given.format == "json":
        print(json.dumps([verdict._asdict() for verdict in verdicts], indent=1))
    else:
        print(render(verdicts, base["name"], new["name"], tolerance))
    return Exit.FAILED if any(verdict.is_regression for verdict in verdicts) else Exit.OK


def run_report(given: argparse.Namespace) -> Exit:
    """Results as a page, or in another form; `--merge` makes one of those that ran side by side. Raises
    SettingsError."""
    documents = [load(name, given.history or "") for name in given.runs]
    try:
        if given.merge:
            documents = [merge_documents(documents)]
        texts = [document.get("summary") or "\n".join(plain_table(read_levels(document))) for document in documents]
    except DocumentError as error:
        raise SettingsError([f"{error}"]) from None
    if given.html is None:
        form = _parsed(one_of("text", "json", "csv", "junit", "prom"), "--format", given.format, "a format", "text")
        for document, text in zip(documents, texts, strict=True):
            print(text if form == "text" else outputs.printed(form, document).rstrip("\n"))
        return Exit.OK
    try:
        Path(given.html).write_text(render_page(documents, texts))
    except DocumentError as error:
        raise SettingsError([f"{error}"]) from None
    except OSError as error:
        print(f"headgate-load: --html {given.html}: {error.strerror}", file=sys.stderr)
        return Exit.UNWRITTEN
    print(given.html)
    return Exit.OK


def run_history(given: argparse.Namespace) -> Exit:
    """The newest results, or the removal of one. Raises SettingsError."""
    limit = _parsed(integer(1, 100_000), "--limit", given.limit, "a whole number from 1 to 100000", _ENTRIES)
    tag = _parsed(parse_tag, "--tag", given.tag, "key=value", None)
    try:
        with History.open(given.history or "") as history:
            if given.remove is not None:
                if history.remove(given.remove):
                    return Exit.OK
                raise SettingsError([f"--remove {given.remove}: no such name in the history"])
            entries = history.entries(limit, tag)
    except HistoryError as error:
        raise SettingsError([f"the history cannot be read: {error}"]) from None
    rows: list[Sequence[str]] = [("name", "command", "started", "levels", "best", "models", "url")]
    for entry in entries:
        best = format_rate(entry.best)
        rows.append((entry.name, entry.kind, entry.started, f"{entry.levels}", best, entry.models, entry.url))
    print("\n".join(table(rows)) if entries else "the history is empty")
    return Exit.OK


def _parsed(parse: Any, flag: str, text: str | None, accepted: str, default: Any) -> Any:
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError:
        raise SettingsError([f"{flag} {text!r}; accepted: {accepted}"]) from None
