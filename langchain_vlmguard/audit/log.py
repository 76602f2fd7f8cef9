"""The log itself: a SQLite file to which a row is added for every check, each chained to the one before it."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vlmguard.audit.rows import BEGINNING, Row, canonical, chained, written
from langchain_vlmguard.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_vlmguard.audit.rows import Label
    from langchain_vlmguard.guard.state import CheckRecord

_TABLES = """
CREATE TABLE IF NOT EXISTS checks (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, record TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS labels (number INTEGER PRIMARY KEY, label TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (until INTEGER NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL);
"""
_WAIT = 10.0
"""Most seconds that a row waits for another process to finish its own."""


class AuditLog:
    """Keeps a row for every check, in a file that any number of threads and processes may share.

    A row is in the file when the check's face goes on, so that a killed process loses none; it holds names, numbers and ids, and
    nothing that anybody wrote. Each row carries a hash of itself and the row before it: a row that was changed or taken out shows
    (`verify`).

    ??? example "Log what an agent's guard decides"

        ```python
        log = AuditLog("audit.db")
        agent = create_agent(model, tools, middleware=[VLMGuardMiddleware(rewriter, telemetry=log)])
        for row in log.rows(action="refuse"):
            print(row.number, row.at, row.record["risks"])
        ```
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file; it is made if it is not there.

        Raises:
            AuditError: The file cannot be used as a log.
        """
        self.path = Path(path)
        self._here = threading.local()
        try:
            with self._connection() as open_file:
                open_file.executescript(_TABLES)
        except sqlite3.Error as error:
            msg = f"{self.path} cannot be used as an audit log ({error}): name another file"
            raise AuditError(msg) from error

    def record(self, records: Sequence[CheckRecord]) -> None:
        """Add a row for each check.

        Raises:
            AuditError: The rows could not be written.
        """
        texts = [canonical(written(check)) for check in records]
        try:
            with self._writing() as open_file:
                before = self._head(open_file)
                for text in texts:
                    at = _now()
                    before = chained(before, at, text)
                    open_file.execute("INSERT INTO checks (at, record, hash) VALUES (?, ?, ?)", (at, text, before))
        except sqlite3.Error as error:
            msg = f"the audit log {self.path} could not be written: {error}"
            raise AuditError(msg) from error

    def rows(
        self, *, action: str | None = None, stage: str | None = None, since: str | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        """Return rows, the newest first.

        Args:
            action: Those of this action alone.
            stage: Those of this kind of check alone, e.g. `"input"`.
            since: Those from this time on, by ISO 8601, in UTC.
            limit: Most rows.
        """
        wanted = (("json_extract(record, '$.action') = ?", action), ("json_extract(record, '$.stage') = ?", stage))
        given = [(text, value) for text, value in (*wanted, ("checks.at >= ?", since)) if value is not None]
        where = " AND ".join(text for text, _ in given) or "1"
        with self._connection() as open_file:
            found = open_file.execute(
                f"SELECT checks.number, checks.at, record, hash, label FROM checks LEFT JOIN labels USING (number) "  # noqa: S608
                f"WHERE {where} ORDER BY checks.number DESC LIMIT ?",
                [*(value for _, value in given), -1 if limit is None else limit],
            )
            for number, at, text, own, label in found:
                yield Row(number, at, json.loads(text), own, label)

    def label(self, number: int, label: Label) -> None:
        """Write down what a person says of a row; a later word replaces an earlier one.

        Raises:
            AuditError: There is no such row.
        """
        with self._writing() as open_file:
            if open_file.execute("SELECT 1 FROM checks WHERE number = ?", (number,)).fetchone() is None:
                msg = f"{self.path} has no row {number}"
                raise AuditError(msg)
            open_file.execute("REPLACE INTO labels VALUES (?, ?, ?)", (number, label, _now()))

    def forget(self, days: float) -> int:
        """Delete rows that are older than some days, say so in the file, and return how many they were."""
        until = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        with self._writing() as open_file:
            last = open_file.execute(
                "SELECT number, hash FROM checks WHERE at < ? ORDER BY number DESC LIMIT 1", (until,)
            ).fetchone()
            if last is None:
                return 0
            gone = open_file.execute("DELETE FROM checks WHERE number <= ?", (last[0],)).rowcount
            open_file.execute("DELETE FROM labels WHERE number <= ?", (last[0],))
            open_file.execute("INSERT INTO forgotten VALUES (?, ?, ?)", (*last, _now()))
        return gone

    def verify(self) -> str:
        """Check the whole chain.

        Returns:
            The hash of the last row. Keep it elsewhere to see later that nothing before it was written anew.

        Raises:
            AuditError: A row was changed, or rows are missing; the message names the first.
        """
        with self._connection() as open_file:
            begun = open_file.execute("SELECT until, hash FROM forgotten ORDER BY until DESC LIMIT 1").fetchone()
            number, before = begun or (0, BEGINNING)
            for found, at, text, own in open_file.execute(
                "SELECT number, at, record, hash FROM checks ORDER BY number"
            ):
                if found != number + 1:
                    msg = f"{self.path}: rows {number + 1} to {found - 1} are missing"
                    raise AuditError(msg)
                number, before = found, chained(before, at, text)
                if own != before:
                    msg = f"{self.path}: row {number} is not what was written, or not after what it was written after"
                    raise AuditError(msg)
            counted = open_file.execute("SELECT seq FROM sqlite_sequence WHERE name = 'checks'").fetchone()
        if counted is not None and counted[0] != number:
            msg = f"{self.path}: rows {number + 1} to {counted[0]} are missing"
            raise AuditError(msg)
        return before

    def _head(self, open_file: sqlite3.Connection) -> str:
        for source in (
            "SELECT hash FROM checks ORDER BY number DESC",
            "SELECT hash FROM forgotten ORDER BY until DESC",
        ):
            found = open_file.execute(f"{source} LIMIT 1").fetchone()
            if found is not None:
                return str(found[0])
        return BEGINNING

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the file for writing: nobody else reads the last hash in between."""
        with self._connection() as open_file:
            open_file.execute("BEGIN IMMEDIATE")
            try:
                yield open_file
            except BaseException:
                open_file.execute("ROLLBACK")
                raise
            open_file.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Return this thread's connection; what it has committed survives the process, not a loss of power."""
        if not hasattr(self._here, "file"):
            self._here.file = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            self._here.file.execute("PRAGMA journal_mode = WAL")
            self._here.file.execute("PRAGMA synchronous = NORMAL")
        yield self._here.file


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
