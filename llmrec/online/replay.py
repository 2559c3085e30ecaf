"""What a log of served slates gives to learn from and to be judged by: impressions with exact propensities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llmrec.config import RewardSettings
from llmrec.dataset.impressions import Impressions
from llmrec.online.events import Logged
from llmrec.seeding import stream_seed
from llmrec.types import FloatArray, State

_PARTS = 10_000


@dataclass(frozen=True)
class Replay:
    """Served slates as rows.

    Attributes:
        log: their impressions, one state a slate.
        reward_M: what each impression earned.
        skipped: slates that were left out: without a state, or with an item that the catalogue no longer has.
    """

    log: Impressions
    reward_M: FloatArray
    skipped: int


def replay(slates: Iterable[Logged], row_of: Mapping[str, int], reward: RewardSettings) -> Replay:
    """Slates with what came of them within their window.

    A slate of which one item is gone is left out whole: the propensities of the places below are given those above.

    Args:
        slates: from `EventReader.slates`, whose windows are over.
        row_of: item index of each item id.
        reward: what a click and a conversion are worth; a cart or a conversion counts as a click as well.
    """
    states: list[State] = []
    rows, items, clicks, buys, places, chances = [], [], [], [], [], []
    skipped = 0
    for logged in slates:
        served = logged.served
        if served.state is None or not all(item in row_of for item in served.items_K):
            skipped += 1
            continue
        for place, (item, chance) in enumerate(zip(served.items_K, served.propensity_K, strict=True)):
            bought = logged.counted("conversion", item)
            rows.append(len(states))
            items.append(row_of[item])
            clicks.append(bought or logged.counted("click", item) or logged.counted("cart", item))
            buys.append(bought)
            places.append(place)
            chances.append(chance)
        states.append(served.state.state(_who(logged), row_of))
    click_M, buy_M = np.array(clicks, dtype=np.float32), np.array(buys, dtype=np.float32)
    log = Impressions(
        states,
        np.array(rows, dtype=np.int64),
        np.array(items, dtype=np.int64),
        click_M,
        buy_M,
        np.array(places, dtype=np.float32),
        np.array(chances, dtype=np.float32),
        [np.array([], dtype=np.int64)] * len(states),  # the state tells what was seen
    )
    return Replay(log, (reward.click * click_M + reward.conversion * buy_M).astype(np.float64), skipped)


def parted(slates: Iterable[Logged], held_out: float, seed: int) -> tuple[list[Logged], list[Logged]]:
    """Slates to learn from, and those of a share of the users, which are held out.

    A user is held out in one update as in the next: what a policy is judged by, none of its ancestors has learnt.
    """
    learnt: list[Logged] = []
    kept: list[Logged] = []
    for logged in slates:
        drawn = stream_seed(seed, "online", "held out", _who(logged)) % _PARTS
        (kept if drawn < held_out * _PARTS else learnt).append(logged)
    return learnt, kept


def _who(logged: Logged) -> str:
    """The user; a slate of nobody known is one of its own."""
    user = logged.served.user_id
    return f"slate {logged.served.slate_id}" if user is None else user
