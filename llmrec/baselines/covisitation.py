"""Co-visitation: transition counts between items, smoothed by the likeness of their texts.

    C[i, j] = (sum of decay^(d-1) over j following i at distance d <= window, plus back times the reverse)
              / (count of i + 1)
    T[i, j] = TF-IDF cosine of the items' texts, 0 on the diagonal
    score(j | history) = sum over k of history_decay^k (C[i_k, j] + text T[i_k, j]) + popularity log(1 + n_j)
    n_j = sum over the clicks of j of 2^(-age / half-life), the last click of all being of age 0

with k = 0 for the latest item. With a popularity of 0.001 the last term only orders what the rest leaves at zero. A
user's events of equal time have no order: they count in the order of the table and in its reverse, half each. It
learns in a second and is hard to beat, so no quality claim of the language model is made without it in the same
table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.baselines.base import (
    BATCH,
    ScoreRecommender,
    exclude,
    history_weights,
    positives,
)
from llmrec.baselines.likeness import TextLikeness, text_vectors
from llmrec.baselines.ties import expected_gain, ndcg_gain, target_places
from llmrec.covisits import FIXED_GRID, POPULARITIES, CovisitationSettings, fading, following
from llmrec.dataset.store import Dataset
from llmrec.progress import track
from llmrec.types import Example, FloatArray, IntArray, State

__all__ = [
    "COUNTS_ONLY",
    "FIXED_GRID",
    "GRID",
    "POPULARITIES",
    "Covisitation",
    "CovisitationSettings",
    "popular",
    "transitions",
]

COUNTS_ONLY = CovisitationSettings(window=10, decay=0.8, back=0.5, history_decay=0.5, text=0.0)

GRID: tuple[CovisitationSettings, ...] = tuple(
    replace(option, popularity=weight, half_life=half_life)
    for weight, half_life in POPULARITIES
    for option in FIXED_GRID
)
"""What the registry's "covisitation" is chosen from."""


class Covisitation(ScoreRecommender):
    """Transition counts plus text likeness.

    Args:
        settings: parameters of the formula.
        seed: run seed, for the order of items of equal score.
    """

    name = "covisitation"

    def __init__(self, settings: CovisitationSettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or CovisitationSettings()
        self._text_of: pl.DataFrame | None = None  # the items that `text` was made from

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.counts_NN = transitions(events, self.n_items, self.settings)
        self.popular_N = popular(events, dataset.n_items, self.settings)
        if self.settings.text and self._text_of is not dataset.items:
            self.text, self._text_of = TextLikeness(text_vectors(dataset)), dataset.items

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        weights_BN = history_weights(states, self.n_items, self.settings.history_decay)
        scores_BN = (weights_BN @ self.counts_NN).toarray() + self.popular_N
        if self.settings.text:
            scores_BN += self.settings.text * self.text.sum(weights_BN)
        return np.asarray(scores_BN)

    def grid_ndcg(
        self,
        dataset: Dataset,
        events: pl.DataFrame,
        valid: Sequence[Example],
        excluded: Sequence[Sequence[int] | IntArray],
        options: Sequence[CovisitationSettings],
        k: int = 10,
    ) -> dict[CovisitationSettings, float]:
        """NDCG@k of options on `valid`, much faster than fitting them one by one.

        First those with the popularity of the first option are tried, then those that differ from the best of them in
        popularity alone: a grid of both together would take twenty times as long. Others have no figure.

        Args:
            dataset: items, texts and the manifest's rules.
            events: training events only.
            valid: examples of the validation part.
            excluded: item indices that may not be recommended for each example.
            options: settings to compare.
            k: the cut-off.
        """
        if self._text_of is not dataset.items:
            self.text, self._text_of = TextLikeness(text_vectors(dataset)), dataset.items
        each, clicks = list(dict.fromkeys(options)), positives(dataset, events)
        own = (each[0].popularity, each[0].half_life)
        # Coordinate search: popularity and the rest hardly interact, and the product of both grids is twenty times as
        # long.
        first = [option for option in each if (option.popularity, option.half_life) == own]
        found = _grid_ndcg(dataset, clicks, self.text, valid, excluded, first, k)
        best = _first_best(first, found).without_popularity
        then = [option for option in each if option not in found and option.without_popularity == best]
        return found | (_grid_ndcg(dataset, clicks, self.text, valid, excluded, then, k) if then else {})


def _first_best(
    options: Sequence[CovisitationSettings], found: Mapping[CovisitationSettings, float]
) -> CovisitationSettings:
    """The first of the best settings that have a figure."""
    return max((option for option in options if option in found), key=found.__getitem__)


def popular(events: pl.DataFrame, n_items: int, settings: CovisitationSettings) -> FloatArray:
    """popularity log(1 + n) of the formula, (N,), from `positives` rows (item, time)."""
    item_E, time_E = events["item"].to_numpy(), events["time"].to_numpy()
    return np.asarray(settings.popularity * fading(item_E, time_E, n_items, settings.half_life))


def transitions(events: pl.DataFrame, n_items: int, settings: CovisitationSettings) -> sp.csr_matrix:
    """C of the formula, sparse (N, N), from `positives` rows (user, item, time)."""
    user_E, item_E, time_E = (events[name].to_numpy() for name in ("user", "item", "time"))
    return following(user_E, item_E, time_E, n_items, settings)


def _grid_ndcg(
    dataset: Dataset,
    events: pl.DataFrame,
    text: TextLikeness,
    valid: Sequence[Example],
    excluded: Sequence[Sequence[int] | IntArray],
    options: Sequence[CovisitationSettings],
    k: int,
) -> dict[CovisitationSettings, float]:
    """NDCG@k of each setting on `valid`; transitions and text likeness are computed once for all that share them."""
    # Settings that share their transition matrix: one matrix for each, however many weights are tried on it.
    keys = {option: replace(option.without_popularity, text=0.0, history_decay=0.0) for option in options}
    counts = {key: transitions(events, dataset.n_items, key) for key in dict.fromkeys(keys.values())}
    total = dict.fromkeys(options, 0.0)
    popular_N = {option: popular(events, dataset.n_items, option) for option in options}
    for start in track(range(0, len(valid), BATCH), "Selecting co-visitation settings"):
        batch = valid[start : start + BATCH]
        states, targets_B = [e.state for e in batch], np.array([e.target for e in batch], dtype=np.int64)
        # -inf once a batch; every option's scores are added to it.
        base_BN = exclude(np.zeros((len(states), dataset.n_items)), excluded[start : start + BATCH])
        for decay in dict.fromkeys(o.history_decay for o in options):
            weights_BN = history_weights(states, dataset.n_items, decay)
            text_BN = text.sum(weights_BN)
            for key, counts_NN in counts.items():
                counted_BN = base_BN + (weights_BN @ counts_NN).toarray()
                for option in (o for o in options if keys[o] == key and o.history_decay == decay):
                    places = target_places(counted_BN + option.text * text_BN + popular_N[option], targets_B)
                    total[option] += float(expected_gain(*places, ndcg_gain(k)).sum())
    return {option: value / len(valid) for option, value in total.items()}
