"""Neural recommenders: SASRec, GRU4Rec and neural collaborative filtering.

The settings can be read without torch; the recommenders are in `llmrec.baselines.neural.recommenders`.
"""

from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, NeuralSettings, SASRecSettings

__all__ = ["GRU4RecSettings", "NCFSettings", "NeuralSettings", "SASRecSettings"]
