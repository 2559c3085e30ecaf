"""Recommenders without a language model, to stand in the same table as the policy."""

from llmrec.baselines.base import Recommender, ScoreRecommender
from llmrec.baselines.covisitation import Covisitation, CovisitationSettings
from llmrec.baselines.popularity import Popularity
from llmrec.baselines.random import Random

__all__ = ["Covisitation", "CovisitationSettings", "Popularity", "Random", "Recommender", "ScoreRecommender"]
