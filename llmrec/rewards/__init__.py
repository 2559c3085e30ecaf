"""Feedback becomes reward: named terms, their weights, their sum.

reward = click * P(click) + conversion * P(click and conversion) + weight * term + ..., each term kept apart so that a
gain in clicks can be told from a gain in sales or in diversity. Example: with weights 1 and 3, an item of P(click) =
0.2 and P(conversion | click) = 0.5 is worth 1 * 0.2 + 3 * 0.1 = 0.5. More is better in every term.

    reward = reward_function(settings, ensemble, RewardContext.of(dataset, split.train, slate_size=5), seed=0)
    reward(states, items_BK).total_BK  # one value for each place: dense credit
"""

from llmrec.rewards.custom import custom_digest, custom_term, load_custom
from llmrec.rewards.feedback import (
    ClickReward,
    ConversionReward,
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
from llmrec.rewards.next_item import LoggedNext, NextItemRankReward, NextItemReward
from llmrec.rewards.past import Categories
from llmrec.rewards.registry import RewardContext, make_terms, reading_next, reward_function, without
from llmrec.rewards.slate import CalibrationReward, CategoryLikeness, CoherenceReward, DiversityReward, VectorLikeness
from llmrec.rewards.term import (
    Behaviour,
    ComparingTerm,
    CustomReward,
    RewardTerm,
    Term,
    combine,
    compares,
    is_causal,
    is_list_level,
    needs_target,
)
from llmrec.rewards.trl import CheckedReward, TRLReward, TRLTerm

__all__ = [
    "Behaviour",
    "CalibrationReward",
    "Categories",
    "CategoryLikeness",
    "CategoryRepetitionReward",
    "CheckedReward",
    "ClickReward",
    "CoherenceReward",
    "ComparingTerm",
    "ConversionReward",
    "CustomReward",
    "DiversityReward",
    "ExposureReward",
    "LoggedNext",
    "LongTailReward",
    "MarginReward",
    "NextItemRankReward",
    "NextItemReward",
    "NoveltyReward",
    "RatingReward",
    "RepetitionReward",
    "RevenueReward",
    "RewardContext",
    "RewardFunction",
    "RewardTerm",
    "SatisfactionReward",
    "TRLReward",
    "TRLTerm",
    "Term",
    "ValueEnsemble",
    "Valued",
    "VectorLikeness",
    "WatchTimeReward",
    "combine",
    "compares",
    "custom_digest",
    "custom_term",
    "is_causal",
    "is_list_level",
    "load_custom",
    "make_terms",
    "needs_target",
    "reading_next",
    "reward_function",
    "without",
]
