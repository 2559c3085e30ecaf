"""Neighbours in a knowledge graph: what is one or two steps from the items of a history.

    W = D^-1 A with A the weights of the relations between nodes (both ways), D their sums
    reach = W + W' W,   W' = W through entities alone, the second step divided by (degree of the entity)^damping
    score(j | history) = sum over k of decay^k reach[i_k, j] + TIE_BREAK log(1 + n_j)

A random walk of one or two steps (Cooper et al. 2014, "Random walks in recommender systems", P3 with alpha). Damping
keeps entities that stand beside everything (a genre of half the films) from saying anything. It knows items without
events, as content does, but by relations and not by words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp

from llmrec.baselines.base import POPULARITY, ScoreRecommender, history_weights, item_counts
from llmrec.dataset.graph import Triple, attribute_triples
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.types import FloatArray, State


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """How the walk goes.

    Attributes:
        damping: power of an entity's degree that its second step is divided by; 0 is the plain walk.
        history_decay: weight of the item before against one later.
        popularity: weight of the log counts, which order what the graph leaves equal.
    """

    damping: float = 0.5
    history_decay: float = 0.7
    popularity: float = POPULARITY


GRID: tuple[GraphSettings, ...] = tuple(
    GraphSettings(damping=damping, history_decay=decay, popularity=popularity)
    for damping in (0.0, 0.5, 1.0)
    for decay in (0.5, 0.8, 0.95)
    for popularity in (POPULARITY, 0.01, 0.1)
)
"""What `selection.select` may choose from."""


class GraphNeighbours(ScoreRecommender):
    """Items near those of the history in a knowledge graph.

    Args:
        triples: of the graph; None takes the items' own categories and brands.
        settings: of the walk.
        seed: run seed, for the order of items of equal score.

    Raises:
        ConfigError: a setting outside its range.
    """

    name = "graph"
    scoring = frozenset({"history_decay", "popularity"})

    def __init__(
        self, triples: Sequence[Triple] | None = None, settings: GraphSettings | None = None, *, seed: int = 0
    ) -> None:
        super().__init__(seed=seed)
        self.triples, self.settings = triples, settings or GraphSettings()
        own = self.settings
        if not (0 <= own.damping <= 4 and 0 < own.history_decay <= 1 and own.popularity >= 0):
            raise ConfigError("Damping must lie in 0 .. 4, history_decay in 0 .. 1, popularity at 0 or above.")

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        triples = attribute_triples(dataset.item_list) if self.triples is None else self.triples
        self.reach_NN = reach(dataset.items["item_id"].to_list(), triples, self.settings.damping)
        self.popular_N = np.log1p(item_counts(events, self.n_items))

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N)."""
        weights_BN = history_weights(states, self.n_items, self.settings.history_decay)
        found: FloatArray = (weights_BN @ self.reach_NN).toarray() + self.settings.popularity * self.popular_N
        return found


def reach(item_ids: Sequence[str], triples: Sequence[Triple], damping: float) -> sp.csr_matrix:
    """How far a walk of one or two steps gets from each item to each other: (N, N), 0 on the diagonal.

    Args:
        item_ids: of the N items, in item-index order.
        triples: of the graph; relations between two nodes add up.
        damping: see the module.
    """
    node = {item_id: n for n, item_id in enumerate(item_ids)}
    for triple in triples:
        for name in (triple.head, triple.tail):
            node.setdefault(name, len(node))
    head = [node[triple.head] for triple in triples]
    tail = [node[triple.tail] for triple in triples]
    shape, n = (len(node), len(node)), len(item_ids)
    both = sp.csr_matrix((np.ones(2 * len(head)), (head + tail, tail + head)), shape=shape)
    degree = np.asarray(both.sum(1)).ravel()
    step = sp.diags(np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)) @ both
    damped = np.power(degree, -damping, out=np.zeros_like(degree), where=degree > 0)
    damped[:n] = 0.0  # the second step goes through entities alone
    found = (step[:n, :n] + step[:n] @ sp.diags(damped) @ step[:, :n]).tolil()
    found.setdiag(0.0)
    return sp.csr_matrix(found)
