"""The command `headgate`. Each sub-command imports only what it needs: start-up time counts when a pod starts."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NoReturn, TypeVar

from agent import __version__
from agent.errors import SettingsError
from agent.knobs import Knob
from agent.settings import Settings, knobs, resolve

# sysexits.h EX_USAGE, which linkerd2-proxy uses for bad settings too.
EX_USAGE = 64

_Settings = TypeVar("_Settings")


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2, which supervisors know as a crash; usage errors are 64 here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = _Parser(prog="headgate", description="The gate at the head of every inference queue.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gate in front of a predictor", allow_abbrev=False)
    _add_settings(serve, knobs())
    scaler = commands.add_parser("scaler", help="tell KEDA the demand of gated workloads", allow_abbrev=False)
    webhook = commands.add_parser("webhook", help="put the gate into pods as they are created", allow_abbrev=False)
    demo = commands.add_parser(
        "demo", help="20 seconds: a predictor, the gate, and a load that rises past capacity", allow_abbrev=False
    )
    commands.add_parser("version", help="print the version")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        from agent.demo import main as demo_main  # noqa: PLC0415

        demo_main.add_arguments(demo)
        return int(demo_main.run(parser.parse_args(arguments)))
    if arguments[:1] == ["scaler"]:
        from agent.scale import settings as scaler_settings  # noqa: PLC0415

        _add_settings(scaler, knobs(scaler_settings.ScalerSettings))
    if arguments[:1] == ["webhook"]:
        from agent.inject import settings as webhook_settings  # noqa: PLC0415

        _add_settings(webhook, knobs(webhook_settings.WebhookSettings))
    parsed, unknown = parser.parse_known_args(arguments)
    if parsed.command == "version":
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        print(__version__)
        return 0
    return {"scaler": _scaler, "webhook": _webhook, "serve": _serve}[parsed.command](parsed, unknown)


def _add_settings(parser: argparse.ArgumentParser, settings: Sequence[Knob]) -> None:
    for knob in settings:
        default = "" if knob.default in {None, ""} else f" (default {knob.default})"
        text = f"{knob.help}{default} [{knob.env}]".replace("%", "%%")
        if knob.form:
            parser.add_argument(knob.flag, dest=knob.name, action="append", metavar=knob.form, help=text)
        else:
            parser.add_argument(knob.flag, dest=knob.name, action="append_const", const="true", help=text)
    parser.add_argument("--check-config", action="store_true", help="validate, print the effective settings and exit")


def _serve(parsed: argparse.Namespace, unknown: Sequence[str]) -> int:
    settings = _resolved(parsed, unknown, knobs(), resolve)
    if settings is None:
        return EX_USAGE
    if parsed.check_config:
        _print(settings)
        return 0
    return _run(settings, lambda: resolve(_flags(parsed, knobs()), os.environ, look=False))


def _scaler(parsed: argparse.Namespace, unknown: Sequence[str]) -> int:
    from agent.scale import settings as scaler_settings  # noqa: PLC0415

    settings = _resolved(parsed, unknown, knobs(scaler_settings.ScalerSettings), scaler_settings.resolve)
    if settings is None:
        return EX_USAGE
    if parsed.check_config:
        import json  # noqa: PLC0415

        print(json.dumps({**asdict(settings), "listen": str(settings.listen)}, indent=2))
        return 0
    # gRPC's own lines are not JSON, and what they tell is told by ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from agent.scale.scaler import run  # noqa: PLC0415

    return run(settings)


def _webhook(parsed: argparse.Namespace, unknown: Sequence[str]) -> int:
    from agent.inject import settings as webhook_settings  # noqa: PLC0415

    settings = _resolved(parsed, unknown, knobs(webhook_settings.WebhookSettings), webhook_settings.resolve)
    if settings is None:
        return EX_USAGE
    if parsed.check_config:
        import json  # noqa: PLC0415

        print(json.dumps({**asdict(settings), "listen": str(settings.listen)}, indent=2))
        return 0
    from agent.inject import webhook  # noqa: PLC0415

    return webhook.run(settings)


def _resolved(
    parsed: argparse.Namespace,
    unknown: Sequence[str],
    settings: Sequence[Knob],
    resolve_: Callable[[Mapping[str, Sequence[str]], Mapping[str, str]], _Settings],
) -> _Settings | None:
    """The settings; None, with all that is wrong said, where anything is."""
    command = f"headgate {parsed.command}"
    problems = [f"unknown argument {argument!r} ({command} --help lists all)" for argument in unknown]
    resolved = None
    try:
        resolved = resolve_(_flags(parsed, settings), os.environ)
    except SettingsError as error:
        problems += error.problems
    if not problems:
        return resolved
    print(f"{command}: {len(problems)} problem{'s' * (len(problems) > 1)} with the settings:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return None


def _flags(parsed: argparse.Namespace, settings: Sequence[Knob]) -> dict[str, Sequence[str]]:
    return {knob.name: getattr(parsed, knob.name) or () for knob in settings}


def _print(settings: Settings) -> None:
    import json  # noqa: PLC0415

    print(json.dumps(settings.shown(), indent=2))


def _run(settings: Settings, again: Callable[[], Settings]) -> int:
    import uvloop  # noqa: PLC0415

    from agent import logs  # noqa: PLC0415
    from agent.net.server import serve  # noqa: PLC0415

    logs.setup(settings.log_level)
    return uvloop.run(serve(settings, again))
