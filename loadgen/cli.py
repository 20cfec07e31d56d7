"""The `headgate-load` command."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

import uvloop

from loadgen.exits import Exit
from loadgen.flags import POSITIONAL
from loadgen.payload import PayloadError
from loadgen.prepare import UnreachableError
from loadgen.settings import Settings, SettingsError, flags_of, read_settings
from loadgen.target import allow_many_connections

_COMMANDS = {
    "run": "one load against one URL",
    "sweep": "a table of levels, with its knee",
    "search": "the largest level that keeps the objectives",
    "tune": "sweep, search and proof: limit, queue, deadline and autoscaling targets",
    "inspect": "what a model takes, the request that would be sent, and one answer",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `exits.py`)."""
    try:
        return _main(argv)
    except SettingsError as error:
        for problem in error.problems:
            print(f"headgate-load: {problem}", file=sys.stderr)
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([f"{message} (see {self.prog} --help)"])


def _main(argv: Sequence[str] | None) -> int:
    parser = _Parser(prog="headgate-load", description="Load for inference, measured from the intended send time.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for command, text in _COMMANDS.items():
        _add_flags(commands.add_parser(command, help=text, allow_abbrev=False), command)
    given, unknown = parser.parse_known_args(argv)
    return _load(given, unknown)


def _add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    for flag in POSITIONAL:
        if command in flag.commands:
            parser.add_argument(flag.field, metavar=flag.metavar, nargs="?", help=flag.help)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in flags_of(command):
        group = groups.get(flag.group) or groups.setdefault(flag.group, parser.add_argument_group(flag.group))
        names = [flag.short, flag.name] if flag.short else [flag.name]
        text = flag.help.replace("%", "%%")
        if flag.parse is None:
            group.add_argument(*names, action="store_true", help=text)
        else:
            action = "append" if flag.many else "store"
            group.add_argument(*names, metavar=flag.metavar, help=text, action=action)


def _load(given: argparse.Namespace, unknown: Sequence[str]) -> int:
    """A command that loads a target."""
    problems = [
        f"{word} is not a flag of `{given.command}` (see headgate-load {given.command} --help)" for word in unknown
    ]
    try:
        settings = read_settings(given.command, given)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    allow_many_connections()
    try:
        return uvloop.run(_command(settings.command)(settings))
    except PayloadError as error:
        print(f"headgate-load: {error}", file=sys.stderr)
    except UnreachableError as error:
        print(f"headgate-load: {settings.url} cannot be used: {error}", file=sys.stderr)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        print(f"headgate-load: {settings.url} cannot be reached: {reason}", file=sys.stderr)
    return Exit.UNREACHABLE


def _command(name: str) -> Callable[[Settings], Coroutine[Any, Any, Exit]]:
    """Imported here, for each brings what the others do not need."""
    if name in {"run", "inspect"}:
        from loadgen import commands  # noqa: PLC0415

        return commands.run if name == "run" else commands.inspect
    if name == "tune":
        from loadgen.tune import tune  # noqa: PLC0415

        return tune
    from loadgen import sweep  # noqa: PLC0415

    return sweep.sweep if name == "sweep" else sweep.search
