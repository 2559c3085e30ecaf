"""Files of recommendations, as any system can write them: a JSON object a line, one for each held-out event.

    {"user": "u1", "target": "i7", "time": 881250949, "items": ["i3", "i7", ...], "scores": [...], "candidates": 100}

`items` are best first. `time` (seconds) is needed where a user chose an item twice in the test period; `scores` are
those of the items; `candidates` is how many items were ranked, where it was not all. The first line may tell of the
whole file instead:

    {"about": {"name": "my model", "claims": {"NDCG@10": 0.123}, "chosen_on": "valid"}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.bounded import json_objects
from llmrec.dataset.schema import show
from llmrec.errors import DataError
from llmrec.printing import one_line
from llmrec.progress import track

LONGEST = 10_000
"""Items of a list that are read, at most."""
CHOSEN_ON = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One list.

    Attributes:
        line: of the file.
        user: whose event it is.
        target: the item that was chosen.
        time: of the event in seconds; None where the file does not say.
        items_K: ids, best first.
        scores_K: of the items; empty where the file gives none.
        candidates: how many items were ranked, as the file says; None where it does not.
    """

    line: int
    user: str
    target: str
    time: int | None
    items_K: tuple[str, ...]
    scores_K: tuple[float, ...] = ()
    candidates: int | None = None


@dataclass(frozen=True)
class Predictions:
    """All lists of a file.

    Attributes:
        name: of the system.
        rows: in the file's order.
        claims: figures that were reported, by metric.
        chosen_on: the part that settings were chosen on, as the file says; "" where it does not.
    """

    name: str
    rows: Sequence[Prediction]
    claims: Mapping[str, float] = field(default_factory=dict)
    chosen_on: str = ""


def read_predictions(path: Path) -> Predictions:
    """The lists of a file of JSON lines, plain or gzipped.

    Raises:
        DataError: the file or a line cannot be read, named with its number and the mend.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give one with a JSON object a line: user, target, items.")
    about: dict[str, Any] = {}
    rows: list[Prediction] = []
    try:
        for line, row in track(json_objects(path), f"Reading {path.name}"):
            if "about" in row and not rows and not about:
                about = _about(path, row["about"])
            else:
                rows.append(_row(path, line, row))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error, 200)}.") from None
    if not rows:
        raise DataError(f"{path} holds no list; write a JSON object a line: user, target, items.")
    return Predictions(rows=rows, **{"name": path.stem, **about})


def _about(path: Path, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or (unknown := sorted(set(given) - {"name", "claims", "chosen_on"})):
        what = one_line(", ".join(map(str, unknown)), 80) if isinstance(given, dict) else "no object"
        raise DataError(f"{path}, about: {what}; it may hold name, claims and chosen_on.")
    claims, chosen_on = given.get("claims", {}), given.get("chosen_on", "")
    if not isinstance(claims, dict) or not all(_is_number(value) for value in claims.values()):
        raise DataError(f'{path}, about.claims: write figures by metric, for example {{"NDCG@10": 0.123}}.')
    if chosen_on not in ("", *CHOSEN_ON):
        raise DataError(f"{path}, about.chosen_on is {show(chosen_on)}; write one of {', '.join(CHOSEN_ON)}.")
    name = given.get("name", path.stem)
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{path}, about.name is {show(name)}; write a name.")
    return {"name": name, "claims": {str(key): float(value) for key, value in claims.items()}, "chosen_on": chosen_on}


def _row(path: Path, line: int, row: dict[str, Any]) -> Prediction:
    missing = [key for key in ("user", "target", "items") if key not in row]
    if missing:
        raise DataError(f"{path}, line {line} lacks {', '.join(missing)}; each line has user, target and items.")
    time, items, scores, candidates = (row.get(key) for key in ("time", "items", "scores", "candidates"))
    if time is not None and (isinstance(time, bool) or not isinstance(time, int)):
        raise DataError(f"{path}, line {line}: 'time' is {show(time)}; write whole seconds, or leave it out.")
    if not isinstance(items, list) or len(items) > LONGEST:
        raise DataError(f"{path}, line {line}: 'items' must be a list of at most {LONGEST:,} ids.")
    ids = tuple(_id(path, line, "items", item) for item in items)
    if scores is not None and (
        not isinstance(scores, list) or len(scores) != len(ids) or not all(map(_is_number, scores))
    ):
        raise DataError(f"{path}, line {line}: 'scores' must be {len(ids)} finite numbers, one an item.")
    if candidates is not None and (not isinstance(candidates, int) or isinstance(candidates, bool) or candidates < 1):
        raise DataError(f"{path}, line {line}: 'candidates' is {show(candidates)}; write how many items were ranked.")
    user, target = (_id(path, line, key, row[key]) for key in ("user", "target"))
    return Prediction(line, user, target, time, ids, tuple(map(float, scores or ())), candidates)


def _id(path: Path, line: int, key: str, value: Any) -> str:
    # ids that a JSON writer took for numbers are the same ids
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"{path}, line {line}: {key!r} holds {show(value)}; ids are texts.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
