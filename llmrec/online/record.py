"""Slates and feedback that another program has written down, one JSON object a line, taken into an event log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from llmrec.config_tree import from_tree
from llmrec.errors import ConfigError, DataError, LLMRecError
from llmrec.online.events import LONGEST_STATE, LoggedState, Outcome, Served
from llmrec.online.log import EventLog
from llmrec.storage import shown
from llmrec.types import EVENT_KINDS

T = TypeVar("T")
BATCH = 500
"""Lines of a transaction."""
_LONGEST = LONGEST_STATE + 100_000
_NAMES = {"items": "items_K", "propensities": "propensity_K"}


def record(log: EventLog, slates: Path | None, feedback: Path | None) -> tuple[int, int, int]:
    """Takes files of slates and of feedback into the log, slates first; lines that stand in it count once.

    Returns:
        How many slates and reports were new, and how many of the reports came too late to count.

    Raises:
        DataError: a line that is no JSON object, or lacks a key; it is named, and what came before it is in the log.
        RequestError: what the log refuses, see `EventLog.serve` and `EventLog.receive`.
    """
    served = sum(not one.repeated for part in _batches(slates, _slate) for one in _named(slates, part, log.serve))
    receipts = [one for part in _batches(feedback, _outcome) for one in _named(feedback, part, log.receive)]
    new = [one for one in receipts if not one.repeated]
    return served, len(new), sum(one.late for one in new)


def _named(place: Path | None, part: list[tuple[int, Any]], take: Any) -> list[Any]:
    """A batch as it is taken; the sentence of a refusal says which lines it is about."""
    try:
        return list(take([one for _, one in part]))
    except LLMRecError as error:
        assert place is not None
        raise type(error)(f"Lines {part[0][0]} to {part[-1][0]} of {shown(place)}: {error}") from None


def _batches(place: Path | None, make: Any) -> Iterator[list[tuple[int, Any]]]:
    if place is None:
        return
    part: list[tuple[int, Any]] = []
    for number, line in enumerate(_lines(place), 1):
        if line.strip():
            part.append((number, make(_object(line, place, number), f"line {number} of {shown(place)}")))
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part


def _lines(place: Path) -> Iterator[str]:
    try:
        with place.open(encoding="utf-8") as file:
            while line := file.readline(_LONGEST):
                if len(line) == _LONGEST:
                    raise DataError(f"{shown(place)} has a line of more than {_LONGEST:,} characters; cut its state.")
                yield line
    except FileNotFoundError:
        raise DataError(f"{shown(place)} does not exist; name a file of JSON lines.") from None
    except UnicodeDecodeError:
        raise DataError(f"{shown(place)} is not in UTF-8; write it anew.") from None


def _object(line: str, place: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"Line {number} of {shown(place)} is no JSON; write one object a line.") from None
    if not isinstance(found, dict):
        raise DataError(f"Line {number} of {shown(place)} is no JSON object; write one a line.")
    return found


def _slate(told: dict[str, Any], origin: str) -> Served:
    """A slate; its state has the keys of `LoggedState`, each choice being item, feedback, time and value."""
    given = {_NAMES.get(key, key): value for key, value in told.items()}
    state = given.pop("state", None)
    found = _read(Served, {**given, "state": None}, origin)
    if state is None:
        return found
    if not isinstance(state, dict):
        raise DataError(f"Key 'state' in {origin} is no object; give profile, history, session, context and time.")
    plain = {key: value for key, value in state.items() if key not in ("history", "session")}
    _read(LoggedState, plain, origin)
    history, session = (tuple(_choice(one, origin) for one in state.get(key) or ()) for key in ("history", "session"))
    whole = LoggedState(**plain, history=history, session=session)
    return Served(**{**{name: getattr(found, name) for name in Served.__slots__}, "state": whole})


def _choice(told: Any, origin: str) -> tuple[Any, ...]:
    fits = (
        isinstance(told, list | tuple)
        and len(told) == 4
        and isinstance(told[0], str)
        and told[1] in EVENT_KINDS
        and isinstance(told[2], int)
        and (told[3] is None or isinstance(told[3], int | float))
    )
    if not fits:
        raise DataError(f"A choice in {origin} is not [item, feedback, time in seconds, value or null]; mend it.")
    return tuple(told)


def _outcome(told: dict[str, Any], origin: str) -> Outcome:
    return _read(Outcome, told, origin)


def _read(cls: type[T], told: dict[str, Any], origin: str) -> T:
    try:
        return from_tree(cls, told, origin)
    except ConfigError as error:
        raise DataError(str(error)) from None
