"""What can be known of a user: the posterior of hidden interests, given what a state shows.

The recommender that is imagined here knows the world but not the user: every item's topic, style, appeal and quality,
all parameters, the scenario, and how the log was made. Of the user it is told

- the profile's words,
- the choices in the state's history: item, click or conversion, moment,
- the moments at which the user was shown a slate, those without any click among them, which no history shows.

What it is not told is integrated over: favourites, their floors, the styles of buying, what the logging policy
believed, and which items stood on the slates beside those that were clicked. Where a history was cut to its newest
choices, what is older is unknown. Moments are drawn without regard to interests and say nothing by themselves.

The integral is taken by importance sampling. A particle is a hypothetical user (a row of a `WorldTruth` of its own)
drawn from the generator's own prior, its favourites however from a proposal that has looked at the evidence; its
weight is prior / proposal * P(profile | interests) * an unbiased estimate of P(history | interests), which leaves the
posterior exact (Andrieu and Roberts 2009, "The pseudo-marginal approach for efficient Monte Carlo computations").
The estimate draws the unseen rest of each slate among items that the particle would have passed over: but for items
that leave the catalogue when they are drawn, every draw then gives the same estimate.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from llmrec.dataset.world.scenario import Scenario
from llmrec.dataset.world.shown import ShownSlate
from llmrec.dataset.world.slates import drawer, fill
from llmrec.dataset.world.truth import (
    FAVOURITE_TOPICS,
    STYLES,
    TOPICS,
    WorldParameters,
    WorldTruth,
    clear_interests,
    click_logit,
    conversion_logit,
    examination_K,
    interests,
    logging_policy_BN,
    peopled,
    sigmoid,
    worth,
)
from llmrec.dataset.world.wording import ProfileReader, Told
from llmrec.types import BoolArray, FloatArray, IntArray

_TEMPER, _BY_PROFILE, _BLIND = 0.8, 0.15, 0.05
"""The proposal of favourites: a flattened guess of the posterior, and shares that trust only the profile, or nothing:
a guess that is wrong must not leave the truth without particles."""
_TINY = 1e-300


@dataclass(frozen=True)
class Worth:
    """What is asked of an item: weights of click and conversion, and the moment."""

    click: float
    conversion: float
    time: int


class Expected(NamedTuple):
    """Posterior means of all items' values (N,), and the particles: their values (P, N) and weights, summing to 1."""

    mean_N: FloatArray
    value_PN: FloatArray
    weight_P: FloatArray

    @property
    def effective(self) -> float:
        """Effective number of particles, 1 / sum of squared weights (Kong 1992)."""
        return float(1 / np.square(self.weight_P).sum())

    def error(self, chosen_K: IntArray) -> float:
        """Monte-Carlo standard error of the mean value of the chosen items (delta method for a ratio)."""
        value_P = self.value_PN[:, chosen_K].mean(axis=1)
        return float(np.sqrt(np.square(self.weight_P * (value_P - self.weight_P @ value_P)).sum()))


class _Guess(NamedTuple):
    """Hypothetical users: the world with them in place of its own, and their logits of click and conversion."""

    truth: WorldTruth
    click_PN: FloatArray
    buy_PN: FloatArray


class Informed:
    """The recommender that knows the world but not the user; see the module.

    Args:
        truth: The world's hidden variables; of its users nothing is read.
        parameters: The world's scales.
        scenario: The world's scenario.
        reader: Reads the world's profiles.
        tilts: For each phase of the log what it adds to the logging policy's logits (`Scenario.tilt_N`).
        slate_size: Items of a logged slate.
        position_bias: Of the log.
    """

    def __init__(
        self,
        truth: WorldTruth,
        parameters: WorldParameters,
        scenario: Scenario,
        reader: ProfileReader,
        tilts: Sequence[FloatArray | None],
        slate_size: int,
        position_bias: float,
    ) -> None:
        self.truth, self.parameters, self.scenario, self.reader = truth, parameters, scenario, reader
        self.tilts, self.look_K = tilts, examination_K(slate_size, position_bias)
        self.kinds = _Kinds.all()
        # One user of each kind, without floors; of two equal favourites the first counts as more.
        topic_FT = clear_interests(self.kinds.topic_FT, parameters)
        topic_FT[np.arange(len(topic_FT)), self.kinds.first_F] += 1e-6
        style_FY = clear_interests(self.kinds.style_FY, parameters)
        clear = dataclasses.replace(
            truth,
            topic_interest_UT=topic_FT,
            style_interest_UY=style_FY,
            buying_interest_UY=parameters.buying_correlation * style_FY,
            logged_topic_UT=topic_FT,
            logged_style_UY=style_FY,
        )
        self.clear = self._guess(clear)
        self.passed = [self._log_passed(self.clear, tilt_N) for tilt_N in tilts]

    def expect(
        self,
        profile: str,
        slates: Sequence[ShownSlate],
        worth_of: Worth,
        stream: np.random.Generator,
        particles: int,
        least: float,
        rounds: int = 16,
    ) -> Expected:
        """Posterior means of the items' values; rounds of `particles` until they are worth `least`."""
        told = self.reader.told(profile)
        share_F = self._proposal(told, slates)
        offset = self.scenario.offset(worth_of.time, self.truth.topic_N)
        logs, values = [], []
        for _ in range(rounds):
            guess, log_P = self._draw(told, share_F, stream, particles)
            logs.append(log_P + self._log_slates(guess, slates, stream))
            values.append(worth(guess.click_PN + offset, guess.buy_PN, worth_of.click, worth_of.conversion))
            weight_P = np.exp(np.concatenate(logs) - np.max(logs))
            weight_P /= weight_P.sum()
            if 1 / np.square(weight_P).sum() >= least:
                break
        value_PN = np.concatenate(values)
        return Expected(weight_P @ value_PN, value_PN, weight_P)

    def _guess(self, truth: WorldTruth) -> _Guess:
        rows, items = np.arange(len(truth.topic_interest_UT))[:, None], np.arange(truth.topic_N.size)
        logits = (of(truth, self.parameters, rows, items) for of in (click_logit, conversion_logit))
        return _Guess(truth, *logits)

    def _draw(
        self, told: Told, share_F: FloatArray, stream: np.random.Generator, count: int
    ) -> tuple[_Guess, FloatArray]:
        """Hypothetical users, and log(prior / proposal * P(profile | interests)) of each, (P,)."""
        # One uniform for all (systematic sampling): kinds come in their shares, without luck.
        rung_P = (np.arange(count) + stream.random()) / count
        kind_P = np.minimum(np.searchsorted(np.cumsum(share_F), rung_P, side="right"), len(share_F) - 1)
        topic_PT = interests(self.kinds.topic_FT[kind_P], self.parameters, stream)
        style_PY = interests(self.kinds.style_FY[kind_P], self.parameters, stream)
        # Both favourites are drawn alike, so exchanging them makes a draw given which one is the first.
        rows, first_P, second_P = np.arange(count), self.kinds.first_F[kind_P], self.kinds.second_F[kind_P]
        one_P, other_P = topic_PT[rows, first_P], topic_PT[rows, second_P]
        topic_PT[rows, first_P], topic_PT[rows, second_P] = np.maximum(one_P, other_P), np.minimum(one_P, other_P)
        profile_P = self.reader.chance_U(told, topic_PT, style_PY)
        log_P = np.log(np.maximum(profile_P, _TINY)) - np.log(share_F[kind_P])
        return self._guess(peopled(self.truth, topic_PT, style_PY, self.parameters, stream)), log_P

    def _log_slates(self, guess: _Guess, slates: Sequence[ShownSlate], stream: np.random.Generator) -> FloatArray:
        """log of an unbiased estimate of P(what the slates show | interests) for each user of the guess."""
        total_P = np.zeros(len(guess.click_PN))
        phase_S = self._phases(slates)
        for phase in sorted(set(phase_S)):
            ours = [slate for slate, own in zip(slates, phase_S, strict=True) if own == phase]
            total_P += self._log_phase(guess, ours, self.tilts[phase], stream)
        return total_P

    def _log_phase(
        self, guess: _Guess, slates: Sequence[ShownSlate], tilt_N: FloatArray | None, stream: np.random.Generator
    ) -> FloatArray:
        """The same for slates of one logging policy; rows M are users by slates."""
        users, size = len(guess.click_PN), self.look_K.size
        shown_SK, bought_SK = np.full((len(slates), size), -1), np.zeros((len(slates), size), dtype=bool)
        for row, slate in enumerate(slates):
            shown_SK[row, : len(slate.items)], bought_SK[row, : len(slate.items)] = slate.items, slate.bought
        row_M = np.repeat(np.arange(users), len(slates))
        clicked_MK = np.tile(shown_SK >= 0, (users, 1))
        count_M = clicked_MK.sum(axis=1)
        mu_PN = logging_policy_BN(guess.truth, self.parameters, np.arange(users), tilt_N)
        middle = int(np.mean([slate.time for slate in slates]))
        offset_N = self.scenario.offset(middle, self.truth.topic_N)
        passed_PN = mu_PN * (1 - self.look_K.mean() * sigmoid(guess.click_PN + offset_N))
        passed_PN /= passed_PN.sum(axis=1, keepdims=True)
        # The clicked items first, then the unseen rest, drawn one after another from what is left beside them.
        draw = drawer(stream, passed_PN, row_M)
        items_MK = fill(draw, np.tile(shown_SK, (users, 1)), count_M.copy())
        at = row_M[:, None], items_MK
        place_MK = _places(clicked_MK, stream)
        log_M = _log_drawn(mu_PN[at], passed_PN[at], clicked_MK, place_MK)
        time_M1 = np.tile([slate.time for slate in slates], users)[:, None]
        click_MK = sigmoid(guess.click_PN[at] + self.scenario.offset(time_M1, self.truth.topic_N[items_MK]))
        click_MK = click_MK * self.look_K[place_MK]
        known_MK = items_MK >= np.tile([slate.silent_from for slate in slates], users)[:, None]
        silent_MK = np.where(known_MK, np.log1p(-click_MK), 0.0)
        log_M += np.where(clicked_MK, np.log(click_MK), silent_MK).sum(axis=1)
        most = int(count_M.max(initial=0))
        sign_MK = np.where(np.tile(bought_SK[:, :most], (users, 1)), 1.0, -1.0)
        buy_MK = sigmoid(sign_MK * guess.buy_PN[row_M[:, None], items_MK[:, :most]])
        log_M += np.where(clicked_MK[:, :most], np.log(buy_MK), 0.0).sum(axis=1)
        total_P: FloatArray = log_M.reshape(users, len(slates)).sum(axis=1)
        return total_P

    def _proposal(self, told: Told, slates: Sequence[ShownSlate]) -> FloatArray:
        """Shares in which particles have each kind of favourites, (F,): a guess of the posterior, made safe."""
        clear = self.clear.truth
        profile_F = np.maximum(self.reader.chance_U(told, clear.topic_interest_UT, clear.style_interest_UY), _TINY)
        score_F = np.log(profile_F)
        for slate, phase in zip(slates, self._phases(slates), strict=True):
            items = np.array(slate.items, dtype=np.int64)
            offset = self.scenario.offset(slate.time, self.truth.topic_N[items])
            sign = np.where(np.array(slate.bought, dtype=bool), 1.0, -1.0)
            chance = sigmoid(self.clear.click_PN[:, items] + offset) * sigmoid(sign * self.clear.buy_PN[:, items])
            score_F += np.log(chance).sum(axis=1)
            if not slate.silent_from:
                score_F += (self.look_K.size - items.size) * self.passed[phase]
        guess_F = np.exp(_TEMPER * (score_F - score_F.max()))
        share_F: FloatArray = (1 - _BY_PROFILE - _BLIND) * guess_F / guess_F.sum()
        share_F += _BY_PROFILE * profile_F / profile_F.sum() + _BLIND / profile_F.size
        return share_F

    def _phases(self, slates: Sequence[ShownSlate]) -> list[int]:
        phases: list[int] = self.scenario.phase_M(np.array([slate.time for slate in slates], dtype=np.int64)).tolist()
        return phases

    def _log_passed(self, guess: _Guess, tilt_N: FloatArray | None) -> FloatArray:
        """log P(an item that the logging policy shows is not clicked), about; for each user of the guess."""
        mu_PN = logging_policy_BN(guess.truth, self.parameters, np.arange(len(guess.click_PN)), tilt_N)
        log_P: FloatArray = np.log(1 - (mu_PN * sigmoid(guess.click_PN)).sum(axis=1) * self.look_K.mean())
        return log_P


@dataclass(frozen=True)
class _Kinds:
    """All kinds of users by their favourites, which the generator draws each as often.

    Of the favourite topics, `first_F` is the one that is liked more.
    """

    topic_FT: BoolArray
    style_FY: BoolArray
    first_F: IntArray
    second_F: IntArray

    @classmethod
    def all(cls) -> _Kinds:
        pairs = itertools.permutations(range(TOPICS), FAVOURITE_TOPICS)
        first_F, second_F, style_F = np.array([(*p, s) for p in pairs for s in range(STYLES)]).T
        topic_FT = (np.arange(TOPICS) == first_F[:, None]) | (np.arange(TOPICS) == second_F[:, None])
        return cls(topic_FT, np.arange(STYLES) == style_F[:, None], first_F, second_F)


def _places(clicked_MK: BoolArray, stream: np.random.Generator) -> IntArray:
    """Places for the clicked items (first columns) at random, the rest in their order on the places left."""
    place_MK = stream.random(clicked_MK.shape).argsort(axis=1)
    rest_MK = np.sort(np.where(clicked_MK, -1, place_MK), axis=1)
    return np.where(clicked_MK, place_MK, rest_MK)


def _log_drawn(mu_MK: FloatArray, passed_MK: FloatArray, clicked_MK: BoolArray, place_MK: IntArray) -> FloatArray:
    """log P(the slate is shown in this order) - log P(it was proposed), (M,).

    Shown: at each place mu / (1 - mu of those above). Proposed: the rest by passed / (1 - passed of the clicked items
    and of the rest before), the c clicked items on any of K! / (K - c)! ordered choices of places.
    """
    size, count_M = mu_MK.shape[1], clicked_MK.sum(axis=1)
    shown_MK = np.empty_like(mu_MK)
    np.put_along_axis(shown_MK, place_MK, mu_MK, axis=1)
    left_MK = np.maximum(1 - (np.cumsum(shown_MK, axis=1) - shown_MK), _TINY)
    clicked_M1 = np.where(clicked_MK, passed_MK, 0.0).sum(axis=1, keepdims=True)
    rest_MK = np.where(clicked_MK, 0.0, passed_MK)
    offered_MK = np.maximum(1 - clicked_M1 - (np.cumsum(rest_MK, axis=1) - rest_MK), _TINY)
    with np.errstate(divide="ignore"):  # an item that was never on offer: the particle is impossible
        log_mu_MK = np.log(mu_MK)
    proposed_MK = np.where(clicked_MK, 0.0, np.log(np.maximum(passed_MK, _TINY)) - np.log(offered_MK))
    log_M: FloatArray = (log_mu_MK - np.log(left_MK) - proposed_MK).sum(axis=1)
    log_M += gammaln(size + 1) - gammaln(size - count_M + 1)
    return log_M
