"""Texts that were written from events: from which, and whether a split may use them.

A profile that was written from a user's history tells of that history. It belongs to the training part as much as
the events do, so a split whose training part lacks one of those events must not show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset, table_hash
from llmrec.errors import DataError


@dataclass(frozen=True, slots=True)
class Drawn:
    """The events that texts were written from.

    Attributes:
        events: hash of all of them, in their order; they are the training part of a split.
        until: the time of the latest, None where there is none.
        split: name of that split.
    """

    events: str
    until: int | None
    split: str

    @classmethod
    def of(cls, split: Split) -> Drawn:
        """The training part of a split."""
        until = split.train["time"].max()
        return cls(events_hash(split.train), None if until is None else int(until), split.name)  # type: ignore[arg-type]

    def tree(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def events_hash(events: pl.DataFrame) -> str:
    """Hex SHA-256 of who did what with which item when."""
    return table_hash(events.select("user_id", "item_id", "kind", "time", "value"))


def check_texts(dataset: Dataset, split: Split, *, withheld: bool = False) -> None:
    """Refuses a split that would show a written text before the events that it tells of.

    Passes where the texts draw on the split's own training part, or where all of it is earlier than the first
    validation event.

    Args:
        dataset: The data set.
        split: Its split.
        withheld: Whether items are withheld, whose events the texts would tell of.

    Raises:
        DataError: the texts and the split do not go together, with the mend.
    """
    written: Mapping[str, Any] = dataset.manifest.written
    if not written:
        return
    drawn = written.get("drawn")
    if not isinstance(drawn, dict) or {"events", "until", "split"} - drawn.keys():
        raise DataError(f"The manifest of {dataset.manifest.name!r} does not say what its texts were written from.")
    if withheld:
        raise DataError(
            f"Texts of {dataset.manifest.name!r} were written from all training events, also of items that are to be "
            "withheld; set data.withheld.test=0, or take the data set without written texts."
        )
    if drawn["events"] == events_hash(split.train):
        return
    until = drawn["until"]
    if split.cut_valid is not None and (until is None or until < split.cut_valid):
        return
    raise DataError(
        f"Texts of {dataset.manifest.name!r} were written from the training part of another split "
        f"({drawn['split']}), so they tell of events that this one asks for; run `llmrec enrich` with this run's "
        "data.split, data.valid_fraction and data.test_fraction."
    )
