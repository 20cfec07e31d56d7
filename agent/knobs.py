"""How settings are declared and gathered, whatever the command: from flags, from the environment, from a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import cache
from typing import Any, NamedTuple


def knob(
    flag: str, default: str | None, parse: Callable[[str], Any], text: str, *, form: str, repeat: bool = False
) -> Any:
    """Declare a setting. `default` is text, parsed like any other; None means that the setting is required."""
    return field(
        metadata={"flag": flag, "default": default, "parse": parse, "help": text, "form": form, "repeat": repeat}
    )


class Knob(NamedTuple):
    """One setting, as the command line and the documents need it."""

    name: str
    flag: str
    env: str
    default: str | None
    form: str
    help: str
    repeat: bool
    parse: Callable[[str], Any]


@cache
def declared(of: type) -> list[Knob]:
    """All settings of a command, a dataclass of `knob` fields, in the order of declaration; inherited ones last."""
    own = of.__annotations__
    return [
        Knob(
            name=spec.name,
            flag="--" + spec.metadata["flag"],
            env="HEADGATE_" + spec.metadata["flag"].upper().replace("-", "_"),
            default=spec.metadata["default"],
            form=spec.metadata["form"],
            help=spec.metadata["help"],
            repeat=spec.metadata["repeat"],
            parse=spec.metadata["parse"],
        )
        for spec in sorted(fields(of), key=lambda spec: spec.name not in own)
    ]


def gather(
    of: type,
    flags: Mapping[str, Sequence[str]],
    env: Mapping[str, str],
    live: Mapping[str, list[str]] | None = None,
    path: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """The values of a command's settings by name, without those that are wrong, and what is wrong.

    `live` holds the texts that override, by name, as the file at `path` has them.
    """
    problems: list[str] = []
    given: dict[str, Any] = {}
    for each in declared(of):
        source, texts = each.flag, list(flags.get(each.name, ()))
        if not texts and each.env in env:
            source, texts = each.env, env[each.env].split() if each.repeat else [env[each.env]]
        if live and each.name in live:
            source, texts = f"{path}: {each.flag[2:]}", live[each.name]
        if not texts:
            if each.default is None:
                problems.append(f"{each.flag} is required: {each.form} ({each.help})")
                continue
            texts = [] if each.repeat else [each.default]
        parsed = []
        for text in texts:
            try:
                parsed.append(each.parse(text))
            except ValueError as error:
                problems.append(f"{source} {text!r} is not accepted: expected {error}")
        if parsed or each.repeat:
            given[each.name] = tuple(parsed) if each.repeat else parsed[-1]
    return given, problems
