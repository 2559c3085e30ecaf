"""Does a knowledge graph add to what people did? Its neighbours alone, as a retriever, and beside co-visitation.

Settings and weights are chosen on the validation period, the test period is asked once. Everything is fitted on the
same
events: the training part to choose, training and validation part to be tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines import baseline
from llmrec.baselines.base import FittableRanker, ScoreRecommender
from llmrec.baselines.graph import GRID, GraphNeighbours, GraphSettings
from llmrec.baselines.selection import select
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples
from llmrec.dataset.graph import Triple, attribute_triples, read_triples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import targets
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.policy.mixture_weights import fit
from llmrec.studies.answer import Answer, signed
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import Ranker

GRAPH, COVISITATION, POPULARITY = "graph", "co-visitation", "popularity"
MIXED, CONTROL = "co-visitation + graph", "co-visitation + popularity"
K, FOUND = 10, 100


def graph_study(
    seeds: Sequence[int],
    out: Path,
    *,
    source: Path | None = None,
    triples: Path | None = None,
    rows: int = 1500,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Ranks test events with and without the graph.

    Args:
        seeds: of worlds, or of the rows that are drawn of `source`.
        out: folder of the answer.
        source: MovieLens; generated worlds by default.
        triples: a CSV of the graph; by default the items' own categories and brands.
        rows: events of validation and test, each at most.
        overrides: values by key.
        json_file: the figures are also written here.
    """

    def measure(seed: int) -> SeedRows:
        config = RunConfig.read(None, {**(overrides or {}), "seed": seed})
        world = None if source is not None else generate_world(config.world, seed)
        dataset = import_dataset("movielens", source) if source is not None else world.dataset  # type: ignore[union-attr]
        data = RunData(dataset, make_split(dataset, "time"), world)
        items = dataset.item_list
        given = attribute_triples(items) if triples is None else read_triples(triples, items)
        if not given:
            raise ConfigError("The items have neither categories nor brands; give --triples.")
        return _measured(config, data, given, rows, seed)

    return Study(tuple(seeds), measure, _answer, unit="seed").run(out, json_file)


def _measured(config: RunConfig, data: RunData, triples: Sequence[Triple], rows: int, seed: int) -> SeedRows:
    dataset = data.dataset
    valid, test = (targets(config, data, part, rows) for part in ("valid", "test"))
    before = data.split.part("train")
    until = data.split.until("valid")

    def graph(events: pl.DataFrame, settings: GraphSettings) -> ScoreRecommender:
        return GraphNeighbours(triples, settings, seed=seed).fit(dataset, events)

    chosen = select(partial(GraphNeighbours, triples), GRID, dataset, before, valid.rows, seen=valid.seen, k=K)
    spec, plain = baseline("covisitation"), baseline("popularity")
    tuned = spec.chosen(dataset, before, valid, seed=seed)
    assert tuned is not None

    def parts(events: pl.DataFrame) -> dict[str, FittableRanker]:
        return {
            GRAPH: graph(events, chosen.settings),
            COVISITATION: spec.make(tuned.settings, seed).fit(dataset, events),
            POPULARITY: plain.make(None, seed).fit(dataset, events),
        }

    early, late = parts(before), parts(until)
    sides: dict[str, Ranker] = dict(late)
    facts: dict[str, Any] = {"graph": str(chosen.settings), "triples": len(triples)}
    for name, other in ((MIXED, GRAPH), (CONTROL, POPULARITY)):
        best = max(
            (_weighed(early, other, power, dataset, valid) for power in (0.5, 1.0, 2.0)), key=lambda found: found[0]
        )
        _, power, weights = best
        facts[name] = {"power": power, "weights": weights}
        sides[name] = _mixture(late, other, power, dataset, weights)
    found: dict[str, dict[str, Any]] = {}
    states, target_B = [e.state for e in test], np.array([e.target for e in test])
    depth = min(FOUND, dataset.n_items)
    for name, ranker in sides.items():
        slates = ranker.recommend(states, depth, seen=test.seen)
        at = ranking_metrics(slates, target_B, k=(K, depth)).per_row
        found[name] = {f"NDCG@{K}": at[f"NDCG@{K}"], f"HR@{K}": at[f"HR@{K}"], f"HR@{FOUND}": at[f"HR@{depth}"]}
    users = [f"{seed} {s.user_id}" if data.world is not None else str(s.user_id) for s in states]
    return SeedRows(seed, dataset.manifest.content_hash, found, dict.fromkeys(found[GRAPH], users), facts)


def _mixture(
    parts: dict[str, FittableRanker], other: str, power: float, dataset: Dataset, weights: Sequence[float]
) -> Mixture:
    scores = [Scores((parts[name],), power) for name in (COVISITATION, other)]  # type: ignore[arg-type]
    return Mixture(scores, weights, items=Items(dataset.n_items, dataset.manifest.repeat), depth=2 * FOUND)


def _weighed(
    parts: dict[str, FittableRanker], other: str, power: float, dataset: Dataset, valid: Examples
) -> tuple[float, float, list[float]]:
    """NDCG on validation rows, the power of the scores and the best weights under it."""
    states, target_B = [e.state for e in valid], [e.target for e in valid]
    mixed = _mixture(parts, other, power, dataset, [0.5, 0.5])
    best = fit(mixed, states, target_B, k=K, seen=valid.seen)
    return float(best.ndcg_W.max()), power, [float(weight) for weight in best.mixture.weights_GP[0]]


def _answer(found: Pooled) -> Answer:
    measures = found.measures(GRAPH)
    many = len(found.rows(GRAPH, measures[0]))
    table = found.comparison(f"{many:,} test events, all sides against {COVISITATION}", measures, COVISITATION)
    sentences, gaps = [], {}
    for side, base in ((MIXED, COVISITATION), (MIXED, CONTROL), (GRAPH, POPULARITY)):
        for measure in measures:
            gap = found.difference(side, base, measure)
            gaps[f"{side} less {base}: {measure}"] = {"mean": gap.mean, "low": gap.low, "high": gap.high}
            if measure == measures[0]:
                sentences.append(f"{side} less {base}, {measure}: {signed(gap, 4)}.")
    figures = {"table": table.to_json(), "less": gaps, "chosen": [dict(one.facts) for one in found.seeds]}
    return Answer("Does a knowledge graph add to what people did?", figures, (table,), sentences)
