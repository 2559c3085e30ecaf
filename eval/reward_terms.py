"""What do the terms of the reward say of plain slates of a real data set, and what do they cost?

    LLMREC_DATA=FOLDER python eval/reward_terms.py --data movielens-100k --importer movielens

Slates of ten for test states: the most popular items, random ones, and the user's own last ten. A term's mean is that
of the slate's sum for list-level terms and of an item otherwise. Milliseconds: 256 slates, the best of 15 rounds.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from llmrec.cli.guard import guarded
from llmrec.config import RewardSettings
from llmrec.dataset.examples import examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.rewards import RewardContext, RewardTerm, combine, is_list_level, make_terms
from llmrec.seeding import numpy_stream
from llmrec.types import Feedback, FloatArray, IntArray, State

PLACES, TIMED, ROUNDS = 10, 256, 15
NAMES = (
    "diversity",
    "coherence",
    "calibration",
    "novelty",
    "long_tail",
    "repetition",
    "category_repetition",
    "exposure",
    "next_item",
    "next_item_rank",
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="folder of the data set under LLMREC_DATA")
    parser.add_argument("--importer", default="movielens")
    parser.add_argument("--states", type=int, default=2000)
    parser.add_argument("--terms", nargs="+", default=NAMES, help="names of terms")
    parser.add_argument("--group-by", default="category", help="category or brand")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def slates_of(states: list[State], popularity_N: FloatArray, seed: int) -> dict[str, IntArray]:
    random = numpy_stream(seed, "reward terms", "random")
    popular_K = np.argsort(-popularity_N, kind="stable")[:PLACES]
    past = [[i.item for i in state.history][-PLACES:] for state in states]
    return {
        "most popular": np.tile(popular_K, (len(states), 1)),
        "random": np.stack([random.choice(len(popularity_N), PLACES, replace=False) for _ in states]),
        "own last ten": np.array([items + [-1] * (PLACES - len(items)) for items in past]),
    }


def mean_of(term: RewardTerm, states: list[State], items_BK: IntArray) -> float:
    nothing = np.zeros(items_BK.shape)
    value_BK = combine([term], states, items_BK, Feedback(nothing, nothing)).terms[term.name]
    return float(value_BK.sum(axis=1).mean() if is_list_level(term) else value_BK[items_BK >= 0].mean())


def milliseconds(term: RewardTerm, states: list[State], items_BK: IntArray) -> float:
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        mean_of(term, states[:TIMED], items_BK[:TIMED])
        spent.append(time.perf_counter() - start)
    return 1e3 * min(spent)


def main() -> None:
    options = parse()
    dataset = import_dataset(options.importer, Path(os.environ.get("LLMREC_DATA", "../shared/data")) / options.data)
    split = make_split(dataset)
    tests = examples(dataset, split, "test", limit=options.states, seed=options.seed)
    context = RewardContext.of(dataset, split.train, targets=tests, slate_size=PLACES)
    settings = RewardSettings(terms=dict.fromkeys(options.terms, 1.0), group_by=options.group_by)
    states = [example.state for example in tests]
    slates = slates_of(states, np.asarray(context.popularity_N), options.seed)
    print(f"{dataset.manifest.name}, content hash {dataset.manifest.content_hash[:12]}, {len(states)} states")
    print("".join(f"{name:>21}" for name in ("term", *slates, "milliseconds")))
    for term in make_terms(settings, context):
        figures = [f"{mean_of(term, states, items_BK):.4f}" for items_BK in slates.values()]
        cost = f"{milliseconds(term, states, slates['random']):.2f}"
        print("".join(f"{text:>21}" for text in (term.name, *figures, cost)))


if __name__ == "__main__":
    guarded(main)()
