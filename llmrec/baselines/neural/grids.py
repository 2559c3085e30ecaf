"""What is chosen from for each neural baseline; the most promising settings first, as a budget may cut the rest."""

from __future__ import annotations

from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, SASRecSettings

SASREC = (
    SASRecSettings(),
    SASRecSettings(hidden=128, dropout=0.6),
    SASRecSettings(layers=1, history=10),
    SASRecSettings(hidden=32, dropout=0.2),
    SASRecSettings(hidden=128, layers=1, weight_decay=0.1),
)

SASREC_TEXT = tuple(
    SASRecSettings(text_dims=dims, hidden=hidden, weight_decay=decay)
    for dims, hidden, decay in ((64, 64, 0.0), (128, 128, 0.1))
)

GRU4REC = (
    GRU4RecSettings(),
    GRU4RecSettings(hidden=128, dropout=0.6),
    GRU4RecSettings(history=10),
    GRU4RecSettings(hidden=128, weight_decay=0.1),
)

NCF = (
    NCFSettings(),
    NCFSettings(hidden=32, mlp=(32, 16)),
    NCFSettings(history=10),
    NCFSettings(negatives=16),
)
