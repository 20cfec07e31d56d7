"""Every result, kept: in a file of SQLite under the user's data folder, or in a database of a team by its URL.

Runs, their tags, levels and outcomes are rows of their own, so that a question across runs is one query; the whole
document stands beside them for reports and comparisons. `MIGRATIONS` bring an older database up to date when it is
opened.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from loadgen.places import ENVIRONMENT, history_url

_POOL = 4
_POOL_WAIT_S = 10
_CONNECT_S = 10
# PostgreSQL's locks of this kind have numbers; any will do that nobody else takes.
_LOCK = 0x68656164

_METADATA = MetaData()
SCHEMA = Table("load_schema", _METADATA, Column("version", Integer, primary_key=True))
RUNS = Table(
    "load_runs",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("started", String(20), nullable=False, index=True),
    Column("host", String, nullable=False),
    Column("version", String),
    Column("url", String, nullable=False),
    Column("protocol", String(20), nullable=False),
    Column("models", String, nullable=False),
    Column("seed", String, nullable=False),
    Column("document", LargeBinary, nullable=False),
)
TAGS = Table(
    "load_tags",
    _METADATA,
    Column("run_id", ForeignKey(RUNS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)
LEVELS = Table(
    "load_levels",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey(RUNS.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("callers", Integer),
    Column("rate", Float),
    Column("seconds", Float, nullable=False),
    Column("throughput", Float, nullable=False),
    Column("trusted", Integer, nullable=False),
)
OUTCOMES = Table(
    "load_outcomes",
    _METADATA,
    Column("level_id", ForeignKey(LEVELS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("outcome", String(20), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("p50_ms", Float),
    Column("p90_ms", Float),
    Column("p99_ms", Float),
    Column("p999_ms", Float),
    Column("mean_ms", Float),
    Column("max_ms", Float),
)


def _first(connection: Connection) -> None:
    _METADATA.create_all(connection)


# Each brings the schema from its own number, counted from 0, to the next; they run in one transaction.
MIGRATIONS: Sequence[Callable[[Connection], None]] = (_first,)


class HistoryError(Exception):
    """The history cannot be used; the text says why."""


class Entry(NamedTuple):
    """One line of the list."""

    name: str
    kind: str
    started: str
    url: str
    models: str
    levels: int
    best: float


class History:
    """An open history; use it as a context manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str = "") -> Self:
        """The history at `url`, made or brought up to date as needed. Raises HistoryError."""
        url = url or history_url()
        if url == "off":
            raise HistoryError(f"it is off (--history or {ENVIRONMENT})")
        try:
            made = cls(_engine(url))
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise HistoryError(_reason(error)) from error
        try:
            made._migrate()
        except (SQLAlchemyError, HistoryError) as error:
            made._engine.dispose()
            raise HistoryError(_reason(error)) from error
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction beside which nobody else's is: what it reads is still so when it writes."""
        with self._engine.connect().execution_options(alone=True) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    def _migrate(self) -> None:
        with self._alone() as connection:
            version = 0
            if inspect(connection).has_table(SCHEMA.name):
                version = connection.scalar(select(func.max(SCHEMA.c.version))) or 0
            if version > len(MIGRATIONS):
                raise HistoryError(f"it is of version {version}, newer than this program's {len(MIGRATIONS)}")
            for number in range(version, len(MIGRATIONS)):
                MIGRATIONS[number](connection)
                connection.execute(insert(SCHEMA).values(version=number + 1))

    def add(self, document: Mapping[str, Any]) -> str:
        """Keep a result under its name, or under that name with a number where it is taken; the name it got. Raises
        HistoryError."""
        try:
            with self._alone() as connection:
                return _add(connection, document)
        except SQLAlchemyError as error:
            raise HistoryError(_reason(error)) from error

    def entries(self, limit: int, tag: tuple[str, str] | None = None) -> list[Entry]:
        """The newest runs first. Raises HistoryError."""
        query = (
            select(
                RUNS.c.name,
                RUNS.c.kind,
                RUNS.c.started,
                RUNS.c.url,
                RUNS.c.models,
                func.count(LEVELS.c.id),
                func.coalesce(func.max(LEVELS.c.throughput), 0.0),
            )
            .outerjoin(LEVELS, LEVELS.c.run_id == RUNS.c.id)
            .group_by(RUNS.c.id)
            .order_by(RUNS.c.id.desc())
            .limit(limit)
        )
        if tag is not None:
            query = query.join(TAGS, TAGS.c.run_id == RUNS.c.id).where(TAGS.c.key == tag[0], TAGS.c.value == tag[1])
        try:
            with self._engine.connect() as connection:
                return [Entry(*row) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            raise HistoryError(_reason(error)) from error

    def document(self, name: str) -> dict[str, Any] | None:
        """The whole result of that name; None where there is none. Raises HistoryError."""
        try:
            with self._engine.connect() as connection:
                held = connection.scalar(select(RUNS.c.document).where(RUNS.c.name == name))
        except SQLAlchemyError as error:
            raise HistoryError(_reason(error)) from error
        if held is None:
            return None
        document: dict[str, Any] = json.loads(zlib.decompress(held))
        return document

    def remove(self, name: str) -> bool:
        """Forget a result; whether there was one. Raises HistoryError."""
        try:
            with self._engine.begin() as connection:
                return bool(connection.execute(delete(RUNS).where(RUNS.c.name == name)).rowcount)
        except SQLAlchemyError as error:
            raise HistoryError(_reason(error)) from error


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        patience = {"connect_timeout": _CONNECT_S} if parsed.get_backend_name() == "postgresql" else {}
        return create_engine(
            parsed,
            pool_size=_POOL,
            max_overflow=0,
            pool_timeout=_POOL_WAIT_S,
            pool_pre_ping=True,
            connect_args=patience,
        )
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver would begin no transaction for what changes the schema
        # Cascades are off by default in SQLite, and a second run must wait for the first, not fail.
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=5000")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("alone") else "BEGIN")

    return engine


def _reason(error: Exception) -> str:
    if isinstance(error, ArgumentError):
        return f"not a database URL such as postgresql://user@host/name: {error}"
    if isinstance(error, ImportError):
        return f"{error}; for PostgreSQL install headgate[postgres]"
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def _add(connection: Connection, document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    name = _free(connection, str(document["name"]))
    held = {**document, "name": name}
    run_id = connection.execute(
        insert(RUNS)
        .values(
            name=name,
            kind=document["kind"],
            started=document["started"],
            host=document["host"],
            version=document["version"],
            url=settings["url"],
            protocol=settings["protocol"],
            models=",".join(model["name"] for model in settings["models"]),
            seed=str(settings["seed"]),
            document=zlib.compress(json.dumps(held).encode()),
        )
        .returning(RUNS.c.id)
    ).scalar_one()
    if tags := [{"run_id": run_id, "key": key, "value": value} for key, value in document["tags"].items()]:
        connection.execute(insert(TAGS), tags)
    for position, level in enumerate(document["levels"]):
        _add_level(connection, run_id, position, level)
    return name


def _free(connection: Connection, name: str) -> str:
    taken = set(connection.scalars(select(RUNS.c.name).where(RUNS.c.name.startswith(name, autoescape=True))))
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _add_level(connection: Connection, run_id: int, position: int, level: Mapping[str, Any]) -> None:
    level_id = connection.execute(
        insert(LEVELS)
        .values(
            run_id=run_id,
            position=position,
            kind=level["kind"],
            callers=level["callers"],
            rate=level["rate"],
            seconds=level["seconds"],
            throughput=level["throughput"],
            trusted=int(not level["generator"]["limited"] and not level["unstable"]),
        )
        .returning(LEVELS.c.id)
    ).scalar_one()
    rows = []
    for outcome, counted in level["outcomes"].items():
        times = counted["service" if level["callers"] else "response"]
        rows.append(
            {
                "level_id": level_id,
                "outcome": outcome,
                "count": counted["count"],
                "p999_ms": times["p99.9_ms"],
                **{f"{key}_ms": times[f"{key}_ms"] for key in ("p50", "p90", "p99", "mean", "max")},
            }
        )
    connection.execute(insert(OUTCOMES), rows)
