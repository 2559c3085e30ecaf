"""llmrec: a language model as a recommender, improved by reinforcement learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmrec.version import __version__

if TYPE_CHECKING:
    from llmrec.estimator import LanguageModelRecommender
    from llmrec.recommender import Recommender

__all__ = ["LanguageModelRecommender", "Recommender", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Recommender":  # imported on first use: torch takes seconds
        from llmrec.recommender import Recommender

        return Recommender
    if name == "LanguageModelRecommender":
        from llmrec.estimator import LanguageModelRecommender

        return LanguageModelRecommender
    raise AttributeError(f"module 'llmrec' has no attribute {name!r}")
