"""One line of JSON a request: what was done and how long it took, and nothing of who asked for what."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from llmrec.printing import one_line

TOGETHER_S = 0.02
"""Lines of so many seconds are written at once."""
MOST = 10_000
"""Lines that wait for a reader of standard error that is slow."""
# ASCII: whatever gets here, a line is one line and no terminal acts on it
_as_json = json.JSONEncoder(ensure_ascii=True, default=str).encode
_lock = threading.Lock()


def write_line(line: str) -> None:
    """Writes a line to standard error."""
    with _lock:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Lines:
    """Lines for a stream, written on a thread of its own, those of a moment together.

    A write lets go of the interpreter and then waits for it behind the model: for each request anew that took a third
    of what its answer cost beside the model. Use it as a context, which writes the rest in the end.

    Args:
        stream: by default standard error.
        most: lines that wait, at most. More are left out and counted in a line, so that a reader who does not read
            neither stops the service nor fills its memory.
    """

    def __init__(self, stream: TextIO | None = None, most: int = MOST) -> None:
        self._stream, self._most, self._lost = stream or sys.stderr, most, 0
        self._lines: deque[str] = deque()
        self._there, self._ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._work, name="llmrec-journal", daemon=True)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._there.set()
        self._writer.join(5.0)  # nobody may read

    def write(self, line: str) -> None:
        """Takes a line; it is written within a moment, in its turn."""
        if len(self._lines) >= self._most:
            with self._lock:
                self._lost += 1
            return
        self._lines.append(line)
        if not self._there.is_set():
            self._there.set()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._there.wait()
            self._ended.wait(TOGETHER_S)
            self._there.clear()  # before the look: what comes behind it wakes this thread again
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        taken = [self._lines.popleft() for _ in range(len(self._lines))]
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            Journal(taken.append).say("lost", lines=lost)
        if taken:
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the service goes on
                self._stream.write("\n".join(taken) + "\n")
                self._stream.flush()


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
        self._write(_as_json(told))


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
