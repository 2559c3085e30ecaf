"""From settings to terms: what each term is built from, and one sentence where that is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl

from llmrec.catalogue.identifiers.embeddings import text_embedding
from llmrec.config import RewardSettings
from llmrec.config.reward import check_reward
from llmrec.dataset.examples import target_events
from llmrec.dataset.history import indexed
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.rewards.custom import custom_term, load_custom
from llmrec.rewards.feedback import (
    RatingReward,
    RevenueReward,
    SatisfactionReward,
    Valued,
    ValueEnsemble,
    WatchTimeReward,
)
from llmrec.rewards.function import RewardFunction
from llmrec.rewards.items import (
    CategoryRepetitionReward,
    ExposureReward,
    LongTailReward,
    NoveltyReward,
    RepetitionReward,
)
from llmrec.rewards.margin import MarginReward
from llmrec.rewards.next_item import NextItemRankReward, NextItemReward
from llmrec.rewards.past import Categories
from llmrec.rewards.slate import (
    CalibrationReward,
    CategoryLikeness,
    CoherenceReward,
    DiversityReward,
    Likeness,
    VectorLikeness,
)
from llmrec.rewards.term import Behaviour, RewardTerm, Term, needs_target
from llmrec.rewards.trl import Written
from llmrec.types import Example, FloatArray, IntArray, Item, State

TEXT = 32
"""Length of the text vectors that `diversity` and `coherence` compare items by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardContext:
    """What terms are built from; only what the configured terms read has to be there.

    Attributes:
        items: The catalogue, in the order of item indices.
        popularity_N: Clicks of each item in the training period.
        exposure_N: How often each item was shown in the training period; None where no impressions are logged.
        targets: States of rollouts with what was chosen in them.
        vector_ND: An embedding of each item; where there is none the items' texts are embedded (TF-IDF and SVD).
        ratings: Expects ratings, a `ValueModel` or an ensemble of models that have learnt values.
        rating_range: Lowest and highest possible rating.
        seconds: Expects seconds watched once clicked, likewise.
        catalogue: Titles and token ids, for functions in TRL's signature.
        prompts: States to prompts, for the same.
        slate_size: K, the places of a slate that is one action; 1 where items are drawn independently.
    """

    items: Sequence[Item]
    popularity_N: FloatArray | None = None
    exposure_N: FloatArray | None = None
    targets: Sequence[Example] = ()
    vector_ND: FloatArray | None = None
    ratings: Any = None
    rating_range: tuple[float, float] | None = None
    seconds: Any = None
    catalogue: Written | None = None
    prompts: Callable[[Sequence[State]], Sequence[str]] | None = None
    slate_size: int = 1

    @classmethod
    def of(cls, dataset: Dataset, events: pl.DataFrame, **more: Any) -> Self:
        """Items, counts and the range of ratings from the training events of a data set; `more` as the attributes."""
        known = indexed(dataset, events)
        clicked = target_events(dataset, known).filter(pl.col("click"))
        shown = known.filter(pl.col("kind") == "impression")
        rated = events.filter(pl.col("kind") == "rating")["value"].drop_nulls()
        facts: dict[str, Any] = {
            "popularity_N": _counts(clicked["item"], dataset.n_items),
            "exposure_N": _counts(shown["item"], dataset.n_items) if shown.height else None,
            "rating_range": (rated.min(), rated.max()) if rated.n_unique() > 1 else None,
        }
        return cls(items=dataset.item_list, **(facts | more))


def _counts(item_M: pl.Series, n_items: int) -> FloatArray:
    return np.bincount(item_M.to_numpy(), minlength=n_items).astype(np.float64)


Builder = Callable[[RewardSettings, RewardContext, float], Term]


def make_terms(settings: RewardSettings, context: RewardContext) -> tuple[Term, ...]:
    """The terms of `settings.terms`, in their order, and then those of `settings.custom` that it gives no weight.

    Raises:
        ConfigError: An unknown name, a list-level term where slates have one item, a custom function that cannot be
            imported, or a term for which the context lacks something.
        DataError: Items or counts from which a term cannot be built.
    """
    check_reward(settings, context.slate_size)
    custom = dict(zip(settings.custom_names(), settings.custom, strict=True))
    weights = {**settings.terms, **{name: 1.0 for name in custom if name not in settings.terms}}
    terms: list[Term] = []
    for name, weight in weights.items():
        if name in custom:
            function = custom[name]
            terms.append(custom_term(function, weight, context.catalogue, context.prompts, context.targets))
        else:
            terms.append(TERMS[name].build(settings, context, weight))
    return tuple(terms)


def reward_function(
    settings: RewardSettings, behaviour: Behaviour, context: RewardContext, seed: int = 0
) -> RewardFunction:
    """The reward of a run: clicks and conversions under `behaviour`, and `make_terms`, whose errors it raises."""
    terms = make_terms(settings, context)
    return RewardFunction(behaviour, settings, seed, terms, slate=context.slate_size > 1)


def _missing(name: str, what: str, mend: str) -> ConfigError:
    return ConfigError(f"Key 'reward.terms.{name}' needs {what}; {mend} or remove the term.")


def _valued(model: Any, name: str, what: str, pessimism: float) -> Valued:
    if hasattr(model, "expected_value"):
        return model  # type: ignore[no-any-return]
    if hasattr(model, "members"):
        return ValueEnsemble(tuple(model.members), pessimism)
    raise _missing(name, f"a model of {what}", f"use a data set whose events have {what} as their value")


def _groups(settings: RewardSettings, context: RewardContext, name: str) -> Categories:
    return Categories.of(context.items, name, settings.group_by)


def _popularity(context: RewardContext, name: str) -> FloatArray:
    if context.popularity_N is None:
        raise _missing(name, "the items' clicks in the training period", "give RewardContext.popularity_N")
    return context.popularity_N


def _rating(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return RatingReward(_valued(context.ratings, "rating", "ratings", settings.pessimism), weight)


def _satisfaction(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    if context.ratings is None:
        return SatisfactionReward(weight=weight)
    if context.rating_range is None:
        raise _missing("satisfaction", "the range of the ratings", "give RewardContext.rating_range")
    ratings = _valued(context.ratings, "satisfaction", "ratings", settings.pessimism)
    return SatisfactionReward(ratings, *context.rating_range, weight=weight)


def _watch_time(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return WatchTimeReward(_valued(context.seconds, "watch_time", "seconds watched", settings.pessimism), weight)


def _revenue(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return RevenueReward.of(context.items, weight)


def _next_item(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    if not context.targets:
        raise _missing("next_item", "states with logged targets", "start rollouts from logged examples")
    return NextItemReward.of(context.targets, weight)


def _next_item_rank(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    if not context.targets:
        raise _missing("next_item_rank", "states with logged targets", "start rollouts from logged examples")
    return NextItemRankReward.of(context.targets, slate=context.slate_size > 1, weight=weight)


def _margin(settings: RewardSettings, context: RewardContext, weight: float) -> Term:
    return MarginReward(weight)


def _diversity(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return DiversityReward(_likeness(settings, context, "diversity"), weight)


def _coherence(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return CoherenceReward(_likeness(settings, context, "coherence"), weight)


def _likeness(settings: RewardSettings, context: RewardContext, name: str) -> Likeness:
    if settings.diversity_by == "group":
        return CategoryLikeness(_groups(settings, context, name))
    vector_ND = context.vector_ND
    return VectorLikeness(text_embedding(context.items, TEXT, seed=0) if vector_ND is None else vector_ND)


def _calibration(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return CalibrationReward(_groups(settings, context, "calibration"), settings.calibration_alpha, weight)


def _novelty(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return NoveltyReward.of(_popularity(context, "novelty"), weight)


def _long_tail(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return LongTailReward.of(_popularity(context, "long_tail"), settings.head_share, weight)


def _repetition(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    return RepetitionReward(weight)


def _category_repetition(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    first_N = _groups(settings, context, "category_repetition").codes_NJ[:, 0]
    return CategoryRepetitionReward(first_N, settings.repetition_window, weight)


def _exposure(settings: RewardSettings, context: RewardContext, weight: float) -> RewardTerm:
    popularity_N = _popularity(context, "exposure")
    if settings.exposure_target == "merit" and context.exposure_N is None:
        raise _missing(
            "exposure",
            "logged impressions for the target 'merit'",
            "set reward.exposure_target to catalogue or equal",
        )
    first_N = _groups(settings, context, "exposure").codes_NJ[:, 0]
    shown_N = popularity_N if context.exposure_N is None else context.exposure_N
    return ExposureReward.of(
        first_N.tolist(), shown_N, _target(settings.exposure_target, first_N, popularity_N), weight
    )


def _target(target: str, group_N: IntArray, popularity_N: FloatArray) -> FloatArray:
    if target == "merit":
        return popularity_N
    return np.ones(len(group_N)) if target == "catalogue" else np.asarray(1.0 / np.bincount(group_N)[group_N])


@dataclass(frozen=True, slots=True)
class Known:
    """A term that has a name in the configuration: its class, on which its marks stand, and what builds it."""

    kind: type[Any]
    build: Builder


TERMS: Mapping[str, Known] = {
    "rating": Known(RatingReward, _rating),
    "satisfaction": Known(SatisfactionReward, _satisfaction),
    "watch_time": Known(WatchTimeReward, _watch_time),
    "revenue": Known(RevenueReward, _revenue),
    "next_item": Known(NextItemReward, _next_item),
    "next_item_rank": Known(NextItemRankReward, _next_item_rank),
    "diversity": Known(DiversityReward, _diversity),
    "coherence": Known(CoherenceReward, _coherence),
    "calibration": Known(CalibrationReward, _calibration),
    "novelty": Known(NoveltyReward, _novelty),
    "long_tail": Known(LongTailReward, _long_tail),
    "repetition": Known(RepetitionReward, _repetition),
    "category_repetition": Known(CategoryRepetitionReward, _category_repetition),
    "exposure": Known(ExposureReward, _exposure),
    "margin": Known(MarginReward, _margin),
}


def reading_next(settings: RewardSettings) -> tuple[str, ...]:
    """Names of the configured terms that read the logged next item, own ones among them, as the terms say themselves.

    Raises:
        ConfigError: an own function that cannot be imported, or that only a file names.
    """
    own = zip(settings.custom_names(), settings.custom, strict=True)
    marked = {name: load_custom(spec) for name, spec in own}
    known = {name: TERMS[name].kind for name in settings.terms if name in TERMS}
    return tuple(name for name, term in {**known, **marked}.items() if needs_target(term))


def without(settings: RewardSettings, names: Sequence[str]) -> RewardSettings:
    """`settings` without the terms of these names, own ones among them."""
    own = zip(settings.custom_names(), settings.custom, strict=True)
    return replace(
        settings,
        terms={name: weight for name, weight in settings.terms.items() if name not in names},
        custom=tuple(spec for name, spec in own if name not in names),
    )
