"""The event log: slates that were served and what came of them, on SQLite, losing nothing that was acknowledged.

A call that returns has its entries on the disk (WAL, `synchronous=FULL`: the journal is synced before a transaction
counts); a call that raises has left nothing. One process writes at a time, any number read meanwhile. Entries are
ordered by sequence numbers, which no clock moves. The log's own time goes on with the clock, and stands still where
the clock jumps back: it never falls, and windows that are running stay as long as they were.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time as clocks
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmrec.errors import RequestError, RunError
from llmrec.locks import Busy, locked
from llmrec.online.events import Logged, LoggedState, Outcome, Receipt, Received, Served
from llmrec.online.schema import APPLICATION, MARKS, TABLES, VERSION
from llmrec.printing import one_line
from llmrec.storage import resolve, shown, storage_error, storage_errors

WEEK_S = 7 * 86_400
_WAIT_S = 10.0
_PART = 500
_writing: set[Path] = set()
"""Logs that this process writes: the lock of a file is no obstacle within the thread that holds it."""


def wall_clock() -> int:
    """Seconds since 1970 by this machine's clock."""
    return int(clocks.time())


class EventReader:
    """Reads a log, also while another process writes it.

    Raises:
        RunError: there is no log at `path`, or a newer llmrec has written it.
    """

    def __init__(self, path: Path) -> None:
        self.path = resolve(path)
        if not self.path.is_file():
            raise RunError(f"{shown(self.path)} is no event log; serve a slate first, or name another file.")
        self._lock = threading.RLock()
        with self._errors():
            self._db = self._open(f"file:{quote(str(self.path))}?mode=ro")
            self._check()

    def _open(self, uri: str) -> sqlite3.Connection:
        # transactions are begun and ended by hand: the driver's own would end them before the next statement
        return sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)

    def _check(self) -> None:
        if self._db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise RunError(f"{shown(self.path)} is a database, but no event log of llmrec; name another file.")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found != VERSION:
            raise RunError(
                f"{shown(self.path)} is an event log of version {found}, and this llmrec reads version {VERSION}; "
                "take the llmrec that wrote it."
            )

    def close(self) -> None:
        """Ends the reading; the log may be opened again."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def last_seq(self) -> int:
        """The sequence number of the newest entry; 0 in an empty log."""
        return self.marks()["last_seq"]

    def marks(self) -> dict[str, int]:
        """The log's whole numbers, see `schema.MARKS`."""
        with self._lock, self._errors():
            return dict(self._db.execute("SELECT name, value FROM mark"))

    def counts(self) -> dict[str, int]:
        """Slates, outcomes, late ones among them, and how often the clock has jumped back."""
        with self._lock, self._errors():
            slates = self._db.execute("SELECT COUNT(*) FROM slate").fetchone()[0]
            outcomes, late = self._db.execute("SELECT COUNT(*), COALESCE(SUM(late), 0) FROM feedback").fetchone()
        return {"slates": slates, "outcomes": outcomes, "late": late, "jumps": self.marks()["jumps"]}

    def count(self, after: int, until: int) -> int:
        """How many slates have a sequence number above `after` and up to `until`."""
        with self._lock, self._errors():
            query = "SELECT COUNT(*) FROM slate WHERE seq > ? AND seq <= ?"
            return int(self._db.execute(query, (after, until)).fetchone()[0])

    def slates_of(self, user_id: str) -> int:
        """How many slates name the user."""
        with self._lock, self._errors():
            return int(self._db.execute("SELECT count(*) FROM slate WHERE user_id = ?", (user_id,)).fetchone()[0])

    def shown(self, *, since: int) -> Iterator[tuple[str, ...]]:
        """Items of each slate that was served at a time (seconds) or later."""
        with self._lock, self._errors():
            rows = self._db.execute("SELECT items FROM slate WHERE time >= ? ORDER BY seq", (since,)).fetchall()
        yield from (tuple(json.loads(items)) for (items,) in rows)

    def slate(self, slate_id: str) -> Logged | None:
        """One slate with all that came of it; None where it is not in the log."""
        with self._lock, self._errors():
            rows = self._db.execute("SELECT * FROM slate WHERE slate_id = ?", (slate_id,)).fetchall()
            return next(iter(self._logged(rows)), None)

    def outcomes_of(self, user_id: str) -> list[Received]:
        """All that came of a user's slates in its order, what came late as well: it happened all the same."""
        query = (
            "SELECT f.seq, f.time, s.slate_id, f.item_id, f.kind, f.value, f.name, f.late FROM slate s "
            "JOIN feedback f ON f.slate_seq = s.seq WHERE s.user_id = ? ORDER BY f.seq"
        )
        with self._lock, self._errors():
            rows = self._db.execute(query, (user_id,)).fetchall()
        return [Received(seq, time, Outcome(*outcome), bool(late)) for seq, time, *outcome, late in rows]

    def user_of(self, slate_id: str) -> tuple[bool, str | None]:
        """Whether a slate is in the log, and the user whom it names."""
        with self._lock, self._errors():
            row = self._db.execute("SELECT user_id FROM slate WHERE slate_id = ?", (slate_id,)).fetchone()
        return row is not None, None if row is None else row[0]

    def slates(self, after: int = 0, *, mature: bool = True, before: int | None = None) -> Iterator[Logged]:
        """Slates in order of their sequence numbers, each with all that came of it so far.

        Args:
            after: only those with a greater sequence number.
            mature: only those whose window is over, so that no feedback that counts is still to come.
            before: only those with a smaller sequence number.
        """
        marks = self.marks()
        # feedback of the window's last second still counts
        latest = marks["time"] - (marks["window"] + 1 if mature else 0)
        last = marks["last_seq"] + 1 if before is None else before
        while True:
            with self._lock, self._errors():
                rows = self._db.execute(
                    "SELECT * FROM slate WHERE seq > ? AND seq < ? AND time <= ? ORDER BY seq LIMIT ?",
                    (after, last, latest, _PART),
                ).fetchall()
                found = self._logged(rows)
            yield from found
            if len(rows) < _PART:
                return
            after = rows[-1][0]

    def _logged(self, rows: Sequence[Any]) -> list[Logged]:
        """Rows of `slate`, ordered by seq, with their feedback."""
        if not rows:
            return []
        places = ",".join("?" * len(rows))
        query = f"SELECT * FROM feedback WHERE slate_seq IN ({places}) ORDER BY seq"
        name_of = {row[0]: row[1] for row in rows}
        received: dict[int, list[Received]] = {}
        for seq, slate, name, item, kind, value, time, _, late in self._db.execute(query, [row[0] for row in rows]):
            outcome = Outcome(name_of[slate], item, kind, value, name)
            received.setdefault(slate, []).append(Received(seq, time, outcome, bool(late)))
        found = []
        for seq, slate_id, user, time, clock, version, exploration, items, chances, state in rows:
            told = None if state is None else LoggedState.from_json(state)
            parts = tuple(json.loads(items)), tuple(json.loads(chances))
            served = Served(slate_id, user, *parts, version, exploration, told)
            found.append(Logged(seq, time, clock, served, tuple(received.get(seq, ()))))
        return found

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what SQLite and the disk say into sentences."""
        try:
            with storage_errors(self.path):
                yield
        except sqlite3.Error as error:
            text, place = str(error).lower(), shown(self.path)
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


class EventLog(EventReader):
    """Writes a log, and makes it where there is none. Safe to call from several threads; close it in the end.

    Args:
        path: the file; its folder is made. SQLite keeps two more beside it (`-wal`, `-shm`): all three are the log.
        window_s: seconds after a slate within which feedback counts. It belongs to the log: what is late was decided
            when it came.
        clock: seconds since 1970.

    Raises:
        Busy: another process, or this one, writes the log.
        RunError: the file is something else, or cannot be written.
        RequestError: the log was made with another window.
    """

    def __init__(self, path: Path, *, window_s: int = WEEK_S, clock: Callable[[], int] = wall_clock) -> None:
        self.path, self._clock, self._lock = resolve(path), clock, threading.RLock()
        if window_s < 0:
            raise RequestError(f"The window of feedback is {window_s} seconds; it must be 0 or more.")
        with contextlib.ExitStack() as held:
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path in _writing:
                    raise Busy(f"{shown(self.path)} is written by this process already; use the log that is open.")
                held.enter_context(locked(self.path.with_name(f".{self.path.name}.lock"), self.path))
            _writing.add(self.path)
            held.callback(_writing.discard, self.path)
            with self._errors():
                self._db = self._open(f"file:{quote(str(self.path))}?mode=rwc")
                held.callback(self._db.close)
                self._prepare(window_s)
            self._held = held.pop_all()

    def _prepare(self, window_s: int) -> None:
        db = self._db
        new = db.execute("PRAGMA schema_version").fetchone()[0] == 0
        if not new:
            self._check()
        db.execute("PRAGMA journal_mode=WAL")
        # The journal is synced at each commit: an entry that was acknowledged outlives a kill and a loss of power.
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA fullfsync=1")
        # what is deleted is overwritten with zeros, so that a forgotten user is not in the file
        db.execute("PRAGMA secure_delete=ON")
        db.execute("PRAGMA foreign_keys=ON")
        if new:
            values = dict.fromkeys(MARKS, 0) | {"window": window_s, "clock": int(self._clock())}
            values["time"] = values["clock"]
            with self._transaction():
                for statement in _statements(TABLES):
                    db.execute(statement)
                db.executemany("INSERT INTO mark VALUES (?, ?)", values.items())
                db.execute(f"PRAGMA application_id={APPLICATION}")
                db.execute(f"PRAGMA user_version={VERSION}")
        self._marks: dict[str, int] = dict(db.execute("SELECT name, value FROM mark"))
        if self._marks["window"] != window_s:
            raise RequestError(
                f"{shown(self.path)} counts feedback within {self._marks['window']} seconds, not {window_s}; open it "
                "with its own window, or begin another log."
            )

    def __enter__(self) -> EventLog:
        return self

    def close(self) -> None:
        """Ends the writing; what was acknowledged is on the disk already."""
        with self._lock:
            self._held.close()

    def serve(self, slates: Sequence[Served]) -> list[Receipt]:
        """Logs slates, all of them or none; give them out when this has returned.

        A slate that stands in the log with the same content is acknowledged again.

        Raises:
            RequestError: a slate that cannot be logged, or whose id belongs to another one.
            RunError: the disk refuses it.
        """
        for slate in slates:
            slate.check()
        with self._lock, self._errors(), self._transaction():
            self._tick()
            return [self._serve(slate) for slate in slates]

    def _serve(self, served: Served) -> Receipt:
        found = self.slate(served.slate_id)
        if found is not None:
            if found.served != served:
                raise RequestError(
                    f"Slate {one_line(served.slate_id, 60)!r} is in the log with other content; give each its own id."
                )
            return Receipt(found.seq, repeated=True)
        seq, marks = self._next(), self._marks
        row = (
            *(
                seq,
                served.slate_id,
                served.user_id,
                marks["time"],
                marks["clock"],
                served.version,
                served.exploration,
            ),
            *(json.dumps(list(part), ensure_ascii=False) for part in (served.items_K, served.propensity_K)),
            None if served.state is None else served.state.as_json(),
        )
        self._db.execute("INSERT INTO slate VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        return Receipt(seq)

    def receive(self, outcomes: Sequence[Outcome]) -> list[Receipt]:
        """Logs feedback, all of it or none. What comes after the slate's window is kept and marked late.

        Feedback that stands in the log is acknowledged again and counts once.

        Raises:
            RequestError: the slate was never served, did not show the item, or the name of the report belongs to
                another one.
            RunError: the disk refuses it.
        """
        for outcome in outcomes:
            outcome.check()
        with self._lock, self._errors(), self._transaction():
            self._tick()
            return [self._receive(outcome) for outcome in outcomes]

    def _receive(self, outcome: Outcome) -> Receipt:
        query = "SELECT seq, time, items FROM slate WHERE slate_id = ?"
        found = self._db.execute(query, (outcome.slate_id,)).fetchone()
        name = one_line(outcome.slate_id, 60)
        if found is None:
            raise RequestError(
                f"Feedback names the slate {name!r}, which was never served (or was removed with its user); send the "
                "id that came with the slate."
            )
        slate, served_at, items = found
        if outcome.item_id not in json.loads(items):
            raise RequestError(
                f"Feedback names the item {one_line(outcome.item_id, 60)!r}, which slate {name!r} did not show; send "
                "an item of the slate."
            )
        query = "SELECT seq, item_id, kind, value, late FROM feedback WHERE slate_seq = ? AND name = ?"
        before = self._db.execute(query, (slate, outcome.name)).fetchone()
        if before is not None:
            seq, item, kind, value, late = before
            if (item, kind, value) != (outcome.item_id, outcome.kind, outcome.value):
                raise RequestError(
                    f"Feedback {one_line(outcome.name, 60)!r} on slate {name!r} is in the log with other content; "
                    "give each report its own feedback_id."
                )
            return Receipt(seq, repeated=True, late=bool(late))
        seq, marks = self._next(), self._marks
        late = marks["time"] - served_at > marks["window"]
        row = (seq, slate, outcome.name, outcome.item_id, outcome.kind, outcome.value, marks["time"], marks["clock"])
        self._db.execute("INSERT INTO feedback VALUES (?,?,?,?,?,?,?,?,?)", (*row, int(late)))
        return Receipt(seq, late=late)

    def forget(self, user_id: str) -> int:
        """Removes a user: all slates that name the user, what they held of the user, and what came of them.

        Sequence numbers are not given out again. Returns how many slates went.

        Raises:
            Busy: another program reads the log just now, so that old pages of it are still in the journal; the rows
                are gone, and the same call again clears the journal.
        """
        with self._lock, self._errors():
            with self._transaction():
                self._marks["forgetting"] = 1
                self._write_marks()
                mine = "SELECT seq FROM slate WHERE user_id = ?"
                self._db.execute(f"DELETE FROM feedback WHERE slate_seq IN ({mine})", (user_id,))
                gone = int(self._db.execute("DELETE FROM slate WHERE user_id = ?", (user_id,)).rowcount)
                self._marks["forgetting"] = 0
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise Busy(
                f"The user's rows are gone from {shown(self.path)}, but another program reads it and its journal "
                "still holds old pages; end the reader and forget the user again."
            )
        return gone

    def tick(self) -> int:
        """Moves the log's time on without an entry, so that slates ripen while nobody is served; returns the time."""
        with self._lock, self._errors(), self._transaction():
            self._tick()
            return self._marks["time"]

    def _next(self) -> int:
        seq = self._marks["last_seq"] + 1
        self._marks["last_seq"] = seq
        return seq

    def _tick(self) -> None:
        """Moves the log's time on by what the clock has gone on, and not back."""
        now, marks = int(self._clock()), self._marks
        marks["time"] += max(0, now - marks["clock"])
        marks["jumps"] += now < marks["clock"]
        marks["clock"] = now

    def _write_marks(self) -> None:
        self._db.executemany("UPDATE mark SET value = ? WHERE name = ?", ((v, k) for k, v in self._marks.items()))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """What happens within is on the disk when the block has ended, all of it, or was never there."""
        before = dict(getattr(self, "_marks", {}))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if before:
                self._write_marks()
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if before:
                self._marks = before
            raise


def _statements(text: str) -> Iterator[str]:
    """SQL text as statements: `executescript` would commit before it begins."""
    part = ""
    for line in text.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            yield part
            part = ""
