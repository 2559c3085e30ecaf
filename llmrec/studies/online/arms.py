"""What the month's arms are made of: counts of items, slates of an explorer, and data as they are known by a day."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from llmrec.config import RewardSettings
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.online.events import Logged, LoggedState, Served
from llmrec.online.explore import Explorer
from llmrec.online.replay import Replay, replay
from llmrec.online.traffic import Serve, WorldTraffic
from llmrec.online.update import Updater
from llmrec.online.worth import ItemWorth
from llmrec.pipeline.data import RunData
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.types import FloatArray, Slate, State

DEPTH = 60
"""Of the lists that item worths reorder."""
PRIOR = 20.0
"""Impressions of the average reward that stand beside an item's own, in the means."""


@dataclass(frozen=True)
class Means:
    """The same list for everybody, by the mean reward of each item."""

    mean_N: FloatArray

    def recommend(self, states: Sequence[State], k: int, *, seen: Any = None) -> list[Any]:
        """The k items of highest mean."""
        del seen
        best = np.argsort(-self.mean_N, kind="stable")[:k].tolist()
        return [Slate(tuple(best), tuple(self.mean_N[best].tolist()))] * len(states)


@dataclass(frozen=True)
class Reranked:
    """A policy's list ordered by b log pi + a: what an update would teach it, without teaching it."""

    policy: LanguagePolicy
    worth: ItemWorth

    def recommend(self, states: Sequence[State], k: int, *, seen: Any = None) -> list[Any]:
        """The k best of the list."""
        del seen
        lists = self.policy.recommend(states, min(DEPTH, self.policy.index.n_items), exclude_seen=False)
        made = []
        for one in lists:
            items_K = np.array(one.items_K)
            score_K = max(self.worth.slope, 0.0) * np.array(one.log_probs_K) + self.worth.item_N[items_K]
            best = np.argsort(-score_K, kind="stable")[:k]
            made.append(Slate(tuple(items_K[best].tolist()), tuple(score_K[best].tolist())))
        return made


class Alone(Updater):
    """Updates that know what items earn and nothing of persons: the control of what the policy brings to them."""

    def worth(self, policy: LanguagePolicy, told: Replay) -> ItemWorth | None:
        """What each item earned, whatever the policy says of it."""
        del policy
        logged = self._logged(told)
        if logged is None:
            return None
        return ItemWorth.fit(logged.item_M, np.zeros(len(logged.item_M)), logged.reward_M, len(self.row_of))


def reranked(policy: LanguagePolicy, slates: Sequence[Logged], updater: Updater) -> Reranked | None:
    """The policy with what the newest slates say items are worth beside it; None without any that tell."""
    newest = slates[-updater.settings.newest :]
    worth = updater.worth(policy, replay(newest, updater.row_of, updater.reward))
    return None if worth is None else Reranked(policy, worth)


def item_means(dataset: Dataset, newest: int, reward: RewardSettings) -> FloatArray:
    """Mean reward of an impression of each item among the newest impressions, drawn to the mean of all."""
    row_of = {item: row for row, item in enumerate(dataset.items["item_id"].to_list())}
    shown = dataset.events.filter(pl.col("kind") == "impression").sort("time").tail(newest)
    since = int(shown["time"].min()) if shown.height else 0  # type: ignore[arg-type]
    recent = dataset.events.filter(pl.col("time") >= since)

    def count(kind: str) -> FloatArray:
        rows = [row_of[item] for item in recent.filter(pl.col("kind") == kind)["item_id"]]
        return np.bincount(np.array(rows, dtype=np.int64), minlength=len(row_of)).astype(np.float64)

    earned_N = reward.click * count("click") + reward.conversion * count("conversion")
    shown_N = count("impression")
    mean = earned_N.sum() / max(shown_N.sum(), 1.0)
    return np.asarray((earned_N + PRIOR * mean) / (shown_N + PRIOR))


def serve_by(explorer: Explorer | None, people: WorldTraffic) -> Serve:
    """Slates of one explorer, as version 1."""
    ids = people.world.dataset.items["item_id"].to_list()

    def serve(states: Sequence[State], k: int, names: Sequence[str]) -> list[Served]:
        assert explorer is not None
        made = explorer.propose(states, k, names)
        rows = zip(names, states, made, strict=True)
        return [
            Served(
                n,
                s.user_id,
                tuple(ids[i] for i in m.items_K),
                m.propensity_K,
                1,
                explorer.name,
                LoggedState.of(s, ids),
            )
            for n, s, m in rows
        ]

    return serve


def events_of(slates: Sequence[Logged]) -> pl.DataFrame:
    """Slates with what has come of them as events; what was bought was clicked."""
    rows = [
        (one.served.user_id, item, kind, one.time, place, chance, one.served.slate_id)
        for one in slates
        for place, (item, chance) in enumerate(zip(one.served.items_K, one.served.propensity_K, strict=True))
        for kind in ("impression", "click", "conversion")
        if kind == "impression" or one.counted(kind, item)
    ]
    columns = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "time": pl.Int64}
    more = {"position": pl.Int32, "propensity": pl.Float64, "session": pl.String}
    return pl.DataFrame(rows, schema={**columns, **more}, orient="row")


def cut(data: RunData, events: pl.DataFrame) -> RunData:
    """Data that are known whole: all events train."""
    dataset = data.dataset.with_events(events)
    none = dataset.events.clear()
    return dataclasses.replace(data, dataset=dataset, split=Split(dataset.events, none, none, "time"))
