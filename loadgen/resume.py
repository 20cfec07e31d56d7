"""`--resume DIR`: the levels that an interrupted command has measured are taken from its folder, not measured again."""

import json
from dataclasses import replace
from pathlib import Path

from loadgen.document import DocumentError, read_levels, settings_json
from loadgen.level import Level
from loadgen.settings import Settings, SettingsError

# What levels must have in common to stand in one table.
_SAME = ("url", "protocol", "models", "warmup_s", "window_s", "timeout_s", "retry")


def resumed(settings: Settings) -> tuple[Settings, list[Level]]:
    """The settings with the seed of what is resumed, and its levels; both as they are where nothing is. Raises
    SettingsError."""
    folder = settings.resume
    if folder is None:
        return settings, []
    try:
        document = json.loads((folder / "result.json").read_text())
        levels = read_levels(document)
        kind, held = document["kind"], document["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DocumentError) as error:
        raise SettingsError([f"--resume {folder}: no result can be read there: {error}"]) from None
    ours = settings_json(settings)
    problems = [
        f"--resume {folder}: it was measured with {name} {held.get(name)!r}, not {ours[name]!r}"
        for name in _SAME
        if held.get(name) != json.loads(json.dumps(ours[name]))
    ]
    if kind != settings.command:
        problems.insert(0, f"--resume {folder}: it is of `{kind}`")
    if problems:
        raise SettingsError(problems)
    return replace(settings, seed=held["seed"], output=settings.output or Path(folder)), levels


def take(done: list[Level], kind: str, *, callers: int = 0, rate: float = 0.0) -> Level | None:
    """The first of `done` with this load, which is then no longer among them."""
    for level in done:
        if level.kind == kind and level.callers == callers and abs(level.rate - rate) <= 1e-9 * rate:
            done.remove(level)
            return level
    return None
