"""What an event log is kept in: a file of SQLite, or a PostgreSQL server by a URL. Only what differs is here.

Queries are written once (`online.log`), with `?` for values and in the words that both understand.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from llmrec.errors import RunError
from llmrec.locks import Busy, locked
from llmrec.online.schema import APPLICATION, KEEPING, TABLES, VERSION
from llmrec.printing import one_line
from llmrec.storage import resolve, shown, storage_error, storage_errors

SCHEMES = ("postgresql://", "postgres://")
WAIT_S = 10
"""Seconds that another program is waited for."""
_writing: set[Path] = set()
"""Logs that this process writes: the lock of a file is no obstacle within the thread that holds it."""


class Database(Protocol):
    """One connection; callers hold a lock of their own around it."""

    place: str
    """How messages name it: no password is in it."""
    shared: bool
    """Whether several processes may write it."""

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """A cursor over what a statement gives."""
        ...

    def executemany(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for each row of values."""
        ...

    def making(self) -> AbstractContextManager[bool]:
        """A transaction that makes a log where there is none, and whether there is none; checks one that is there."""
        ...

    def statements(self) -> Iterator[str]:
        """What makes the tables."""
        ...

    def begin(self) -> None:
        """Begins a transaction that nobody else writes beside."""
        ...

    def commit(self) -> None:
        """Ends it; what it wrote is on the disk."""
        ...

    def rollback(self) -> None:
        """Takes back what was written, where a transaction is open."""
        ...

    def clock(self) -> int | None:
        """Seconds since 1970 by the one clock that all writers share; None where there is but this machine's."""
        ...

    def erase(self) -> bool:
        """Clears away what deleted rows leave behind; whether all of it could be."""
        ...

    def errors(self) -> AbstractContextManager[None]:
        """Turns what the database and the disk say into sentences."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class SqliteDatabase:
    """A file: one process writes at a time (WAL, `synchronous=FULL`), any number read meanwhile.

    Args:
        path: the file. SQLite keeps two more beside it (`-wal`, `-shm`): all three are the log.
        write: whether it is made where there is none, and locked for this process.
    """

    shared = False

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = resolve(path)
        self.place = shown(self.path)
        with contextlib.ExitStack() as held:
            if write:
                with storage_errors(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    if self.path in _writing:
                        raise Busy(f"{self.place} is written by this process already; use the log that is open.")
                    held.enter_context(locked(self.path.with_name(f".{self.path.name}.lock"), self.path))
                _writing.add(self.path)
                held.callback(_writing.discard, self.path)
            elif not self.path.is_file():
                raise RunError(f"{self.place} is no event log; serve a slate first, or name another file.")
            with self.errors():
                # transactions are begun and ended by hand: the driver's own would end them before the next statement
                self._db = sqlite3.connect(
                    f"file:{quote(str(self.path))}?mode={'rwc' if write else 'ro'}",
                    uri=True,
                    timeout=WAIT_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
                held.callback(self._db.close)
                if not write:
                    self._check()
            self._held = held.pop_all()

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """See `Database`."""
        return self._db.execute(query, values)

    def executemany(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `Database`."""
        self._db.executemany(query, rows)

    @contextlib.contextmanager
    def making(self) -> Iterator[bool]:
        """See `Database`."""
        new = self.execute("PRAGMA schema_version").fetchone()[0] == 0
        if not new:
            self._check()
        self.execute("PRAGMA journal_mode=WAL")
        # The journal is synced at each commit: an entry that was acknowledged outlives a kill and a loss of power.
        self.execute("PRAGMA synchronous=FULL")
        self.execute("PRAGMA fullfsync=1")
        # what is deleted is overwritten with zeros, so that a forgotten user is not in the file
        self.execute("PRAGMA secure_delete=ON")
        self.execute("PRAGMA foreign_keys=ON")
        self.begin()
        try:
            yield new
            if new:
                self.execute(f"PRAGMA application_id={APPLICATION}")
                self.execute(f"PRAGMA user_version={VERSION}")
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def statements(self) -> Iterator[str]:
        """See `Database`: `executescript` would commit before it begins."""
        part = ""
        for line in (TABLES + KEEPING).splitlines(keepends=True):
            part += line
            if sqlite3.complete_statement(part):
                yield part
                part = ""

    def begin(self) -> None:
        """See `Database`."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """See `Database`."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """See `Database`."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def clock(self) -> None:
        """See `Database`."""
        return None

    def erase(self) -> bool:
        """See `Database`: old pages are in the journal until it is worked into the file."""
        return not self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def close(self) -> None:
        """See `Database`."""
        self._held.close()

    def _check(self) -> None:
        if self.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise RunError(f"{self.place} is a database, but no event log of llmrec; name another file.")
        check_version(self.place, self.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """See `Database`."""
        try:
            with storage_errors(self.path):
                yield
        except sqlite3.Error as error:
            text, place = str(error).lower(), self.place
            full = storage_error(OSError(28, "full"), self.path) if "is full" in text else None
            if full is not None:
                raise full from None
            if "not a database" in text or "malformed" in text:
                raise RunError(f"{place} is damaged or no event log; put a backup of it in its place.") from None
            if "locked" in text or "busy" in text:
                raise Busy(f"{place} is held by another program; end it, then try again.") from None
            if "closed" in text:
                raise RunError(f"{place} was closed; open the log again.") from None
            raise RunError(
                f"{place} cannot be used ({one_line(error, 120)}); check the file and its folder."
            ) from None


def check_version(place: str, found: int) -> None:
    """Raises `RunError` for a log of another version."""
    if found != VERSION:
        raise RunError(
            f"{place} is an event log of version {found}, and this llmrec reads version {VERSION}; take the llmrec "
            "that wrote it."
        )
