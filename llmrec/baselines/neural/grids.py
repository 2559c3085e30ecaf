"""What is chosen from for each neural baseline; the most promising settings first, as a budget may cut the rest."""

from __future__ import annotations

from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, SASRecSettings

SASREC = (
    SASRecSettings(),
    SASRecSettings(hidden=128, dropout=0.6),
    SASRecSettings(layers=1, history=10),
    SASRecSettings(hidden=32, dropout=0.2),
    SASRecSettings(weight_decay=0.1, learning_rate=2e-3),
)

SASREC_TEXT = (
    SASRecSettings(text_dims=64),
    SASRecSettings(text_dims=128, hidden=128, dropout=0.6),
    SASRecSettings(text_dims=64, weight_decay=0.1),
)

GRU4REC = (
    GRU4RecSettings(),
    GRU4RecSettings(hidden=128, dropout=0.6, learning_rate=5e-3),
    GRU4RecSettings(history=10),
    GRU4RecSettings(hidden=32, dropout=0.2),
    GRU4RecSettings(weight_decay=0.1, learning_rate=5e-3),
)

NCF = (
    NCFSettings(),
    NCFSettings(history=10),
    NCFSettings(hidden=32, mlp=(32, 16)),
    NCFSettings(negatives=16),
)
