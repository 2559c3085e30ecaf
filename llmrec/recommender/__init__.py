"""Recommendations from a run folder or a Hub repository, in three lines.

from llmrec import Recommender
recommender = Recommender.load("runs/ml")
print(recommender.recommend(prompt="I liked Fargo and Se7en", k=5))
"""

from llmrec.recommender.answers import Recommendation, RecommendedItem, Request
from llmrec.recommender.recommender import UNRELATED, Recommender

__all__ = ["UNRELATED", "Recommendation", "RecommendedItem", "Recommender", "Request"]
