"""What a pretrained model knows before any training: pi, likelihood, and its corrections, on held-out events.

The shares of the corrections are chosen on validation events and the test events are read once for all rows. Beside
them stand popularity, co-visitation, and co-visitation's probabilities mixed with the corrected likelihood's, their
weight chosen on the same validation events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.baselines.base import item_counts, positives
from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples
from llmrec.errors import RequestError
from llmrec.evaluation.offline import rank_systems
from llmrec.evaluation.ranking import slates_to_items
from llmrec.pipeline.base_model import check_base, named_base
from llmrec.pipeline.before import TOKENS, base_policy
from llmrec.pipeline.data import check_source, open_data
from llmrec.pipeline.result import COVISITATION, POPULARITY
from llmrec.pipeline.sft import targets
from llmrec.pipeline.work import Work
from llmrec.policy.likelihood_ranker import GRID, LikelihoodRanker, Shares
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.policy.mixture_weights import fit
from llmrec.studies.answer import Answer
from llmrec.types import IntArray, Ranker, State

K = 10
POWER = 0.25
"""Of the likelihood's probabilities in the mixture: a sum over tokens is far too sure of itself."""


def measure_before_sft(
    *,
    model: str,
    out: Path,
    dataset: str = "movielens",
    source: str | None = None,
    valid: int = 200,
    test: int = 300,
    tokens: int = TOKENS,
    pi: bool = False,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Measures the untrained `model` and returns the figures.

    Args:
        model: Hub id, folder or GGUF file.
        out: answer and data are kept here.
        dataset: an importer's name, folder, or world.
        source: of the data set.
        valid: validation events that shares and weights are chosen on.
        test: test events, a uniform sample.
        tokens: of an item that are read at a state; 0 reads items to their end.
        pi: rank by pi, too, with 20 beams.
        overrides: values by key, such as text.frame=list.
        json_file: the figures are also written here.

    Raises:
        RequestError: no event to choose or to measure on.
    """
    given: dict[str, Any] = {"data.dataset": dataset, "model.name": model, **(overrides or {})}
    config = RunConfig.read(None, given | ({} if source is None else {"data.source": source}))
    check_source(config)
    check_base(config)
    data = open_data(config, Work(out / "work"))
    rows, held = targets(config, data, "valid", valid), targets(config, data, "test", test)
    if not len(rows) or not len(held):
        raise RequestError("There is no validation or no test event; widen the split.")
    policy = base_policy(config, data, named_base(config))
    train, n_items = data.split.train, data.dataset.n_items
    counts = item_counts(positives(data.dataset, train), n_items)
    start = LikelihoodRanker(policy, tokens=tokens or None, count_N=counts)
    states, chosen = [e.state for e in rows], [e.target for e in rows]
    start.remember([example.state for part in (rows, held) for example in part])
    k = min(K, n_items)
    alone = start.calibrated(states, chosen, seen=rows.seen, k=k, grid=[s for s in GRID if not s.popularity]).ranker
    both = start.calibrated(states, chosen, seen=rows.seen, k=k).ranker
    near = baseline("covisitation").fitted(data.dataset, train, rows, seed=config.seed)
    items = Items(n_items, data.dataset.manifest.repeat)
    parts = [Scores((alone,), POWER), Scores((near,))]  # type: ignore[arg-type]
    mixed = fit(Mixture(parts, items=items), states, chosen, k=k, seen=rows.seen)
    systems: dict[str, Ranker] = {
        POPULARITY: Popularity(seed=config.seed).fit(data.dataset, train),
        COVISITATION: near,
        **({"pi": policy} if pi else {}),
        "likelihood": start.with_shares(Shares(0.0)),
        f"likelihood less {alone.shares.prior:g} without a state": alone,
        f"likelihood less {both.shares.prior:g}, {both.shares.popularity:g} log counts": both,
        f"mixed with co-visitation, weight {mixed.mixture.weights_GP[0, 0]:g}": mixed.mixture,
    }
    table = rank_systems(
        {name: _lists(system, held, k) for name, system in systems.items()},
        held,
        data.dataset,
        reference=POPULARITY,
        seed=config.seed,
        train=train,
        split=data.split.name,
    ).select([f"HR@{k}", f"NDCG@{k}"])
    figures = {"table": table.to_json(), "valid_events": len(rows), "tokens": tokens}
    return Answer("Before any training", figures, (table,)).finish(
        out, json_file, dataset_hash=data.dataset.manifest.content_hash
    )


def _lists(system: Ranker, held: Examples, k: int) -> IntArray:
    states: list[State] = [e.state for e in held]
    return slates_to_items(system.recommend(states, k, seen=held.seen), k)
