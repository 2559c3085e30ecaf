"""llmrec: a language model as a recommender, improved by reinforcement learning."""

__version__ = "0.1.0"
