"""Tables are created once, upgraded by steps, and left alone when a newer mediagate made them."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from mediagate.core.scopes import Scope
from mediagate.index import transactions
from mediagate.index.driver import IndexTooNewError
from mediagate.index.schema import METADATA, STORE, owner_of, schema_version, upgrade
from mediagate.index.sql import SqlIndex


@contextlib.contextmanager
def database(path: Path) -> Iterator[sa.Connection]:
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def version(path: Path) -> int:
    with database(path) as connection:
        return int(connection.execute(sa.select(schema_version.c.version)).scalar_one())


def add_note(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE files ADD COLUMN note TEXT")


def add_colour(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE files ADD COLUMN colour TEXT")


def test_new_database_is_created_at_the_latest_version_without_steps(tmp_path: Path) -> None:
    path = tmp_path / "index.db"

    with database(path) as connection:
        upgrade(connection, steps=[add_note])
        columns = {c["name"] for c in sa.inspect(connection).get_columns("files")}

    assert "note" not in columns
    assert version(path) == 2


def test_older_database_takes_the_missing_steps_once(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    for steps in ([], [add_note], [add_note], [add_note, add_colour]):
        with database(path) as connection:
            upgrade(connection, steps=steps)

    with database(path) as connection:
        columns = {c["name"] for c in sa.inspect(connection).get_columns("files")}

    assert {"note", "colour"} <= columns
    assert version(path) == 3


def test_upgrading_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with database(path) as connection:
        upgrade(connection)
        connection.exec_driver_sql("UPDATE usage SET files = 3")

    with database(path) as connection:
        upgrade(connection)
        rows = connection.exec_driver_sql("SELECT owner, files FROM usage").all()

    assert [tuple(r) for r in rows] == [(STORE, 3)]


async def test_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = SqlIndex.sqlite(path)
    await index.open()
    await index.close()
    raw = sqlite3.connect(path)
    raw.execute("UPDATE schema_version SET version = 7")
    raw.commit()
    raw.close()

    with pytest.raises(IndexTooNewError, match=r"schema version 7; .* versions up to 1\."):
        await SqlIndex.sqlite(path).open()

    assert version(path) == 7


@pytest.mark.parametrize("name", ["store", "", "*", "scope:store"])
def test_no_scope_owns_the_row_of_the_whole_store(name: str) -> None:
    assert owner_of(Scope(name)) != STORE


def test_tables_and_statements_can_be_written_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped
    statements = [s for s in vars(transactions).values() if isinstance(s, sa.Executable)]
    statements += transactions._LISTINGS.values()

    for statement in statements:
        assert isinstance(statement, sa.ClauseElement)
        statement.compile(dialect=dialect)
    for table in METADATA.sorted_tables:
        sa.schema.CreateTable(table).compile(dialect=dialect)
        for index in table.indexes:
            sa.schema.CreateIndex(index).compile(dialect=dialect)

    assert len(statements) > 30
