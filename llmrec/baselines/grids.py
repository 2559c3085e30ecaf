"""What is chosen from for each baseline; the most promising settings first, as a budget may cut the rest."""

from __future__ import annotations

import itertools

from llmrec.baselines.bandits import BanditModel, LinUCBSettings, ThompsonSettings
from llmrec.baselines.covisitation import FIXED_GRID, CovisitationSettings
from llmrec.baselines.ease import EASESettings
from llmrec.baselines.factors import ALSSettings, BPRSettings
from llmrec.baselines.likeness import ContentSettings, EmbeddingSettings
from llmrec.baselines.neighbours import ItemKNNSettings, UserKNNSettings, UserWeighting, Weighting
from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, SASRecSettings
from llmrec.baselines.popularity import GroupPopularitySettings, RecentPopularitySettings

ITEM_WEIGHTINGS: tuple[Weighting, ...] = ("cosine", "tfidf", "bm25")
USER_WEIGHTINGS: tuple[UserWeighting, ...] = ("cosine", "tfidf")
BANDIT_MODELS: tuple[BanditModel, ...] = ("joint", "disjoint")

RECENT_POPULARITY = tuple(RecentPopularitySettings(half_life=days) for days in (30, 1, 7, 90, 365))

GROUP_POPULARITY = tuple(
    GroupPopularitySettings(attributes=attributes, smoothing=smoothing)
    for attributes, smoothing in itertools.product(
        ((), ("age", "gender"), ("age",), ("gender",), ("occupation",)), (300.0, 3000.0, 30.0)
    )
)

COUNTS: tuple[CovisitationSettings, ...] = tuple(option for option in FIXED_GRID if not option.text)

CONTENT = tuple(
    ContentSettings(history_decay=decay, profile=profile, categories=categories)
    for categories, profile, decay in itertools.product((False, True), (0.0, 0.3), (0.8, 0.5, 0.3, 1.0))
)

EMBEDDINGS = tuple(
    EmbeddingSettings(history_decay=decay, profile=profile)
    for profile, decay in itertools.product((0.0, 0.3), (0.8, 0.5, 0.3, 1.0))
)

ITEM_KNN = tuple(
    ItemKNNSettings(k=k, shrink=shrink, weighting=weighting, history_decay=decay)
    for weighting, shrink, k, decay in itertools.product(ITEM_WEIGHTINGS, (0.0, 10.0), (100, 400), (0.8, 0.5, 1.0))
    if not (weighting == "bm25" and shrink)
)

USER_KNN = tuple(
    UserKNNSettings(k=k, shrink=shrink, weighting=weighting, history_decay=decay)
    for weighting, decay, shrink, k in itertools.product(
        USER_WEIGHTINGS, (0.8, 1.0, 0.5), (10.0, 0.0), (100, 50, 400)
    )
)

EASE = tuple(
    EASESettings(l2=l2, history_decay=decay)
    for l2, decay in itertools.product((100, 30, 300, 10, 1000), (1.0, 0.8, 0.5))
)

ALS = tuple(
    ALSSettings(factors=factors, alpha=alpha, regularization=regularization)
    for factors, alpha, regularization in itertools.product((64, 32, 128), (10.0, 2.0, 40.0), (1.0, 0.01, 10.0))
)

BPR = tuple(
    BPRSettings(factors=factors, learning_rate=rate, regularization=regularization)
    for factors, rate, regularization in itertools.product((64, 32, 128), (0.05, 0.01), (0.01, 0.001, 0.1))
)

LINUCB = tuple(
    LinUCBSettings(model=model, dims=dims, l2=l2, alpha=alpha)
    for model, dims, l2, alpha in itertools.product(BANDIT_MODELS, (16, 8), (1.0, 10.0), (0.0, 0.1, 1.0))
    if not (model == "disjoint" and dims == 16)
)

THOMPSON = tuple(
    ThompsonSettings(dims=dims, l2=l2, scale=scale)
    for dims, l2, scale in itertools.product((16, 8), (1.0, 10.0), (0.01, 0.1, 1.0))
)
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
