"""One line of JSON a request: what was done and how long it took, and nothing of who asked for what."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from llmrec.printing import one_line

_lock = threading.Lock()


def write_line(line: str) -> None:
    """Writes a line to standard error."""
    with _lock:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Journal:
    """Writes structured lines.

    Callers give words of the service's own and numbers: no ids of users, no texts, titles, addresses or keys.

    Args:
        write: takes a line.
    """

    def __init__(self, write: Callable[[str], None] = write_line) -> None:
        self._write = write

    def say(self, event: str, **facts: Any) -> None:
        """One line; facts that are None are left out."""
        told: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        told |= {key: round(v, 3) if isinstance(v, float) else v for key, v in facts.items() if v is not None}
        # ASCII: whatever gets here, a line is one line and no terminal acts on it
        self._write(json.dumps(told, ensure_ascii=True, default=str))


class ServerLines(logging.Handler):
    """Takes what the HTTP server says into the journal: its words without what it puts into them.

    Args:
        journal: where lines go.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        where = None if not record.exc_info or record.exc_info[1] is None else place_of(record.exc_info[1])
        self._journal.say("server", level=record.levelname.lower(), said=one_line(record.msg, 100), where=where)


def place_of(error: BaseException) -> str:
    """Where an error was raised, for a line of the journal: its message may hold a user's words and is not said."""
    trace, place = error.__traceback__, "unknown"
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
