"""The generated code: what the .proto files say now, made by the command that `make proto` runs."""

from pathlib import Path

import pytest

from protos import generate

SOURCES = sorted(path.stem for path in (generate.ROOT / "protos").glob("*.proto"))
GENERATED = {f"{source}{end}" for source in SOURCES for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the generator makes now."""
    into = tmp_path_factory.mktemp("generated")
    return {path.name: path.read_bytes() for path in generate.generate(into)}


def test_every_source_has_its_modules_and_no_module_lacks_its_source(fresh: dict[str, bytes]) -> None:
    assert SOURCES == ["external_scaler", "health", "open_inference", "orca_load_report", "stat"]
    assert set(fresh) == GENERATED
    assert {path.name for path in (generate.ROOT / "protos").glob("*_pb2*.py*")} == GENERATED


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_the_code_in_the_tree_is_what_the_sources_say(name: str, fresh: dict[str, bytes]) -> None:
    assert (generate.ROOT / "protos" / name).read_bytes() == fresh[name], "run `make proto`"


def test_a_compiler_that_names_the_pool_in_another_way_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_SHARED_POOL", "from somewhere else")
    with pytest.raises(RuntimeError, match=r"see protos/pool\.py"):
        list(generate.generate(tmp_path))


def test_a_source_that_does_not_compile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos" / "broken.proto").write_text("message {")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    with pytest.raises(RuntimeError, match=r"broken\.proto does not compile"):
        list(generate.generate(tmp_path))
    assert "broken.proto:1" in capfd.readouterr().err
