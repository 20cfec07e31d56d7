"""--file: settings in TOML, which the command line overrules, and whose mistakes are named with all others."""

import argparse
from pathlib import Path

import pytest

from loadgen import cli
from loadgen.exits import Exit
from loadgen.flags import FLAGS, POSITIONAL
from loadgen.settings import Settings, read_settings
from loadgen.settings_file import read_file

TEXT = """
url = "http://h:1"
model = "m"
slo = ["p99<250ms", "errors<1%"]
header = "X-A: 1"
rate = 50
streams = 8
insecure = true

[sweep]
concurrency = [1, 2, 4]
cooldown = "0s"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "load.toml"
    path.write_text(TEXT)
    return path


def read(file: Path, command: str, **said: object) -> Settings:
    given = argparse.Namespace(**{flag.field: None for flag in (*POSITIONAL, *FLAGS)})
    for name, value in said.items():
        setattr(given, name, value)
    assert read_file(file, command, given) == []
    return read_settings(command, given)


def test_a_file_says_what_the_command_line_does_not(file: Path) -> None:
    settings = read(file, "run", model="other", streams="3")
    assert (f"{settings.url}", settings.models, settings.rate, settings.streams) == (
        "http://h:1",
        ("other",),
        (50.0,),
        3,
    )
    assert [slo.text for slo in settings.slo] == ["p99<250ms", "errors<1%"]
    assert (settings.header, settings.insecure) == ((("X-A", "1"),), True)


def test_a_table_is_for_its_command_and_what_excludes_each_other_is_overruled(file: Path) -> None:
    settings = read(file, "sweep")
    assert (settings.concurrency, settings.rate, settings.cooldown) == ((1, 2, 4), (), 0.0)
    assert read(file, "sweep", rate="5,9").concurrency == ()
    assert read(file, "run", concurrency="2").rate == ()
    assert read(file, "inspect").models == ("m",)  # it has neither rate nor slo


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 1", "modle is no flag of `run`"),
        ("[run]\nproof = 'gate'", "[run] proof is no flag of `run`"),
        ("run = 1", "run is a table"),
        ("file = 'x'", "file is no flag"),
        ("insecure = 'yes'", "insecure = 'yes'; accepted: true"),
        ("rate = true", "rate = True; accepted: requests per second"),
        ("model = {}", "model = {}; accepted: a model name"),
        ("rate = ", "Invalid value"),
        ("rate = 'fast'", "--rate 'fast'; accepted: requests per second"),
    ],
)
def test_mistakes_are_named(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert cli.main(["run", "http://127.0.0.1:1", "-m", "m", "-f", f"{file}", "--timeout", "x"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert said in err
    assert "--timeout 'x'" in err
