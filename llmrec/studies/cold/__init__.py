"""Cold starts: items that nobody has chosen yet, and users of whom little more than a profile is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llmrec.studies.cold.items import cold_items
from llmrec.studies.cold.setting import Rows
from llmrec.studies.cold.users import KNOWN, cold_users


def cold_starts(
    ask: Literal["items", "users"],
    *,
    seeds: Sequence[int],
    out: Path,
    run: Path | None = None,
    valid_rows: int = 600,
    test_rows: int = 1000,
    known_rows: int | None = None,
    events: Sequence[int] = KNOWN,
    first_session: bool = False,
    judged: bool = True,
    least: int | None = None,
    json_file: Path | None = None,
    **which: Any,
) -> dict[str, Any]:
    """Trains what is not trained yet, asks all systems one of the two questions and returns the figures.

    Args:
        ask: which question.
        seeds: each withholds other items, and on generated worlds has a world of its own. A run has its own seed.
        out: stages and answer are kept here.
        run: see `setting.Setting.of`.
        valid_rows: validation rows (of new and of known items each) that everything is fitted on, at most.
        test_rows: rows that are reported, at most: of new items, or of cold users.
        known_rows: the same of known items, `test_rows` by default.
        events: for users: how many of their events a state holds.
        first_session: for users: whether targets are events of their first session alone.
        judged: for users: whether lists are judged too.
        least: for users: how many events they have before the targets; by default the greatest of `events`.
        json_file: the figures are also written here.
        which: data and language models, see `setting.Setting.of`.
    """
    seeds = seeds if run is None else (0,)
    rows = Rows(valid_rows, test_rows, test_rows if known_rows is None else known_rows)
    if ask == "items":
        return cold_items(seeds, out, json_file, rows, run=run, **which)
    how: dict[str, Any] = {"events": events, "first_session": first_session, "judged": judged, "least": least}
    return cold_users(seeds, out, json_file, rows, **how, run=run, **which)
