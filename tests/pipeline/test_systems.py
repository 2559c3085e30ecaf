"""The comparison's own systems, on answers that are known beforehand."""

import numpy as np

from llmrec.config import RewardSettings, WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.evaluation.simulated import simulate
from llmrec.pipeline.systems import Greedy, OptimumRanker, Reranked, TruthJudge
from llmrec.rewards import RewardFunction
from llmrec.types import Interaction, Prediction, Slate, State


class Fixed:
    """P(click) of item i is (i + 1) / 10 for everybody; nothing converts."""

    def predict(self, states, items_BK):
        items_BK = np.asarray(items_BK)
        return Prediction((np.maximum(items_BK, 0) + 1) / 10, np.zeros(items_BK.shape))


class Ascending:
    """Recommends items 0, 1, 2, ..."""

    def recommend(self, states, k, *, seen=None):
        return [Slate(tuple(range(k)), tuple(-float(i) for i in range(k))) for _ in states]


REWARD = RewardFunction(Fixed(), RewardSettings())
STATES = [State(user_id="a"), State(user_id="b", history=(Interaction(7, "click", 1),))]


def test_reranking_reorders_the_first_items_only():
    slates = Reranked(Ascending(), REWARD, 8, depth=4).recommend(STATES, 2)
    assert [s.items_K for s in slates] == [(3, 2), (3, 2)]


def test_reranking_a_catalogue_smaller_than_its_depth_takes_all_of_it():
    slates = Reranked(Ascending(), REWARD, 3).recommend(STATES, 2)
    assert [s.items_K for s in slates] == [(2, 1), (2, 1)]


def test_greedy_takes_the_best_of_the_catalogue_and_leaves_out_what_was_seen():
    allowed = Greedy(REWARD, 8, "allow").recommend(STATES, 3)
    assert [s.items_K for s in allowed] == [(7, 6, 5), (7, 6, 5)]
    excluded = Greedy(REWARD, 8, "exclude").recommend(STATES, 3, seen=[np.array([6]), np.array([5])])
    assert [s.items_K for s in excluded] == [(7, 5, 4), (6, 4, 3)]


def test_nothing_beats_the_true_optimum_in_truth():
    world = generate_world(WorldConfig(users=20, items=30, slates_per_user=2), seed=5)
    states = [State(user_id=u) for u in world.dataset.users["user_id"].to_list()]
    best = simulate(OptimumRanker(world, 1.0, 3.0).recommend(states, 5), states, TruthJudge(world))
    other = simulate(Ascending().recommend(states, 5), states, TruthJudge(world))
    value_BN = world.value_BN([s.user_id for s in states])
    assert np.allclose(best.value_B, np.sort(value_BN, axis=1)[:, -5:].mean(axis=1))
    assert (best.value_B >= other.value_B - 1e-12).all()
