"""New items, made of known ones: the events of some items are withheld from everything that learns or reads a state.

The items and their texts stay in the catalogue, and the withheld events are what is asked for: would an item that
nobody has chosen yet be offered to those who then chose it? Two disjoint sets are withheld from one and the same
training: settings for new items (the weights of a mixture, say) are chosen by the first set's events of the
validation period, and the second set's events of the test period are asked for once. Chosen on items that trained,
such settings would put everything on counts; chosen on the items of the test, they would be fitted to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.config import WithheldSettings
from llmrec.dataset.split import Part, Split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray


@dataclass(frozen=True)
class Withheld:
    """What was withheld.

    Attributes:
        items: item indices of the two sets, "valid" and "test", each in rising order.
        events: the events of both sets, split as the others.
        rows: the evaluation rows given by the data whose targets are withheld, histories without withheld items.
        ids: ids of the items of each set.
        data_hash: content hash of the data set with all of its events.
    """

    items: Mapping[Part, IntArray]
    events: Split
    rows: pl.DataFrame | None
    ids: Mapping[Part, pl.Series]
    data_hash: str

    @property
    def all_items(self) -> IntArray:
        """Item indices of both sets, in rising order."""
        return np.sort(np.concatenate(list(self.items.values())))

    def asked(self, part: Part) -> pl.DataFrame:
        """The events of "valid" or "test" with an item of its set: what systems are asked for."""
        return self.events.part(part).filter(pl.col("item_id").is_in(self.ids[part].implode()))

    def asked_rows(self, part: Part) -> pl.DataFrame:
        """The same of the evaluation rows given by the data."""
        assert self.rows is not None
        own = pl.col("target").is_in(self.ids[part].implode())
        return self.rows.filter((pl.col("split") == part) & own)

    def sentence(self) -> str:
        """What a reader of the figures must know."""
        test, valid = len(self.items["test"]), len(self.items["valid"])
        return (
            f"{test} items, and {valid} others for choosing settings, are new to everything here: their "
            f"{self.events.train.height:,} training events were withheld and they stand in no state. The ranking "
            "tables ask for the other items, among all."
        )

    def facts(self) -> dict[str, object]:
        """What a run says of it: items and events of each set, and the hash of all data."""
        return {
            "items": {part: len(items) for part, items in self.items.items()},
            "asked_events": {part: self.asked(part).height for part in self.items},
            "training_events_left_out": self.events.train.height,
            "content_hash_of_all": self.data_hash,
        }


def check_withheld(settings: WithheldSettings) -> None:
    """Refuses shares that cannot be.

    Raises:
        ConfigError: a key below `data.withheld`.
    """
    test, valid = settings.test, settings.valid
    for key, share in (("test", test), ("valid", valid)):
        if share is not None and not 0 <= share < 1:
            raise ConfigError(f"Key 'data.withheld.{key}' is {share}, but it is a share of the items: 0 to below 1.")
    if test == 0 and valid:
        raise ConfigError("Key 'data.withheld.valid' withholds items, but 'data.withheld.test' none; set it too.")
    if test and test + valid_share(settings) >= 1:
        raise ConfigError(
            "Keys 'data.withheld.test' and 'data.withheld.valid' together must leave items to train on."
        )


def valid_share(settings: WithheldSettings) -> float:
    """Share of the items that are withheld for the validation period."""
    return settings.test / 2 if settings.valid is None else settings.valid


def withhold(
    dataset: Dataset, split: Split, settings: WithheldSettings, seed: int
) -> tuple[Dataset, Split, Withheld]:
    """The data set and split without the events of withheld items, and those events.

    Where the split was cut is not changed, so the rows left are rows of the whole data set too.

    Args:
        dataset: the whole data set.
        split: its split.
        settings: shares of the items.
        seed: the run's; it draws the items.

    Raises:
        DataError: no item to withhold, or no event of withheld items in the test period.
    """
    n_items = dataset.n_items
    test, valid = (round(share * n_items) for share in (settings.test, valid_share(settings)))
    if not test:
        raise DataError(
            f"Key 'data.withheld.test' is {settings.test}, which is none of {n_items} items; set a larger share."
        )
    # One order of the items: a larger share of the test keeps those of a smaller one.
    drawn = numpy_stream(seed, "withheld items").permutation(n_items)
    sets: dict[Part, IntArray] = {"valid": np.sort(drawn[n_items - valid :]), "test": np.sort(drawn[:test])}
    ids: dict[Part, pl.Series] = {part: dataset.items["item_id"].gather(items) for part, items in sets.items()}
    away = pl.concat(list(ids.values()))
    is_away = pl.col("item_id").is_in(away.implode())
    rows = withheld_rows = None
    if dataset.rows is not None:
        kept = pl.col("history").list.eval(pl.element().filter(~pl.element().is_in(away.implode())))
        table, aim = dataset.rows.with_columns(kept), pl.col("target").is_in(away.implode())
        rows, withheld_rows = table.filter(~aim), table.filter(aim)
    parts = {part: getattr(split, part) for part in ("train", "valid", "test")}
    found = Withheld(
        sets,
        dataclasses.replace(split, **{part: events.filter(is_away) for part, events in parts.items()}),
        withheld_rows,
        ids,
        dataset.manifest.content_hash,
    )
    asked = found.asked("test") if withheld_rows is None else found.asked_rows("test")
    if asked.is_empty():
        raise DataError(
            f"No event of the {test} withheld items lies in the test part; raise 'data.withheld.test', or widen it."
        )
    left = dataclasses.replace(split, **{part: events.filter(~is_away) for part, events in parts.items()})
    return dataset.with_events(dataset.events.filter(~is_away), rows), left, found
