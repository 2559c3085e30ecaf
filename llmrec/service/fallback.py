"""What answers when the model cannot in time: co-visitation and popularity, counted on the run's training part."""

from __future__ import annotations

import numpy as np
import polars as pl

from llmrec.baselines import Covisitation
from llmrec.catalogue.filters import Filters
from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.policy.filtered import hidden_items, passing
from llmrec.policy.slates import choose, groups_of
from llmrec.recommender import Recommender, Request
from llmrec.types import FloatArray, State

_PRIOR = 200
"""Items of the list for nobody in particular that is asked of the policy where there are no events to count."""


class Fallback:
    """Slates within milliseconds.

    Args:
        recommender: whose items are listed; without a data set the policy's own list for nobody in particular serves.
        config: of the run; says which events are of the training part.
    """

    def __init__(self, recommender: Recommender, config: RunConfig) -> None:
        self.recommender = recommender
        self.covisitation: Covisitation | None = None
        self.prior_N: FloatArray | None = None
        data = recommender.fitted_data()
        if data is not None:
            self.covisitation = Covisitation(seed=config.seed).fit(data, _training(data, config))
            return
        items = len(recommender.bundle.items)
        (slate,) = recommender.bundle.policy.recommend([State()], min(items, _PRIOR))
        self.prior_N = np.full(items, -np.inf)
        self.prior_N[list(slate.items_K)] = slate.log_probs_K
        # what the list does not name follows in the catalogue's order
        self.prior_N[np.isinf(self.prior_N)] = -1e30

    def items(self, request: Request, k: int, exclude_seen: bool | None) -> tuple[int, ...]:
        """At most k items for a request, best first, under its filters.

        Raises:
            RequestError: a filter that cannot be read.
        """
        policy = self.recommender.bundle.policy
        assert policy.filters is not None
        filters = request.filters or Filters()
        score_N = self._score(request.state)
        (passes_N,) = passing(policy.filters.attributes, [filters])
        if policy.repeat == "exclude" if exclude_seen is None else exclude_seen:
            hidden = hidden_items([request.state], None if request.seen is None else [request.seen])[0]
            passes_N = passes_N & ~np.isin(np.arange(len(score_N)), hidden)
        order = np.argsort(-score_N, kind="stable")
        order = order[passes_N[order]]
        if filters.bounds_slate:
            groups = groups_of(filters, policy.filters.attributes, order, k)
            order = order[choose(score_N[order], groups, k)]
        return tuple(order[:k].tolist())

    def _score(self, state: State) -> FloatArray:
        if self.covisitation is None:
            assert self.prior_N is not None
            return self.prior_N
        score_N: FloatArray = self.covisitation.score([state])[0]
        return score_N


def _training(data: Dataset, config: RunConfig) -> pl.DataFrame:
    settings = config.data
    return make_split(data, settings.split, settings.valid_fraction, settings.test_fraction).train
