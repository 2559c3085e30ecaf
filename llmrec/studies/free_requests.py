"""Free requests: who answers a sentence about categories, brands, prices and named items with items that fit it?

The requests and the items that answer them are drawn from the catalogue (`evaluation.requests`). Every system gets
the same reading of the sentence: titles named in it are the state's history, the rest is its free text. Weights of
mixtures and sizes of candidate sets are chosen on other requests than those of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import BASELINES, ContentProfile, ContentSettings, EmbeddingProfile, Popularity, Random
from llmrec.baselines.likeness import TextRanker
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.store import Dataset, Signal
from llmrec.errors import RequestError
from llmrec.evaluation.requests import KINDS, Request, draw_requests, precisions
from llmrec.evaluation.table import Comparison
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.before import TOKENS, base_policy
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import demo_config, with_defaults
from llmrec.pipeline.result import BEFORE_SFT
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import sft_policy, sft_stage
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import Certified, LanguagePolicy
from llmrec.policy.likelihood_ranker import LikelihoodRanker, Shares
from llmrec.policy.mean_hidden import TextEncoder
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.policy.retrieved import Retrieved
from llmrec.policy.wishes import wished
from llmrec.progress import console
from llmrec.recommender import Recommender
from llmrec.recommender.words import Lookup, Tiers, in_tiers
from llmrec.studies.answer import Answer
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.text.free_prompt import Resolved, resolve_prompt
from llmrec.types import Slate, State

K = 10
OVERALL = "all"
BASE = "TF-IDF"
FILTERED = ", filters read"
WORDED = ", words first"
CHOOSING = 60
"""Requests, of another draw, that settings are chosen on."""
WEIGHTS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)
"""A policy's share beside a retriever."""
POWER = 4.0
"""Of a retriever's scores within a mixture: as they are they are nearly flat."""
CANDIDATES = (20, 50)
"""Sizes of a candidate set to choose from."""


def free_requests(
    seeds: Sequence[int],
    out: Path,
    *,
    dataset: str = "world",
    source: str | Path | None = None,
    requests: int = 200,
    shares: Sequence[float] = (0.05, 0.24),
    run: Path | None = None,
    model: str | None = None,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Draws requests for each seed, lets every system answer them and returns the figures.

    Args:
        seeds: of the requests; of the world and the training too, where there is a world.
        out: trained policies are kept here.
        dataset: an importer's name, folder, or world.
        source: of the data set.
        requests: for each seed.
        shares: weights of `item_from_prompt` in SFT's mixture; for each a policy is warm-started. None trains none.
        run: a finished run on the same items, whose policy answers too.
        model: a pretrained causal language model, whose mean hidden states are a retriever and whose likelihood of
            the titles is a ranker, both without training.
        overrides: configuration keys of all trainings.
        json_file: the figures are also written here.

    Raises:
        RequestError: items that nothing can be asked of, or a run of other items.
        ConfigError: settings that cannot be used.
    """
    named: dict[str, Any] = {"data.dataset": dataset} | ({} if source is None else {"data.source": str(source)})

    def measure(seed: int) -> SeedRows:
        own = {**named, **(overrides or {}), "seed": seed}
        config = demo_config(seed, overrides) if dataset == "world" else with_defaults(None, own)
        check_config(config)
        data = open_data(config, Work(out / f"seed-{seed}"))
        systems = _systems(config, data, out / f"seed-{seed}", shares, run, model)
        return _measured(data.dataset, systems, requests, seed)

    return Study(seeds, measure, _answer).run(out, json_file)


@dataclasses.dataclass(frozen=True)
class _Systems:
    """Who answers: rankers by name, those among them that understand filters, and what is still to be chosen."""

    fixed: Mapping[str, Any]
    filtering: Mapping[str, Any]
    mixtures: Mapping[str, Mixture]
    narrowed: Mapping[str, Mapping[str, Retrieved]]


def _systems(
    config: RunConfig,
    data: RunData,
    folder: Path,
    shares: Sequence[float],
    run: Path | None,
    model: str | None,
) -> _Systems:
    dataset, train = data.dataset, data.split.train
    retrievers: dict[str, TextRanker] = {BASE: ContentProfile(ContentSettings(categories=True), seed=config.seed)}
    if BASELINES["embeddings"].available:
        retrievers["embeddings"] = EmbeddingProfile(seed=config.seed)
    before: dict[str, Any] = {}
    if model is not None:
        own = dataclasses.replace(config, model=dataclasses.replace(config.model, name=model))
        base = base_policy(own, data, base_model(own, data, Work(folder / "pretrained")))
        encode = TextEncoder(base.model, base.tokenizer)
        retrievers["hidden states"] = EmbeddingProfile(seed=config.seed, encode=encode, centred=True)
        # without counts, and less all of the likelihood without a request: what the request says, and nothing else
        before[BEFORE_SFT] = LikelihoodRanker(base, Shares(prior=1.0), tokens=TOKENS)
    fixed: dict[str, Any] = {
        "random": Random(seed=config.seed).fit(dataset, train),
        "popularity": Popularity(seed=config.seed).fit(dataset, train),
    }
    fixed |= {name: retriever.fit(dataset, train) for name, retriever in retrievers.items()}
    known = Attributes.of(dataset.item_list)
    policies = _policies(config, data, folder, shares, run)
    for policy in policies.values():
        policy.set_attributes(known)
    # a score understands filters as a mixture of itself alone
    items = Items(dataset.n_items, dataset.manifest.repeat, known)
    scored = {"popularity": fixed["popularity"], **retrievers}
    filtering: dict[str, Any] = {name: Mixture([Scores((one,))], items=items) for name, one in scored.items()}
    mixtures: dict[str, Mixture] = {}
    narrowed: dict[str, dict[str, Retrieved]] = {}
    sizes = [size for size in CANDIDATES if size < dataset.n_items]
    for name, policy in list(policies.items())[-1:]:  # the last one alone: more rows would say the same
        for near, retriever in retrievers.items():
            mixtures[f"{name} + {near}"] = Mixture([policy, Scores((retriever,), POWER)])
            narrowed[f"{name} among {near}"] = {str(c): Retrieved(policy, retriever, c) for c in sizes}
    return _Systems(fixed | before | policies, filtering | policies, mixtures, narrowed)


def _policies(
    config: RunConfig, data: RunData, folder: Path, shares: Sequence[float], run: Path | None
) -> dict[str, LanguagePolicy]:
    found: dict[str, LanguagePolicy] = {}
    for share in shares:
        mixture = {**config.sft.mixture, "item_from_prompt": share}
        own = dataclasses.replace(config, sft=dataclasses.replace(config.sft, mixture=mixture))
        check_config(own)
        work = Work(folder / f"prompts-{share:g}")
        stage = sft_stage(own, data, base_model(own, data, work), work)
        found[f"SFT, prompts {share:g}"] = sft_policy(own, data, stage)
    if run is not None:
        bundle = Recommender.load(run).bundle
        if list(bundle.policy.catalogue.item_ids) != data.dataset.items["item_id"].to_list():
            raise RequestError(
                f"The run {run} has other items than the data set; give the data set that it was made of."
            )
        found["run"] = bundle.policy
    return found


def _measured(dataset: Dataset, systems: _Systems, requests: int, seed: int) -> SeedRows:
    items = dataset.item_list
    tested = draw_requests(items, requests, seed)
    readings, filters, served = _read(tested, dataset)
    states = [reading.state for reading in readings]
    kinds = np.array([request.kind for request in tested])
    clusters = [f"{seed}/{request.about}" for request in tested]
    rows: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {"examples": [request.text for request in tested[: 2 * len(KINDS)]]}

    def note(name: str, slates: Sequence[Slate]) -> None:
        score_B = precisions(tested, slates, K)
        rows[name] = {OVERALL: score_B} | {kind: score_B[kinds == kind] for kind in KINDS if (kinds == kind).any()}
        console.print(f"  {name}: precision@{K} {score_B.mean():.3f}")

    for name, system in systems.fixed.items():
        note(name, system.recommend(states, K, exclude_seen=True))
    for name, system in systems.filtering.items():
        note(name + FILTERED, system.recommend(states, K, exclude_seen=True, filters=filters))
        note(name + WORDED, _words_first(system, served))
    # what is chosen is chosen on requests that are not those of the table
    valid = draw_requests(items, CHOOSING, seed, name="valid")
    others = [reading.state for reading in _read(valid, dataset)[0]]
    for name, mixture in systems.mixtures.items():
        found = {weight: _mean(valid, slates) for weight, slates in _by_weight(mixture, others).items()}
        best = max(found, key=lambda weight: found[weight])
        facts[name] = {"chosen": best, "valid": found}
        mixed = mixture.changed(weights=[best, 1 - best])
        note(name, mixed.recommend(states, K, exclude_seen=True))
        note(name + FILTERED, mixed.recommend(states, K, exclude_seen=True, filters=filters))
    for name, options in systems.narrowed.items():
        by_size = {o: _mean(valid, one.recommend(others, K, exclude_seen=True)) for o, one in options.items()}
        size = max(by_size, key=lambda option: by_size[option])
        facts[name] = {"chosen": size, "valid": by_size}
        note(name, options[size].recommend(states, K, exclude_seen=True))
    facts["read"] = _reading_facts(tested, readings, filters)
    users = {OVERALL: clusters} | {
        kind: [cluster for cluster, own in zip(clusters, kinds, strict=True) if own == kind] for kind in KINDS
    }
    return SeedRows(seed, dataset.manifest.content_hash, rows, users, facts)


def _mean(requests: Sequence[Request], slates: Sequence[Slate]) -> float:
    return float(precisions(requests, slates, K).mean())


def _by_weight(mixture: Mixture, states: Sequence[State]) -> dict[float, list[Slate]]:
    """The lists for each share of the first part; candidates are found once for all of them."""
    found: dict[float, list[Slate]] = {weight: [] for weight in WEIGHTS}
    for _, candidates in mixture.candidates(states, 2 * K, exclude_seen=True):
        rows = len(candidates.items_BC)
        for weight, slates in found.items():
            top = candidates.top(np.tile([weight, 1 - weight], (rows, 1)), K)
            slates += [slate for slate, _ in top]
    return found


def _words_first(system: Any, served: Sequence[tuple[State, Tiers]]) -> list[Slate]:
    """The lists in which items that the words of a request name come first, as `Recommender` makes them."""

    states, tiers = zip(*served, strict=True)

    def decode(rows: Sequence[int], k: int, wishes: Sequence[Filters]) -> list[Certified]:
        slates = system.recommend([states[row] for row in rows], k, exclude_seen=True, filters=wishes)
        return [Certified(slate, False, None) for slate in slates]

    return [one.slate for one in in_tiers(decode, K, [None] * len(states), tiers)]


def _read(
    requests: Sequence[Request], dataset: Dataset
) -> tuple[list[Resolved], list[Filters], list[tuple[State, Tiers]]]:
    """The requests as every system meets them, the filters that a reader of wishes makes of them, and what is served
    for them: the state, and the items that their words name."""
    items, attributes = dataset.item_list, Attributes.of(dataset.item_list)
    kind = Signal.parse(dataset.manifest.click).kind
    liked: dict[str, Any] = {"feedback": kind, "value": 5.0 if kind == "rating" else None}
    read = [resolve_prompt(request.text, items, **liked) for request in requests]
    wishing = [resolve_prompt(request.text, items, wishes=True, **liked) for request in requests]
    lookup = Lookup(items)
    served = []
    for request, own in zip(requests, wishing, strict=True):
        may_N = np.ones(len(items), dtype=np.bool_)
        may_N[list(own.state.seen())] = False
        served.append((own.state, lookup.find(request.text, own, may_N)[1]))
    return read, [wished(own.wishes, attributes) or Filters() for own in wishing], served


def _reading_facts(
    requests: Sequence[Request], readings: Sequence[Resolved], filters: Sequence[Filters]
) -> dict[str, float]:
    """Shares of the requests in which a title was found, and a wish."""
    pairs = zip(requests, readings, filters, strict=True)
    named = [(bool(reading.matches), wish != Filters(), request.kind) for request, reading, wish in pairs]
    about = [(title, wish) for title, wish, kind in named if kind in ("like", "cheaper")]
    free = [(title, wish) for title, wish, kind in named if kind not in ("like", "cheaper")]
    return {
        "title found where one is named": float(np.mean([title for title, _ in about])) if about else 1.0,
        "title found where none is named": float(np.mean([title for title, _ in free])) if free else 0.0,
        "filter read": float(np.mean([wish for _, wish, _ in named])),
    }


def _answer(found: Pooled) -> Answer:
    measures = [m for m in (OVERALL, *KINDS) if all(m in one.users and one.users[m] for one in found.seeds)]
    values = {side: {m: found.rows(side, m) for m in measures} for side in found.sides}
    tables = {
        m: Comparison.of(m, {side: {m: row[m]} for side, row in values.items()}, reference=BASE, users=found.users(m))
        for m in measures
    }
    cells = {side: {m: tables[m].cells[side][m] for m in measures} for side in values}
    many = sum(len(one.users[OVERALL]) for one in found.seeds)
    title = f"Precision@{K} on {many} free requests"
    note = "Of at most as many places as there are answers. Requests about the same thing are drawn together."
    table = Comparison(title, cells, BASE, note=note)
    figures = {"table": table.to_json(), "facts": {str(one.seed): one.facts for one in found.seeds}}
    overall = table.select([OVERALL])
    return Answer("Free requests", figures, (table,), plots={"precision": dataclasses.replace(overall, title=title)})
