"""What items are worth on top of a policy, as numbers beside its adapter: `item_worths` of an update.

    pi'(i | state)  proportional to  (pi^(b + beta) exp(a_i))^(1 / (beta + c))

is the optimum that `learner: tilted` lets an adapter learn (`online.worth`, `training.tilted`). Here it is written
down (`catalogue.tilt`): pi is the policy of the version's adapter, fitted anew at each update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import TiltedSettings
from llmrec.errors import RunError
from llmrec.files import read_json, write_json
from llmrec.online.worth import ItemWorth
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.storage import shown
from llmrec.types import FloatArray, State

LAYER = "layer.json"
FORMAT = "llmrec-item-layer-1"
STATES = 256
"""Newest states over which pi is averaged."""


@dataclass(frozen=True)
class ItemLayer:
    """The numbers.

    Attributes:
        power: (b + beta) / (beta + c).
        worth_N: a / (beta + c) of each item, in nats.
        mean_N: the mean of pi over states.
    """

    power: float
    worth_N: FloatArray
    mean_N: FloatArray

    @classmethod
    def of(
        cls, worth: ItemWorth, policy: LanguagePolicy, states: Sequence[State], settings: TiltedSettings
    ) -> ItemLayer:
        """The optimum for what items are worth beside `policy`."""
        beta = settings.kl_coefficient
        temperature = beta + settings.entropy_coefficient
        mean_N = mean_probability(policy, states[-STATES:], settings.depth)
        return cls((max(worth.slope, 0.0) + beta) / temperature, worth.item_N / temperature, mean_N)

    def on(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue with this on top of every policy over it."""
        return catalogue.tilted(self.power, self.worth_N, self.mean_N)

    def save(self, folder: Path, item_ids: Sequence[str]) -> None:
        """Writes the numbers down by item id."""
        rows = zip(item_ids, self.worth_N.tolist(), self.mean_N.tolist(), strict=True)
        items = {item: {"worth": worth, "mean": mean} for item, worth, mean in rows}
        write_json(folder / LAYER, {"format": FORMAT, "power": self.power, "items": items})

    @classmethod
    def load(cls, folder: Path, item_ids: Sequence[str]) -> ItemLayer | None:
        """What a version has on top; None where it has nothing.

        Raises:
            RunError: the file is of another format, or of other items.
        """
        if not (folder / LAYER).is_file():
            return None
        told = read_json(folder / LAYER)
        if not isinstance(told, dict) or told.get("format") != FORMAT or list(told["items"]) != list(item_ids):
            raise RunError(f"{shown(folder / LAYER)} is not of the format {FORMAT} or of other items; roll back.")
        columns = ([own[name] for own in told["items"].values()] for name in ("worth", "mean"))
        return cls(told["power"], *(np.array(column, dtype=np.float64) for column in columns))


def mean_probability(policy: LanguagePolicy, states: Sequence[State], depth: int) -> FloatArray:
    """The mean of pi over states, (N,): of each state's `depth` likeliest items, the rest evenly among the others."""
    n_items = policy.index.n_items
    sum_N = np.zeros(n_items)
    for one in policy.recommend(states, min(depth, n_items), exclude_seen=False):
        items_K, p_K = np.array(one.items_K), np.exp(one.log_probs_K)
        others = n_items - len(items_K)
        rest = max(1.0 - p_K.sum(), 0.0) / max(others, 1)
        sum_N += rest
        sum_N[items_K] += p_K - rest
    return sum_N / len(states)
