"""A trained agent as a recommender: what it thinks of every item, best first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrec.agents.features import Float32Array, StateFeatures
from llmrec.baselines.base import BATCH, exclude
from llmrec.baselines.ties import fair_top
from llmrec.errors import RequestError
from llmrec.files import new_folder
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Slate, State

FEATURES, FACTS = "features", "agent.json"
"""Names in the folder of a saved agent."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went.

    Attributes:
        transitions: steps of users that were learned from.
        cpu_s: processor seconds of this process, simulator and networks together.
        curve: mean reward of a turn by stretch of the training, exploration included: {"transitions", "reward"}.
        out_of_time: whether the clock ended it before the budget was used up.
    """

    transitions: int
    cpu_s: float
    curve: tuple[dict[str, float], ...]
    out_of_time: bool


class Agent(ABC):
    """Q-values or log-probabilities of all items; subclasses give `values` and `_save`.

    Args:
        features: as in training.
        n_items: N.
        repeat: "exclude" where an item that was seen is never shown again, as in the data set's manifest.
        seed: run seed, for the order of items of equal value.
    """

    def __init__(self, features: StateFeatures, n_items: int, repeat: str = "allow", seed: int = 0) -> None:
        self.features, self.n_items, self.repeat, self.seed = features, n_items, repeat, seed

    @abstractmethod
    def values(self, feature_BD: Float32Array) -> FloatArray:
        """What each item is worth at states of these features, (B, N); higher is better."""

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Writes what was learned into `folder`."""

    def score(self, states: Sequence[State]) -> FloatArray:
        """What each item is worth to each state, shape (B, N)."""
        return self.values(self.features.encode(states))

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state, never one that it has seen where repeats are excluded.

        Args:
            states: what is known of each user.
            k: places of a slate.
            seen: what each user has seen beside the state.

        Returns:
            One slate a state; `log_probs_K` holds the values. Shorter than k where fewer items are allowed.

        Raises:
            RequestError: k outside 1 .. N, or lists of seen items that do not fit.
        """
        if not 1 <= k <= self.n_items:
            raise RequestError(f"k is {k}, but the catalogue has {self.n_items} items; ask for 1 to {self.n_items}.")
        if seen is not None and len(seen) != len(states):
            raise RequestError(f"{len(states)} states need {len(states)} lists of seen items, not {len(seen)}.")
        # clusters give whole groups of items equal values, so ties are drawn and not left to the order of the
        # catalogue
        random = numpy_stream(self.seed, "agents", "ties")
        slates = []
        for low in range(0, len(states), BATCH):
            part = states[low : low + BATCH]
            value_BN: FloatArray = np.asarray(self.score(part), dtype=np.float64)
            if self.repeat == "exclude":
                value_BN = exclude(value_BN, [state.seen() for state in part])
                value_BN = exclude(value_BN, [] if seen is None else seen[low : low + BATCH])
            slates += _slates(value_BN, fair_top(value_BN, k, random))
        return slates

    def save(self, folder: Path) -> None:
        """Writes the agent to `folder`, whole or not at all."""
        with new_folder(folder, mark=FACTS) as place:
            self.save_into(place)

    def save_into(self, folder: Path) -> None:
        """Writes the agent into a folder that is there."""
        (folder / FEATURES).mkdir()
        self.features.save(folder / FEATURES)
        self._save(folder)


def _slates(value_BN: FloatArray, items_BK: IntArray) -> list[Slate]:
    slates = []
    for value_N, items_K in zip(value_BN, items_BK, strict=True):
        kept_K = items_K[items_K >= 0]
        slates.append(Slate(tuple(kept_K.tolist()), tuple(value_N[kept_K].tolist())))
    return slates
