"""The reward of a batch: feedback from a behaviour model, then the terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from llmrec.config import RewardSettings
from llmrec.errors import ConfigError, DataError
from llmrec.rewards.feedback import ClickReward, ConversionReward
from llmrec.rewards.term import Behaviour, Term, combine, compares, is_list_level, needs_target
from llmrec.simulator.ensemble import slate_doubt
from llmrec.simulator.feedback import common_uniforms, expected_feedback, lucks, simulate_feedback
from llmrec.text.objectives import LEVELS, heard
from llmrec.types import Feedback, FloatArray, IntArray, Reward, State


class RewardFunction:
    """Reward of items or slates under a behaviour model.

    Args:
        behaviour: Predicts clicks and conversions; with `settings.pessimism` it must answer `by_member` too.
        settings: Weights of click and conversion; `sampled` draws 0 or 1 in place of probabilities; `pessimism` takes
            so many standard deviations over the members off the value of the slate, or of each draw
            (`simulator.ensemble.slate_doubt`).
        seed: Seed of the draws: common random numbers by user, step and place.
        terms: Further terms beside click and conversion; `reward_function` makes those that `settings` names.
        slate: What a row of `items_BK` is: one slate of K places, or (the default) K independent draws or candidates,
            each a slate of one item. List-level terms are refused for the latter, and terms that compare draws for
            slates.

    Where `settings.stated` names terms, a state whose text asks for weights (`text.objectives`) is rewarded by these,
    and is otherwise taken as if it said nothing of them.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        settings: RewardSettings,
        seed: int = 0,
        terms: Sequence[Term] = (),
        *,
        slate: bool = False,
    ) -> None:
        _check(behaviour, settings)
        self.behaviour, self.settings, self.seed, self.slate = behaviour, settings, seed, slate
        self.own_terms = tuple(terms)
        self.terms: tuple[Term, ...] = (
            ClickReward(settings.click),
            ConversionReward(settings.conversion),
            *self.own_terms,
        )
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(f"Two reward terms share a name ({', '.join(names)}); name each apart.")
        left_out = {*settings.terms, *settings.custom_names()} - set(names)
        if left_out:
            raise ConfigError(
                f"Reward {min(left_out)!r} is configured but was not built; use rewards.reward_function."
            )
        listed = [term.name for term in self.terms if is_list_level(term)]
        if listed and not slate:
            raise ConfigError(
                f"Reward {listed[0]!r} is defined on a slate, but here the items of a row are independent of one "
                "another; use a trainer of slates (slate=True) or remove the term."
            )

        comparing = [term.name for term in self.terms if compares(term)]
        if comparing and slate:
            raise ConfigError(
                f"Reward {comparing[0]!r} compares independent draws of a state, but here a row is one slate; remove "
                "the term, or draw single items."
            )

    def __call__(self, states: Sequence[State], items_BK: IntArray, step: int = 0) -> Reward:
        """Rewards of the items `items_BK` (-1: none, worth 0); `step` names the draw where `sampled` is set."""
        items_BK = np.asarray(items_BK)
        plain, asked_B1 = self._heard(states)
        feedback = self._feedback(plain, items_BK, step, asked_B1)
        return combine(self.terms, plain, items_BK, feedback, asked_B1)

    def _heard(self, states: Sequence[State]) -> tuple[Sequence[State], dict[str, FloatArray]]:
        """The states without their lines, and by term the share of its weight that each state asks for, (B, 1)."""
        names = self.settings.stated
        if not names:
            return states, {}
        pairs = [heard(state, names) for state in states]
        full = dict.fromkeys(names, LEVELS - 1)
        levels_BO = np.array([[(levels or full)[name] for name in names] for _, levels in pairs])
        share_OB1 = (levels_BO.reshape(-1, len(names)).T / (LEVELS - 1))[:, :, None]
        return [plain for plain, _ in pairs], dict(zip(names, share_OB1, strict=True))

    def for_ranking(self) -> RewardFunction:
        """The part of the reward by which candidates can be ranked one by one, at any state.

        Terms of whole slates and of groups of draws are left out, and so are terms that know the logged next item: a
        reranker that read them would be told the answer.
        """
        kept = [term for term in self.own_terms if not (_of_many(term) or needs_target(term))]
        return RewardFunction(self.behaviour, replace(self.settings, terms={}, custom=()), self.seed, kept)

    def candidates(self, states: Sequence[State], items_BM: IntArray, step: int = 0) -> FloatArray:
        """What each of M items is expected to earn by itself, (B, M); 0 for none (-1).

        Nothing is drawn, and terms of whole slates and of groups of draws are left out; `step` has no effect.
        """
        kept = [term for term in self.own_terms if not _of_many(term)]
        settings = replace(self.settings, terms={}, custom=(), sampled=False)
        return RewardFunction(self.behaviour, settings, self.seed, kept)(states, items_BM).total_BK

    def _feedback(
        self, states: Sequence[State], items_BK: IntArray, step: int, asked_B1: Mapping[str, FloatArray]
    ) -> Feedback:
        prediction = self.behaviour.predict(states, items_BK)
        if prediction.click_BK.shape != items_BK.shape:
            raise DataError(
                f"The behaviour model predicts shape {prediction.click_BK.shape} for items of shape {items_BK.shape}."
            )
        if self.settings.sampled:
            # Common random numbers: two policies in the same state at the same step meet the same luck, so that their
            # difference is of what they show.
            drawn = common_uniforms(self.seed, lucks(states), step, items_BK.shape[1])
            return simulate_feedback(prediction, drawn)
        feedback = expected_feedback(prediction)
        if not self.settings.pessimism:
            return feedback
        # A lower confidence bound: where members disagree the policy has left what the log can tell, which is where
        # reinforcement learning against a simulator finds its faults.
        click_EBK, joint_EBK = self.behaviour.by_member(states, items_BK)  # type: ignore[attr-defined]
        own = self.settings
        click, conversion = (
            weight * asked_B1.get(name, 1.0)
            for name, weight in (("click", own.click), ("conversion", own.conversion))
        )
        doubt = slate_doubt(click_EBK, joint_EBK, click=click, conversion=conversion, slate=self.slate)
        return Feedback(
            feedback.click_BK - own.pessimism * doubt.click_BK,
            feedback.conversion_BK - own.pessimism * doubt.conversion_BK,
        )


def _of_many(term: Term) -> bool:
    """Whether a term says nothing of an item by itself."""
    return is_list_level(term) or compares(term)


def _check(behaviour: Behaviour, settings: RewardSettings) -> None:
    if settings.pessimism < 0:
        raise ConfigError(f"Key 'reward.pessimism' is {settings.pessimism}, but it must be 0 or more.")
    if settings.pessimism and not hasattr(behaviour, "by_member"):
        raise ConfigError("Key 'reward.pessimism' needs an ensemble; set simulator.members to 2 or more.")
    if settings.pessimism and settings.sampled:
        raise ConfigError("Keys 'reward.pessimism' and 'reward.sampled' exclude each other; unset one.")
