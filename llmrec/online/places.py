"""Where an event log is: a file, or a server by its URL, whose scheme decides."""

from __future__ import annotations

from pathlib import Path

from llmrec.errors import RunError
from llmrec.online.databases import SCHEMES, Database, SqliteDatabase


def is_url(place: Path | str) -> bool:
    """Whether a log's place is a server and no file."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def opened(place: Path | str, *, write: bool) -> Database:
    """The database at a file's path or a server's URL.

    Raises:
        RunError: it cannot be opened, or the driver is not installed.
        Busy: another process writes the file.
    """
    if not is_url(place):
        if "://" in str(place):
            raise RunError("The place of an event log is no URL of PostgreSQL; give postgresql://... or a file.")
        return SqliteDatabase(Path(place), write=write)
    try:
        from llmrec.online.postgres import PostgresDatabase
    except ImportError:
        raise RunError(
            "A log on PostgreSQL needs the package psycopg; install it by pip install 'llmrec[postgres]'."
        ) from None
    return PostgresDatabase(str(place), write=write)
