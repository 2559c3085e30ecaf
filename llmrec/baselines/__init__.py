"""Recommenders without a language model, to stand in the same table as the policy."""

from llmrec.baselines.bandits import LinearThompson, LinUCB, LinUCBSettings, ThompsonSettings
from llmrec.baselines.base import FittableRanker, ScoreRecommender
from llmrec.baselines.covisitation import Covisitation, CovisitationSettings
from llmrec.baselines.ease import EASE, EASESettings
from llmrec.baselines.factors import ALS, BPR, ALSSettings, BPRSettings
from llmrec.baselines.likeness import ContentProfile, ContentSettings, EmbeddingProfile, EmbeddingSettings
from llmrec.baselines.neighbours import ItemKNN, ItemKNNSettings, UserKNN, UserKNNSettings
from llmrec.baselines.popularity import Popularity, Random, RecentPopularity, RecentPopularitySettings
from llmrec.baselines.registry import BASELINES, BaselineSpec, baseline
from llmrec.baselines.selection import Selection, TriedSettings, select

__all__ = [
    "ALS",
    "BASELINES",
    "BPR",
    "EASE",
    "ALSSettings",
    "BPRSettings",
    "BaselineSpec",
    "ContentProfile",
    "ContentSettings",
    "Covisitation",
    "CovisitationSettings",
    "EASESettings",
    "EmbeddingProfile",
    "EmbeddingSettings",
    "FittableRanker",
    "ItemKNN",
    "ItemKNNSettings",
    "LinUCB",
    "LinUCBSettings",
    "LinearThompson",
    "Popularity",
    "Random",
    "RecentPopularity",
    "RecentPopularitySettings",
    "ScoreRecommender",
    "Selection",
    "ThompsonSettings",
    "TriedSettings",
    "UserKNN",
    "UserKNNSettings",
    "baseline",
    "select",
]
