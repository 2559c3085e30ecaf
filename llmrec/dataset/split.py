"""Splits of the events into a training, a validation and a test part.

The default cuts the whole log at two moments, so nothing that a part may learn from happened after anything that
it is judged on. Events with equal time never stand on both sides of a cut, whether their order is known or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from llmrec.dataset.manifest import Signal
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.types import IntArray

SplitKind = Literal["time", "leave-last-out", "given"]
Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """The events of each part. Cuts are in seconds, and None where the parts are not cut at one moment.

    With both cuts set: train < `cut_valid` <= valid < `cut_test` <= test, for every event.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    name: str
    cut_valid: int | None = None
    cut_test: int | None = None

    def part(self, part: Part) -> pl.DataFrame:
        """The events of one part."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[part]

    def until(self, part: Part) -> pl.DataFrame:
        """The events of `part` and of the parts before it: all that a state of `part` may draw on."""
        return pl.concat([self.part(p) for p in PARTS[: PARTS.index(part) + 1]])

    @property
    def counts(self) -> dict[str, int]:
        """Events and users of each part, and what valid and test hold of users without a training event.

        Keys: `train_events`, `train_users`, ...; `valid_events_of_new_users`, `test_events_of_new_users`.
        """
        known = self.train["user_id"].unique()
        counts = {}
        for name in PARTS:
            users = self.part(name)["user_id"]
            counts[f"{name}_events"] = len(users)
            counts[f"{name}_users"] = users.n_unique()
            if name != "train":
                counts[f"{name}_events_of_new_users"] = int((~users.is_in(known.implode())).sum())
        return counts


def make_split(
    dataset: Dataset, kind: SplitKind = "time", valid_fraction: float = 0.1, test_fraction: float = 0.2
) -> Split:
    """Splits the events of `dataset`.

    Args:
        dataset: The data set; its events are not changed.
        kind: "time" cuts at two quantiles of the event time; "leave-last-out" takes each user's last time with a
            positive event for test and the one before for valid; "given" follows `events.split`.
        valid_fraction: Share of all events in valid (only for "time"); 0 leaves it empty.
        test_fraction: Share of all events in test (only for "time").

    Raises:
        ConfigError: The fractions leave nothing to train on, or `kind` is unknown.
        DataError: The data cannot be split this way.
    """
    if dataset.events.is_empty():
        raise DataError(f"Data set {dataset.manifest.name!r} has no events, so there is nothing to split.")
    if kind == "time":
        return _by_time(dataset, valid_fraction, test_fraction)
    if kind == "leave-last-out":
        return _leave_last_out(dataset)
    if kind == "given":
        return _given(dataset)
    raise ConfigError(f"Split {kind!r} is unknown; choose time, leave-last-out or given.")


def check_fractions(valid: float, test: float, keys: str = "") -> None:
    """Raises `ConfigError` where nothing would be left to train on or to test; `keys` stands before their names."""
    if not (0 <= valid < 1 and 0 < test < 1 and valid + test < 1):
        raise ConfigError(
            f"{keys}valid_fraction is {valid} and {keys}test_fraction is {test}; the one must be 0 or more, the "
            "other above 0, and both together below 1, so that something is left to train on."
        )


def split_at(events: pl.DataFrame, cut_valid: int, cut_test: int, name: str = "time") -> Split:
    """Cuts `events` at two moments (seconds): train < cut_valid <= valid < cut_test <= test."""
    if cut_valid > cut_test:
        raise ConfigError(f"cut_valid ({cut_valid}) lies after cut_test ({cut_test}); swap them.")
    time = pl.col("time")
    train = events.filter(time < cut_valid)
    valid = events.filter((time >= cut_valid) & (time < cut_test))
    return Split(train, valid, events.filter(time >= cut_test), name, cut_valid, cut_test)


def _by_time(dataset: Dataset, valid_fraction: float, test_fraction: float) -> Split:
    check_fractions(valid_fraction, test_fraction)
    times = np.sort(dataset.events["time"].to_numpy())
    if times[0] == times[-1]:
        raise DataError(
            f"All {len(times)} events of {dataset.manifest.name!r} have the same time, so no moment cuts them; "
            "choose the split leave-last-out or given."
        )
    cut_test = _cut(times, 1 - test_fraction)
    before = times[: np.searchsorted(times, cut_test)]
    share = 1 - valid_fraction / (1 - test_fraction)
    cut_valid = cut_test
    if valid_fraction > 0 and before[0] != before[-1]:
        cut_valid = _cut(before, share)
    return split_at(dataset.events, cut_valid, cut_test)


def _cut(times: IntArray, share: float) -> int:
    """The border between two distinct times nearest to `share` of the sorted `times`, never before the first."""
    rank = min(round(share * len(times)), len(times) - 1)
    low = int(np.searchsorted(times, times[rank], side="left"))
    high = int(np.searchsorted(times, times[rank], side="right"))
    # A cut falls between two moments, so events of one time stay on one side; the nearer border keeps the shares
    # closest to what was asked.
    if low == 0 or (high < len(times) and high - rank < rank - low):
        return int(times[high])
    return int(times[low])


def _leave_last_out(dataset: Dataset) -> Split:
    """A user with one positive time trains only; with two, the first trains and the last is the test."""
    manifest = dataset.manifest
    positive = Signal.parse(manifest.click).mask() | Signal.parse(manifest.conversion).mask()
    moments = dataset.events.filter(positive).select("user_id", "time").unique()
    last = moments.group_by("user_id").agg(pl.col("time").sort(descending=True).alias("times"))
    times = pl.col("times")
    cuts = last.select(
        "user_id",
        pl.when(times.list.len() >= 2).then(times.list.get(0, null_on_oob=True)).alias("_test"),
        pl.when(times.list.len() >= 3).then(times.list.get(1, null_on_oob=True)).alias("_valid"),
    )
    events = dataset.events.join(cuts, on="user_id", how="left", maintain_order="left")
    # From that moment on all events go to test, impressions too: they happened after what training may know.
    in_test = (pl.col("time") >= pl.col("_test")).fill_null(False)
    in_valid = (pl.col("time") >= pl.col("_valid")).fill_null(False) & ~in_test
    rules = (~in_test & ~in_valid, in_valid, in_test)
    train, valid, test = (events.filter(rule).drop("_test", "_valid") for rule in rules)
    return Split(train, valid, test, "leave-last-out")


def _given(dataset: Dataset) -> Split:
    """Events whose part is empty belong to no part: they train nothing and are no targets."""
    events, name = dataset.events, dataset.manifest.name
    known = set(events["split"].drop_nulls().unique())
    if "train" not in known or (dataset.rows is None and "test" not in known):
        raise DataError(
            f"The split of {name!r} is not given: column 'split' of its events names no train and test part; choose "
            "the split time or leave-last-out."
        )
    train, valid, test = (events.filter(pl.col("split") == part) for part in PARTS)
    cut_valid = _border(train, valid)
    cut_test = _border(pl.concat([train, valid]), test)
    return Split(train, valid, test, "given", cut_valid, cut_test)


def _border(before: pl.DataFrame, after: pl.DataFrame) -> int | None:
    """The first time of `after` where all of `before` is earlier, else None."""
    if before.is_empty() or after.is_empty():
        return None
    first = int(after["time"].to_numpy().min())
    return first if int(before["time"].to_numpy().max()) < first else None
