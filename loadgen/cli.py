"""The `headgate-load` command."""

import argparse
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from loadgen.exits import Exit
from loadgen.flags import POSITIONAL
from loadgen.payload import GivenError, PayloadError
from loadgen.prepare import UnreachableError
from loadgen.settings import Settings, SettingsError, flags_of, read_settings
from loadgen.settings_file import read_file
from loadgen.target import allow_many_connections

_LOADS = {
    "run": "one load against one URL",
    "sweep": "a table of levels, with its knee",
    "search": "the largest level that keeps the objectives",
    "tune": "sweep, search and proof: limit, queue, deadline and autoscaling targets",
    "replay": "a trace, at its own times",
    "inspect": "what a model takes, the request that would be sent, and one answer",
}
_HISTORY = ("--history", "URL", "a database instead of the file under the user's data folder")


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
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.UNWRITTEN


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([f"{message} (see {self.prog} --help)"])


def _main(argv: Sequence[str] | None) -> int:
    parser = _Parser(prog="headgate-load", description="Load for inference, measured from the intended send time.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for command, text in _LOADS.items():
        _add_flags(commands.add_parser(command, help=text, allow_abbrev=False), command)
    _add_results(commands)
    given, unknown = parser.parse_known_args(argv)
    if given.command in _LOADS:
        return _load(given, unknown)
    if problems := _unknown(given.command, unknown):
        raise SettingsError(problems)
    if given.command == "selftest":
        from loadgen.selftest import run_selftest  # noqa: PLC0415

        return run_selftest(given)
    if given.command == "worker":
        from loadgen.worker import run_worker  # noqa: PLC0415

        return run_worker(given)
    from loadgen import results  # noqa: PLC0415 (SQLAlchemy takes 0.2 s)

    return {"compare": results.run_compare, "report": results.run_report, "history": results.run_history}[
        given.command
    ](given)


def _unknown(command: str, words: Sequence[str]) -> list[str]:
    return [f"{word} is not a flag of `{command}` (see headgate-load {command} --help)" for word in words]


def _add_results(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """The commands that need no target. A RUN is a folder, a file or a name in the history."""
    compare = commands.add_parser("compare", help="two results, with a verdict for each figure", allow_abbrev=False)
    compare.add_argument("base", metavar="BASE", help="a folder, a file or a name in the history")
    compare.add_argument("new", metavar="NEW", help="the same")
    compare.add_argument("--tolerance", metavar="SHARE", help="how much worse is still well (default: 5%%)")
    compare.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")
    report = commands.add_parser("report", help="results as one page of HTML, or in another form", allow_abbrev=False)
    report.add_argument("runs", metavar="RUN", nargs="+", help="a folder, a file or a name in the history")
    report.add_argument("--html", metavar="FILE", help="write the page there; it opens offline")
    report.add_argument("--merge", action="store_true", help="make one result of those that ran side by side")
    report.add_argument("--format", metavar="F", help="text (default), json, csv, junit or prom, where no --html is")
    history = commands.add_parser("history", help="the results that were kept", allow_abbrev=False)
    history.add_argument("--limit", metavar="N", help="how many, the newest first (default: 20)")
    history.add_argument("--tag", metavar="K=V", help="only those with this label")
    history.add_argument("--remove", metavar="NAME", help="forget this one")
    for parser in (compare, report, history):
        parser.add_argument(_HISTORY[0], metavar=_HISTORY[1], help=_HISTORY[2])
    worker = commands.add_parser("worker", help="a part of the load of `run --workers --listen`", allow_abbrev=False)
    worker.add_argument("--join", metavar="HOST:PORT", help="where it listens")
    selftest = commands.add_parser("selftest", help="what this machine's generator can do", allow_abbrev=False)
    selftest.add_argument("--duration", "-z", metavar="DUR", help="of each row (default: 2s)")
    selftest.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")


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
    problems = _unknown(given.command, unknown)
    if given.file is not None and Path(given.file).is_file():
        problems += read_file(Path(given.file), given.command, given)
    try:
        settings = read_settings(given.command, given)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    allow_many_connections()
    try:
        return uvloop.run(_released(_command(settings, given)))
    except GivenError as error:
        raise SettingsError([str(error)]) from None
    except PayloadError as error:
        print(f"headgate-load: {error}", file=sys.stderr)
    except UnreachableError as error:
        print(f"headgate-load: {settings.url} cannot be used: {error}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        print(f"headgate-load: {settings.url} cannot be reached: {reason}", file=sys.stderr)
    return Exit.UNREACHABLE


async def _released(command: Coroutine[Any, Any, Exit]) -> Exit:
    """The command, and what it holds of the server's given back."""
    from loadgen.shm import REGIONS  # noqa: PLC0415

    try:
        return await command
    finally:
        await REGIONS.release()


def _command(settings: Settings, given: argparse.Namespace) -> Coroutine[Any, Any, Exit]:
    """Imported here, for each brings what the others do not need."""
    match settings.command:
        case "run" if settings.workers > 1:
            from loadgen.workers import run_workers  # noqa: PLC0415

            return run_workers(settings, {name: value for name, value in vars(given).items() if value is not None})
        case "run" | "inspect" as name:
            from loadgen import commands  # noqa: PLC0415

            return commands.run(settings) if name == "run" else commands.inspect(settings)
        case "tune":
            from loadgen.tune import tune  # noqa: PLC0415

            return tune(settings)
        case "replay":
            from loadgen.replay import replay  # noqa: PLC0415

            return replay(settings)
    from loadgen import sweep  # noqa: PLC0415

    return sweep.sweep(settings) if settings.command == "sweep" else sweep.search(settings)
