"""Settings from a file of TOML: flags by their names, what the command line says wins.

    url = "http://127.0.0.1:8080"
    model = "resnet50"
    slo = ["p99<250ms", "errors<1%"]

    [sweep]
    concurrency = "1:64"

What stands before the tables is for every command that has such a flag, a table for the command that it is named after.
"""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadgen.flags import EXCLUSIVE, FLAGS, POSITIONAL, Flag

_ALL = (*POSITIONAL, *FLAGS)
_COMMANDS = frozenset().union(*(flag.commands for flag in _ALL))
_FIELD = "file"


def read_file(path: Path, command: str, given: argparse.Namespace) -> list[str]:
    """Fill in what `given` does not say; what is wrong with the file."""
    try:
        told = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        return [f"--file {path}: {error}"]
    flags = {flag.field: flag for flag in _ALL if command in flag.commands}
    known = {flag.field for flag in _ALL}
    problems = []
    own = told.get(command)
    if own is not None and not isinstance(own, dict):
        problems.append(f"--file {path}: {command} is a table of settings")
        own = None
    shared = {key: value for key, value in told.items() if key not in _COMMANDS}
    for where, values in (("", shared), (f"[{command}] ", own or {})):
        for key, value in values.items():
            field = key.replace("-", "_")
            if field == _FIELD or field not in known or (where and field not in flags):
                problems.append(f"--file {path}: {where}{key} is no flag of `{command}`")
            elif field in flags and _text(flags[field], value) is None:
                problems.append(f"--file {path}: {where}{key} = {value!r}; accepted: {flags[field].accepted or 'true'}")
    if not problems:
        for values in (own or {}, shared):
            _fill(given, flags, values)
    return problems


def _fill(given: argparse.Namespace, flags: Mapping[str, Flag], values: Mapping[str, Any]) -> None:
    said = {field for field in flags if getattr(given, field, None) not in (None, False, [])}
    for one, other in EXCLUSIVE:
        said |= {one, other} if {one, other} & said else set()
    for key, value in values.items():
        flag = flags.get(key.replace("-", "_"))
        if flag is not None and flag.field not in said:
            setattr(given, flag.field, _text(flag, value))


def _text(flag: Flag, value: Any) -> Any:
    """As argparse would give it; None for what no flag can be."""
    if flag.parse is None:
        return value if isinstance(value, bool) else None
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in several):
        return None
    texts = [str(one) for one in several]
    return texts if flag.many else ",".join(texts)
