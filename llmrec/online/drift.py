"""Two questions to the stream of served rewards, asked after every slate, with a stated rate of false alarms.

Both keep a number that is at most 1 in expectation as long as nothing is wrong, whenever one looks (an e-process). By
Ville's inequality it ever reaches 1 / level with probability `level` at most, so the rate holds for the whole life of
a test and not for each look.
"""

from __future__ import annotations

import bisect
import math

import numpy as np

from llmrec.errors import ConfigError
from llmrec.seeding import numpy_stream

_SLOPES = (0.25, 0.5, 0.75, 1.0)
_STAKES = (0.1, 0.2, 0.4, 0.8)


class Drift:
    """Have rewards fallen (or changed) since the stream began? Needs no model of the rewards, nor their scale.

    A conformal test of exchangeability (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World"): the
    rank of a reward among all so far, ties broken at random, is uniform and independent of the earlier ranks if
    rewards come in exchangeable order, whatever their distribution. Bets on low ranks win where rewards fall. A bet
    begins at every slate j with the stake 1 / (j (j + 1)), so that a late fall is found as an early one is.

    The level also holds for independent rewards whose distribution only rises (stochastically): draw them as
    increasing functions of exchangeable ones, and each rank is at least what it would be without the rise.

    Args:
        level: probability at most of ever raising an alarm while rewards are exchangeable, or only rise.
        seed: of the broken ties.
        both: bet on high ranks as well: rewards that rise are a change, too.
    """

    def __init__(self, level: float = 0.01, *, seed: int = 0, both: bool = False) -> None:
        _check_level(level)
        self.level, self.both, self._seed = level, both, seed
        signs = (1.0, -1.0) if both else (1.0,)
        self._slope_S = np.array([sign * slope for sign in signs for slope in _SLOPES])
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._random, self._number = numpy_stream(self._seed, "online", "drift", number), number
        self._sorted: list[float] = []
        self._running_S = np.zeros(len(self._slope_S))
        self._best_S, self._since_S = np.zeros(len(self._slope_S)), np.zeros(len(self._slope_S), dtype=np.int64)
        self.evidence = 1.0

    @property
    def seen(self) -> int:
        """Rewards since the last beginning."""
        return len(self._sorted)

    @property
    def since(self) -> int:
        """How many rewards came before the change, if there was one: the beginning of the bet that has won most.

        An estimate, which the level says nothing of.
        """
        return int(self._since_S[self._best_S.argmax()])

    @property
    def alarm(self) -> bool:
        """Whether the evidence says now that something has changed."""
        return self.evidence >= 1 / self.level

    def add(self, reward: float) -> bool:
        """Takes the reward of the next slate; True at the alarm. Begin anew (`restart`) after it has been heeded."""
        if not math.isfinite(reward):
            raise ValueError(f"A reward of {reward} says nothing; leave the slate out.")
        low, high = bisect.bisect_left(self._sorted, reward), bisect.bisect_right(self._sorted, reward)
        self._sorted.insert(high, reward)
        n = len(self._sorted)
        # among equal rewards, this one among them, any place is as likely
        rank = (low + self._random.random() * (high - low + 1)) / n
        # a bet of slope s pays 1 + s (1 - 2 rank), which is 1 on average over a uniform rank
        pays_S = 1 + self._slope_S * (1 - 2 * rank)
        stake = 1 / (n * (n + 1))
        self._running_S = pays_S * (self._running_S + stake)
        # all bets that run multiply by the same, so the best of them stays the best until a later one begins above it
        later_S = stake > self._best_S
        self._since_S[later_S] = n - 1
        self._best_S = pays_S * np.where(later_S, stake, self._best_S)
        # bets that begin later still hold their stakes, which sum to 1 / (n + 1)
        self.evidence = float(self._running_S.mean()) + 1 / (n + 1)
        return self.alarm

    def restart(self) -> None:
        """Forgets the rewards so far: what comes now is the new normal. The level holds anew from here."""
        self._begin(self._number + 1)


class Worse:
    """Does the new version earn less than the one before it? Asked of pairs of slates of the same time.

    A bet against "the mean of new less old is at least -margin": the stake multiplies by 1 - s (d + margin) / range,
    which is at most 1 in expectation while that is true, whatever the distribution of d (Waudby-Smith and Ramdas
    2024, "Estimating means of bounded random variables by betting"). Both versions are served at the same time, so
    that a demand that moves moves both.

    Args:
        level: probability at most of ever calling a version worse that is not.
        most: the largest reward of a slate; the smallest is 0.
        margin: a loss that is tolerated.
    """

    def __init__(self, level: float = 0.05, *, most: float, margin: float = 0.0) -> None:
        _check_level(level)
        if not most > 0 or not margin >= 0:
            raise ConfigError(
                f"The largest reward is {most} and the margin {margin}; they must be above and at least 0."
            )
        self.level, self.most, self.margin = level, most, margin
        self._log_S = np.zeros(len(_STAKES))
        self._waiting: tuple[list[float], list[float]] = ([], [])
        self.pairs = 0

    def waits(self, *, new: bool) -> bool:
        """Whether a slate of that version waits for its partner; leave further ones of it out to keep pairs close."""
        return bool(self._waiting[not new])

    @property
    def evidence(self) -> float:
        """At most 1 in expectation while the new version is no worse."""
        return float(np.exp(self._log_S).mean())

    @property
    def alarm(self) -> bool:
        """Whether the evidence says now that the new version is worse."""
        return self.evidence >= 1 / self.level

    def add(self, reward: float, *, new: bool) -> bool:
        """Takes the reward of a slate of the new or the old version; True once the new one is found to be worse."""
        if not 0 <= reward <= self.most:
            raise ValueError(f"A reward of {reward} is not in 0 to {self.most}.")
        self._waiting[not new].append(reward)
        while all(self._waiting):
            # paired in order, as they came
            gain = self._waiting[0].pop(0) - self._waiting[1].pop(0) + self.margin
            self._log_S += np.log1p(-np.array(_STAKES) * gain / (self.most + self.margin))
            self.pairs += 1
            if self.alarm:
                return True
        return self.alarm


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"The rate of false alarms is {level}; it must lie between 0 and 1.")
