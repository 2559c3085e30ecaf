"""The event log: slates that were served and what came of them, losing nothing that was acknowledged.

It is a file of SQLite, or on a PostgreSQL server (`databases`). A call that returns has its entries on the disk (the
journal is synced before a transaction counts); a call that raises has left nothing. One process writes a file at a
time, and any number a server; any number read meanwhile. Entries are ordered by sequence numbers, which no clock
moves. The log's own time goes on with the clock, and stands still where the clock jumps back: it never falls, and
windows that are running stay as long as they were.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time as clocks
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrec.errors import RequestError
from llmrec.locks import Busy
from llmrec.online.databases import SqliteDatabase
from llmrec.online.events import Logged, LoggedState, Outcome, Receipt, Received, Served
from llmrec.online.places import opened
from llmrec.online.schema import MARKS
from llmrec.printing import one_line

WEEK_S = 7 * 86_400
_PART = 500


def wall_clock() -> int:
    """Seconds since 1970 by this machine's clock."""
    return int(clocks.time())


class EventReader:
    """Reads a log, also while another process writes it.

    Args:
        place: a file's path, or the URL of a PostgreSQL server.

    Raises:
        RunError: there is no log at `place`, or a newer llmrec has written it.
    """

    def __init__(self, place: Path | str) -> None:
        self._lock = threading.RLock()
        self._db = opened(place, write=False)

    @property
    def place(self) -> str:
        """How messages name it."""
        return self._db.place

    @property
    def path(self) -> Path:
        """The file of a log that is one."""
        assert isinstance(self._db, SqliteDatabase)
        return self._db.path

    @property
    def shared(self) -> bool:
        """Whether other processes may write it meanwhile."""
        return self._db.shared

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
        with self._lock, self._db.errors():
            return dict(self._db.execute("SELECT name, value FROM mark"))

    def counts(self) -> dict[str, int]:
        """Slates, outcomes, late ones among them, and how often the clock has jumped back."""
        with self._lock, self._db.errors():
            slates = self._db.execute("SELECT COUNT(*) FROM slate").fetchone()[0]
            outcomes, late = self._db.execute("SELECT COUNT(*), COALESCE(SUM(late), 0) FROM feedback").fetchone()
        return {"slates": slates, "outcomes": outcomes, "late": int(late), "jumps": self.marks()["jumps"]}

    def count(self, after: int, until: int) -> int:
        """How many slates have a sequence number above `after` and up to `until`."""
        with self._lock, self._db.errors():
            query = "SELECT COUNT(*) FROM slate WHERE seq > ? AND seq <= ?"
            return int(self._db.execute(query, (after, until)).fetchone()[0])

    def slates_of(self, user_id: str) -> int:
        """How many slates name the user."""
        with self._lock, self._db.errors():
            return int(self._db.execute("SELECT count(*) FROM slate WHERE user_id = ?", (user_id,)).fetchone()[0])

    def shown(self, *, since: int) -> Iterator[tuple[str, ...]]:
        """Items of each slate that was served at a time (seconds) or later."""
        with self._lock, self._db.errors():
            rows = self._db.execute("SELECT items FROM slate WHERE time >= ? ORDER BY seq", (since,)).fetchall()
        yield from (tuple(json.loads(items)) for (items,) in rows)

    def slate(self, slate_id: str) -> Logged | None:
        """One slate with all that came of it; None where it is not in the log."""
        with self._lock, self._db.errors():
            rows = self._db.execute("SELECT * FROM slate WHERE slate_id = ?", (slate_id,)).fetchall()
            return next(iter(self._logged(rows)), None)

    def outcomes_of(self, user_id: str, after: int = 0, newest: int | None = None) -> list[Received]:
        """All that came of a user's slates in its order, what came late as well: it happened all the same.

        Args:
            user_id: whose.
            after: only what has a greater sequence number.
            newest: about the newest entry's sequence number, where the caller knows it: it says how to look, not what
                is found.
        """
        # Joined text has no index: where little has come since, the end of the feedback is read, and not that of all
        # of the user's slates, of which there may be many more.
        little = after and (self.last_seq if newest is None else newest) - after < _PART
        user = "s.user_id || ''" if little else "s.user_id"
        query = (
            "SELECT f.seq, f.time, s.slate_id, f.item_id, f.kind, f.value, f.name, f.late FROM slate s "
            f"JOIN feedback f ON f.slate_seq = s.seq WHERE {user} = ? AND f.seq > ? ORDER BY f.seq"
        )
        with self._lock, self._db.errors():
            rows = self._db.execute(query, (user_id, after)).fetchall()
        return [Received(seq, time, Outcome(*outcome), bool(late)) for seq, time, *outcome, late in rows]

    def user_of(self, slate_id: str) -> tuple[bool, str | None]:
        """Whether a slate is in the log, and the user whom it names."""
        with self._lock, self._db.errors():
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
            with self._lock, self._db.errors():
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


class EventLog(EventReader):
    """Writes a log, and makes it where there is none. Safe to call from several threads; close it in the end.

    Args:
        place: the file, whose folder is made, or the URL of a PostgreSQL server.
        window_s: seconds after a slate within which feedback counts. It belongs to the log: what is late was decided
            when it came.
        clock: seconds since 1970; by default this machine's clock, or the server's, which all writers share.

    Raises:
        Busy: another process, or this one, writes the file.
        RunError: the file is something else, or cannot be written; the server does not answer.
        RequestError: the log was made with another window.
    """

    def __init__(self, place: Path | str, *, window_s: int = WEEK_S, clock: Callable[[], int] | None = None) -> None:
        self._lock = threading.RLock()
        if window_s < 0:
            raise RequestError(f"The window of feedback is {window_s} seconds; it must be 0 or more.")
        self._db = opened(place, write=True)
        self._clock = clock or self._now
        try:
            with self._db.errors():
                self._prepare(window_s)
        except BaseException:
            self._db.close()
            raise

    def _now(self) -> int:
        told = self._db.clock()
        return wall_clock() if told is None else told

    def _prepare(self, window_s: int) -> None:
        with self._db.making() as new:
            if new:
                for statement in self._db.statements():
                    self._db.execute(statement)
                values = dict.fromkeys(MARKS, 0) | {"window": window_s, "clock": int(self._clock())}
                values["time"] = values["clock"]
                self._db.executemany("INSERT INTO mark VALUES (?, ?)", list(values.items()))
        self._marks = self.marks()
        if self._marks["window"] != window_s:
            raise RequestError(
                f"{self.place} counts feedback within {self._marks['window']} seconds, not {window_s}; open it with "
                "its own window, or begin another log."
            )

    def __enter__(self) -> EventLog:
        return self

    def close(self) -> None:
        """Ends the writing; what was acknowledged is on the disk already."""
        with self._lock:
            self._db.close()

    def serve(self, slates: Sequence[Served]) -> list[Receipt]:
        """Logs slates, all of them or none; give them out when this has returned.

        A slate that stands in the log with the same content is acknowledged again.

        Raises:
            RequestError: a slate that cannot be logged, or whose id belongs to another one.
            RunError: the disk refuses it.
        """
        for slate in slates:
            slate.check()
        with self._lock, self._db.errors(), self._transaction():
            self._tick()
            known, rows, receipts = self._known([slate.slate_id for slate in slates]), [], []
            for slate in slates:
                if slate.slate_id in known:
                    seq, before = known[slate.slate_id]
                    if before != slate:
                        raise RequestError(
                            f"Slate {one_line(slate.slate_id, 60)!r} is in the log with other content; give each its "
                            "own id."
                        )
                    receipts.append(Receipt(seq, repeated=True))
                    continue
                seq = self._next()
                known[slate.slate_id] = seq, slate
                rows.append(self._row(seq, slate))
                receipts.append(Receipt(seq))
            self._db.executemany("INSERT INTO slate VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
            return receipts

    def _known(self, slate_ids: Sequence[str]) -> dict[str, tuple[int, Served]]:
        """Those of the slates that are in the log, with their sequence numbers."""
        found: dict[str, tuple[int, Served]] = {}
        for start in range(0, len(slate_ids), _PART):
            part = slate_ids[start : start + _PART]
            query = f"SELECT * FROM slate WHERE slate_id IN ({','.join('?' * len(part))}) ORDER BY seq"
            logged = self._logged(self._db.execute(query, part).fetchall())
            found |= {one.served.slate_id: (one.seq, one.served) for one in logged}
        return found

    def _row(self, seq: int, served: Served) -> tuple[Any, ...]:
        marks = self._marks
        return (
            seq,
            served.slate_id,
            served.user_id,
            marks["time"],
            marks["clock"],
            served.version,
            served.exploration,
            *(json.dumps(list(part), ensure_ascii=False) for part in (served.items_K, served.propensity_K)),
            None if served.state is None else served.state.as_json(),
        )

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
        with self._lock, self._db.errors(), self._transaction():
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
        with self._lock, self._db.errors():
            with self._transaction():
                self._marks["forgetting"] = 1
                self._write_marks()
                mine = "SELECT seq FROM slate WHERE user_id = ?"
                self._db.execute(f"DELETE FROM feedback WHERE slate_seq IN ({mine})", (user_id,))
                gone = int(self._db.execute("DELETE FROM slate WHERE user_id = ?", (user_id,)).rowcount)
                self._marks["forgetting"] = 0
            clear = self._db.erase()
        if not clear:
            raise Busy(
                f"The user's rows are gone from {self.place}, but another program reads it and its journal "
                "still holds old pages; end the reader and forget the user again."
            )
        return gone

    def tick(self) -> int:
        """Moves the log's time on without an entry, so that slates ripen while nobody is served; returns the time."""
        with self._lock, self._db.errors(), self._transaction():
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
        self._db.executemany("UPDATE mark SET value = ? WHERE name = ?", [(v, k) for k, v in self._marks.items()])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """What happens within is on the disk when the block has ended, all of it, or was never there."""
        before = dict(self._marks)
        try:
            self._db.begin()
            if self._db.shared:  # others have written since
                self._marks = self.marks()
            yield
            self._write_marks()
            self._db.commit()
        except BaseException:
            self._db.rollback()
            self._marks = before
            raise
