"""The history, on a file of SQLite and on a real PostgreSQL that is started for these tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from loadgen import history
from loadgen.history import History, HistoryError
from tests.loadgen.test_results import document, level

# Any account but root's, which PostgreSQL refuses; the package makes the first.
ACCOUNTS = ("postgres", "nobody")


def programs() -> Path | None:
    """Where initdb and pg_ctl are: Debian keeps those of each version apart."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return folders[-1] if folders else None


def account() -> str | None:
    """Who runs it; None: whoever runs the tests."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ACCOUNTS if name in names)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a cluster of its own in a folder of its own, reached through a socket there."""
    found, user = programs(), account()
    if found is None:
        reason = "PostgreSQL is not installed (apt-get install postgresql)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    assert found is not None
    # Not under pytest's folder, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="headgate-pg-"))
    if user is not None:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run([f"{found / command[0]}", *command[1:]], user=user, cwd=folder, check=True, capture_output=True)

    data = f"{folder / 'data'}"
    try:
        run("initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-D", data, "-o", options, "-l", f"{folder / 'log'}", "-w", "start")
        try:
            yield f"postgresql://test@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'folder' / 'h.sqlite'}"
    server: str = request.getfixturevalue("postgres")
    with create_engine(driver(server), poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("drop database if exists load"))
        connection.execute(text("create database load"))
    return server.replace("/postgres?", "/load?")


def driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def scalars(url: str, *queries: str) -> list[object]:
    with create_engine(driver(url), poolclass=NullPool).connect() as connection:
        return [connection.scalar(text(query)) for query in queries]


def test_it_keeps_lists_finds_and_forgets(url: str) -> None:
    with History.open(url) as kept:
        assert kept.entries(10) == []
        assert [kept.add(document(level())) for _ in range(2)] == ["base", "base-2"]
        assert kept.add({**document(level(callers=3), level(callers=4)), "tags": {}, "name": "other"}) == "other"
    with History.open(url) as kept:
        assert [(entry.name, entry.levels, entry.best) for entry in kept.entries(10)] == [
            ("other", 2, 50.0),
            ("base-2", 1, 50.0),
            ("base", 1, 50.0),
        ]
        assert [entry.name for entry in kept.entries(10, ("team", "a"))] == ["base-2", "base"]
        held = kept.document("base-2")
        assert held is not None
        assert (held["name"], held["levels"]) == ("base-2", document(level())["levels"])
        assert kept.document("nothing") is None
        assert kept.remove("base")
        assert not kept.remove("base")
    counts = scalars(url, *(f"select count(*) from load_{name}" for name in ("levels", "outcomes", "tags")))
    assert counts == [3, 6, 1]


def test_long_names_are_kept_whole(url: str) -> None:
    name, models = "n" * 2000, [{"name": "m" * 3000, "weight": 1.0}]
    made = document(level(), name=name)
    with History.open(url) as kept:
        kept.add({**made, "settings": {**made["settings"], "models": models}, "tags": {"k" * 300: "v" * 3000}})
        (entry,) = kept.entries(1, ("k" * 300, "v" * 3000))
    assert (entry.name, entry.models) == (name, "m" * 3000)


def test_an_older_one_is_brought_up_to_date_and_a_newer_one_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with History.open(url) as kept:
        kept.add(document(level()))
    added = lambda connection: connection.execute(text("alter table load_runs add column note varchar(10)"))  # noqa: E731
    monkeypatch.setattr(history, "MIGRATIONS", (*history.MIGRATIONS, added))
    with History.open(url) as kept:
        assert len(kept.entries(10)) == 1
    assert scalars(url, "select max(version) from load_schema", "select count(note) from load_runs") == [2, 0]
    monkeypatch.undo()
    with pytest.raises(HistoryError, match="newer than this program"):
        History.open(url)


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: history.Connection) -> None:
        connection.execute(text("alter table load_runs add column note varchar(10)"))
        connection.execute(text("select nonsense"))

    with History.open(url) as kept:
        kept.add(document(level()))
    monkeypatch.setattr(history, "MIGRATIONS", (*history.MIGRATIONS, broken))
    with pytest.raises(HistoryError, match="nonsense"):
        History.open(url)
    monkeypatch.undo()
    with History.open(url) as kept:
        assert len(kept.entries(10)) == 1
    with pytest.raises(Exception, match="note"):
        scalars(url, "select count(note) from load_runs")


def test_those_who_open_and_add_together_get_along(url: str) -> None:
    def keep(_: int) -> str:
        with History.open(url) as kept:
            return kept.add(document(level()))

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(keep, range(24)))
    assert sorted(names) == sorted(["base", *(f"base-{number}" for number in range(2, 25))])
    assert scalars(url, "select count(*) from load_runs", "select count(*) from load_schema") == [24, 1]


def test_connections_are_shared_and_few(postgres: str, url: str) -> None:
    with History.open(url) as kept:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda _: kept.entries(1), range(100)))
        (open_now,) = scalars(postgres, "select count(*) from pg_stat_activity where datname = 'load'")
        assert url.startswith("sqlite") or 1 <= int(str(open_now)) <= 4


def test_a_connection_that_the_server_has_dropped_is_replaced(postgres: str, url: str) -> None:
    with History.open(url) as kept:
        scalars(postgres, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'load'")
        assert kept.entries(1) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("off", "it is off"),
        ("nonsense", "not a database URL such as postgresql://"),
        ("sqlite:////proc/none/h.sqlite", "/proc/none"),
        ("postgresql://127.0.0.1:1/x", "127.0.0.1"),
        ("mysql://h/x", "MySQLdb"),
    ],
)
def test_one_that_cannot_be_had_says_why(bad: str, said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        History.open(bad)
