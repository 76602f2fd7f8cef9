"""Where reviews lie: a SQLite file, or Postgres by its address, which several servers may share."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

from langchain_vlmguard.errors import ReviewDatabaseError, extra

with extra("serve"):
    from langgraph.checkpoint.sqlite import SqliteSaver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from langgraph.checkpoint.base import BaseCheckpointSaver
    from psycopg import Connection
    from psycopg.rows import DictRow
    from psycopg_pool import ConnectionPool

_TABLES = (
    """
    create table if not exists reviews (
      id text primary key, digest text not null, caller text not null, state text not null, decision text,
      verdict text not null, shown text not null, answer text, created double precision not null, decided_by text
    )
    """,
    "create unique index if not exists open_reviews on reviews (digest) where state <> 'used'",
)
_SECONDS = 5.0
"""Most seconds in which a connection must be there."""

_SETTING_UP = 7_665_830
"""A number of our own: one server at a time makes the tables."""


class ReviewDatabase(Protocol):
    """What reviews need of a database. Values stand where the statement has question marks."""

    @property
    def saver(self) -> BaseCheckpointSaver[str]:
        """Keeps the runs that wait."""

    def change(self, statement: str, values: Sequence[object]) -> int:
        """Run a statement and return how many rows it changed."""

    def rows(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Return the rows that a statement finds."""

    def close(self) -> None:
        """Close it."""


class SqliteDatabase:
    """A SQLite file of one server."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, check_same_thread=False, timeout=30)
        self._db.execute("pragma journal_mode=wal")
        for table in _TABLES:
            self._db.execute(table)
        self.saver = SqliteSaver(self._db)
        self.saver.setup()
        self._lock = self.saver.lock  # one connection, one lock

    def change(self, statement: str, values: Sequence[object]) -> int:
        """Run a statement and return how many rows it changed."""
        with self._lock, self._db:
            return self._db.execute(statement, values).rowcount

    def rows(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Return the rows that a statement finds."""
        with self._lock, closing(self._db.execute(statement, values)) as found:
            return found.fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


class PostgresDatabase:
    """A Postgres database by its address; several servers may use it at the same time."""

    def __init__(self, address: str) -> None:
        """Connect, and make the tables if they are not there.

        Raises:
            ReviewDatabaseError: The database cannot be reached, or the tables cannot be made.
            MissingExtraError: The extra `postgres` is not installed.
        """
        with extra("postgres"):
            import psycopg
            from langgraph.checkpoint.postgres import PostgresSaver
            from psycopg.rows import dict_row
            from psycopg_pool import ConnectionPool
        options = {
            "autocommit": True,
            "prepare_threshold": 0,
            "row_factory": dict_row,
            "connect_timeout": int(_SECONDS),
        }
        self._pool: ConnectionPool[Connection[DictRow]] = ConnectionPool(
            address,
            kwargs=options,
            min_size=1,
            max_size=8,
            timeout=_SECONDS,
            check=ConnectionPool.check_connection,  # a database that was started again has closed them all
            open=False,
        )
        self.saver = PostgresSaver(self._pool)
        try:
            self._pool.open(wait=True, timeout=_SECONDS)
            self._set_up()
        except psycopg.Error as error:
            self._pool.close()
            msg = (
                f"the database for reviews cannot be used ({type(error).__name__}): check that it runs, that the address in "
                "`reviews` is right, and that its user may make tables"
            )
            raise ReviewDatabaseError(msg) from None  # the error's own words may hold the address, password and all

    def _set_up(self) -> None:
        with self._pool.connection() as connection:
            connection.execute("select pg_advisory_lock(%s)", (_SETTING_UP,))
            try:
                for table in _TABLES:
                    connection.execute(table)
                self.saver.setup()
            finally:
                connection.execute("select pg_advisory_unlock(%s)", (_SETTING_UP,))

    def change(self, statement: str, values: Sequence[object]) -> int:
        """Run a statement and return how many rows it changed."""
        with self._pool.connection() as connection:
            return connection.execute(_for_postgres(statement), values).rowcount

    def rows(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Return the rows that a statement finds."""
        with self._pool.connection() as connection:
            return [tuple(row.values()) for row in connection.execute(_for_postgres(statement), values)]

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _for_postgres(statement: str) -> bytes:
    """Return a statement of ours in the spelling of psycopg, which takes statements that were put together as bytes."""
    return statement.replace("?", "%s").encode()
