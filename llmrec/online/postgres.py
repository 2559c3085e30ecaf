"""An event log on a PostgreSQL server: any number of processes write it, one transaction after the other.

Its tables are in the schema `llmrec` of the database that the URL names; the comment on the schema says that they are
a log. A password is in no message: what is told of a place is made anew from user, host, port and database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import conninfo

from llmrec.errors import RequestError, RunError
from llmrec.locks import Busy
from llmrec.online.databases import SCHEMES, WAIT_S, check_version
from llmrec.online.schema import APPLICATION, KEEPING_ON_POSTGRES, TABLES, VERSION
from llmrec.printing import one_line

_MARK = "event log of llmrec, version "
_OWN = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", " WITHOUT ROWID": ""}


class PostgresDatabase:
    """One connection to a server, made anew where it broke between two transactions.

    Args:
        url: `postgresql://USER@HOST:PORT/DATABASE`; a password is better given by PGPASSWORD or ~/.pgpass.
        write: whether the log is made where there is none.

    Raises:
        RunError: the URL cannot be read, the server does not answer or refuses, or the database has no log.
    """

    shared = True

    def __init__(self, url: str, *, write: bool) -> None:
        self.place = "PostgreSQL"
        try:
            parts = conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # its message may hold the password
            raise RunError(
                "The URL of the event log cannot be read; write it as postgresql://USER@HOST:PORT/DATABASE, special "
                "characters as %XX."
            ) from None
        self._user, self._database = parts.get("user"), parts.get("dbname")
        self.place = named_place(parts)
        self._url, self._write, self._inside, self._ended = url, write, False, False
        with self.errors():
            self._db = self._connected()
            if not write:
                self._check()

    def _connected(self) -> psycopg.Connection[Any]:
        options: dict[str, Any] = {"connect_timeout": WAIT_S, "application_name": "llmrec"}
        given = conninfo.conninfo_to_dict(self._url)
        made = psycopg.connect(self._url, autocommit=True, **{k: v for k, v in options.items() if k not in given})
        made.execute("SET search_path TO llmrec")
        # a server may be set to acknowledge what is not on its disk yet
        made.execute("SET synchronous_commit TO on")
        made.execute(f"SET lock_timeout TO '{WAIT_S}s'")
        made.execute("SET client_encoding TO 'UTF8'")
        if not self._write:
            made.execute("SET default_transaction_read_only TO on")
        return made

    def _live(self) -> psycopg.Connection[Any]:
        if self._ended:
            raise RunError(f"{self.place} was closed; open the log again.")
        # within a transaction the connection's end is the transaction's end
        if self._db.closed and not self._inside:
            self._db = self._connected()
        return self._db

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """See `Database`."""
        return self._live().execute(query.replace("?", "%s"), tuple(values) or None)

    def executemany(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `Database`."""
        with self._live().cursor() as cursor:
            cursor.executemany(query.replace("?", "%s"), rows)

    @contextlib.contextmanager
    def making(self) -> Iterator[bool]:
        """See `Database`: of several writers that begin at once one makes the tables."""
        self.execute("BEGIN")
        self._inside = True
        try:
            self.execute(f"SELECT pg_advisory_xact_lock({APPLICATION})")
            new = self._told() is None
            if not new:
                self._check()
            yield new
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def statements(self) -> Iterator[str]:
        """See `Database`."""
        yield "CREATE SCHEMA llmrec"
        text = TABLES
        for word, own in _OWN.items():
            text = text.replace(word, own)
        yield text
        yield KEEPING_ON_POSTGRES
        yield f"COMMENT ON SCHEMA llmrec IS '{_MARK}{VERSION}'"

    def begin(self) -> None:
        """See `Database`: readers go on meanwhile."""
        self.execute("BEGIN")
        self._inside = True
        self.execute("LOCK TABLE mark IN EXCLUSIVE MODE")

    def commit(self) -> None:
        """See `Database`."""
        self.execute("COMMIT")
        self._inside = False

    def rollback(self) -> None:
        """See `Database`."""
        if self._inside:
            with contextlib.suppress(psycopg.Error):  # a broken connection has rolled back
                self._db.execute("ROLLBACK")
            self._inside = False

    def clock(self) -> int:
        """See `Database`: writers on several machines have several clocks, and the server has one."""
        return int(self.execute("SELECT floor(extract(epoch FROM clock_timestamp()))").fetchone()[0])

    def erase(self) -> bool:
        """See `Database`: their place is given to later rows; backups and archived journals are the server's."""
        for table in ("slate", "feedback"):
            self.execute(f"VACUUM {table}")
        return True

    def close(self) -> None:
        """See `Database`."""
        self._ended = True
        self._db.close()

    def _told(self) -> str | None:
        """The comment on the schema, empty where it has none; None where there is no schema."""
        row = self.execute("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'llmrec'")
        found = row.fetchone()
        return None if found is None else found[0] or ""

    def _check(self) -> None:
        told = self._told()
        if told is None:
            raise RunError(f"{self.place} holds no event log; serve a slate first, or name another database.")
        version = told.removeprefix(_MARK)
        if not told.startswith(_MARK) or not version.isdigit():
            raise RunError(f"{self.place} has a schema llmrec that is no event log; name another database.")
        check_version(self.place, int(version))

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """See `Database`."""
        try:
            yield
        except psycopg.errors.LockNotAvailable:
            raise Busy(f"{self.place} is held by another program; end it, then try again.") from None
        except psycopg.DataError as error:
            if "NUL" in str(error):
                raise RequestError(
                    "PostgreSQL takes no text with the character NUL; send ids and texts without it."
                ) from None
            raise RunError(self._sentence(error)) from None
        except psycopg.Error as error:
            raise RunError(self._sentence(error)) from None

    def _sentence(self, error: psycopg.Error) -> str:
        """What is wrong and what to do; of the server's own words only the first of those without values."""
        text = str(error).lower()
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            if "password" in text or "authentication" in text:
                return (
                    f"{self.place} refuses the user or the password; look at both: the password is read from the "
                    "URL, PGPASSWORD or ~/.pgpass."
                )
            if "does not exist" in text and "database" in text:
                return f"{self.place}: there is no such database; make it by createdb, or name another one."
            if "does not exist" in text and "role" in text:
                return f"{self.place}: there is no such user; make it by createuser, or name another one."
            return f"{self.place} does not answer; start the server, or look at host and port of the URL."
        if error.sqlstate == "42501":
            return f"{self.place}: the user may not do this; give it the right to create in the database."
        if error.sqlstate in ("53100", "53200"):
            return f"{self.place}: the server has no room left; make some."
        said = one_line(error.diag.message_primary or type(error).__name__, 120)
        return f"{self.place} cannot be used ({said}); look at the server."


def named_place(parts: dict[str, Any]) -> str:
    """A place as messages name it: no password."""
    user = f"{parts['user']}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    database = f"/{parts['dbname']}" if parts.get("dbname") else ""
    return one_line(f"{SCHEMES[0]}{user}{parts.get('host') or ''}{port}{database}", 200)
