"""mu(item | state) of a logging policy: as it was logged, or fitted to what was shown.

The fitted one is a mixture of two multinomials,

    mu(i | s) = (1 - e) P(g(i) | s) n_i / n_g  +  e n_i / n,

with g(i) the item's group (its category), n_i how often item i was shown (one is added to every count), and P(g | s)
a softmax regression on what the state holds: the share of each group in history and session, the group of the latest
item, and the hashed words of profile and context. The weight e is the one of `WEIGHTS` under which the impressions of
a fifth of the states, which the regression has not seen, are most likely: where the context tells nothing, popularity
is left.

What it cannot know: everything else that the logging policy looked at (such features confound), differences of users
within a group, and places (mu is the mean over the places of a slate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.dataset.impressions import Impressions
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray, Item, State

Source = Literal["auto", "logged", "fitted"]
WEIGHTS = (0.02, 0.1, 0.25, 0.5, 0.75, 1.0)
GROUPS = 50
"""So many of the groups shown most are told apart, the others are one."""
ROWS = 20_000
"""At most so many impressions fit the regression."""
WORDS = 64


@dataclass(frozen=True, slots=True)
class FittedPropensities:
    """mu of each impression (M,), the weight of popularity, and the mean log mu of impressions that were held out.

    `popularity` is the same mean under popularity alone.
    """

    propensity_M: FloatArray
    weight: float
    log_likelihood: float
    popularity: float


@dataclass(frozen=True, slots=True)
class Propensities:
    """mu of each impression and whether it was logged, (M,), and a sentence on where they come from."""

    propensity_M: FloatArray
    given_M: BoolArray
    note: str


def item_groups(items: Sequence[Item]) -> IntArray:
    """Each item's first category, else its brand, as a number from 0: (N,)."""
    names = [item.categories[0] if item.categories else item.brand for item in items]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def propensities(
    log: Impressions, source: Source, group_N: IntArray, *, seed: int, key: str = "off_policy.propensities"
) -> Propensities:
    """mu of every impression.

    Args:
        log: impressions.
        source: logged, fitted, or auto: the log's where it has one.
        group_N: each item's group, any whole numbers.
        seed: the run's seed.
        key: the setting that `source` is, for messages.

    Raises:
        DataError: a logged propensity is not above 0 and at most 1, or is missing where it must be logged.
    """
    logged_M = np.asarray(log.propensity_M, dtype=np.float64)
    given_M = _given(log, logged_M, source, key)
    if given_M.all():
        return Propensities(logged_M, given_M, "Propensities are the log's own.")
    fitted = fitted_propensities(log, group_N, seed=seed)
    share, held, popular = 1 - given_M.mean(), fitted.log_likelihood, fitted.popularity
    note = (
        f"Propensities of {share:.0%} of the impressions are fitted to what was shown: mean log-likelihood "
        f"{held:.3f} on states held out, {popular:.3f} under popularity alone, whose weight is {fitted.weight:g}."
    )
    return Propensities(np.where(given_M, logged_M, fitted.propensity_M), given_M, note)


def _given(log: Impressions, logged_M: FloatArray, source: Source, key: str) -> BoolArray:
    """Which propensities are taken from the log, all of them in range."""
    if source == "fitted":
        return np.zeros(len(log), dtype=bool)
    given_M = np.isfinite(logged_M) if source == "auto" else np.ones(len(log), dtype=bool)
    bad_M = given_M & ~((logged_M > 0) & (logged_M <= 1)) | np.isinf(logged_M)
    if bad_M.any():
        row = int(np.argmax(bad_M))
        user = log.states[log.state_row_M[row]].user_id
        what = "no propensity" if np.isnan(logged_M[row]) else f"the propensity {logged_M[row]:g}"
        raise DataError(
            f"Impression {row} (item {log.item_M[row]}, shown to user {user!r}) has {what}, but it must be above 0 "
            f"and at most 1; mend the column 'propensity', or set {key} to fitted."
        )
    return given_M


def fitted_propensities(log: Impressions, group_N: IntArray, *, seed: int) -> FittedPropensities:
    """Fits the mixture above to `log`.

    Raises:
        DataError: there is no impression, or an item has no group.
    """
    if not len(log):
        raise DataError("The log holds no impression, so no logging policy can be fitted; import one that has some.")
    if int(log.item_M.max()) >= len(group_N):
        raise DataError(f"Item {log.item_M.max()} was shown but there are {len(group_N)} groups; give one an item.")
    # one more each: an item that was never shown must not have mu = 0, by which pi would be divided
    count_N = np.bincount(log.item_M, minlength=len(group_N)) + 1.0
    group_N = _largest(group_N, count_N)
    popular_M = (count_N / count_N.sum())[log.item_M]
    within_M = (count_N / np.bincount(group_N, weights=count_N)[group_N])[log.item_M]
    shown_M = group_N[log.item_M]
    # by state and not by impression: places of one slate tell of each other
    held_S = numpy_stream(seed, "off_policy", "propensities", "held out").random(len(log.states)) < 0.2
    held_M = held_S[log.state_row_M]
    chance_SG = _regression(log, group_N, shown_M, ~held_M, seed)
    # the two-stage form: P(group | state), then by counts within it; a softmax over all items has too few rows to fit
    context_M = chance_SG[log.state_row_M, shown_M] * within_M
    found = [
        float(np.log((1 - e) * context_M + e * popular_M)[held_M].mean()) if held_M.any() else 0.0 for e in WEIGHTS
    ]
    best = int(np.argmax(found))
    mixed_M = (1 - WEIGHTS[best]) * context_M + WEIGHTS[best] * popular_M
    return FittedPropensities(mixed_M, WEIGHTS[best], found[best], found[-1])


def _largest(group_N: IntArray, count_N: FloatArray) -> IntArray:
    """Groups renumbered from 0, the most shown first; all from `GROUPS` - 1 on are one."""
    _, place_N = np.unique(np.asarray(group_N), return_inverse=True)
    order = np.argsort(-np.bincount(place_N, weights=count_N), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return np.asarray(np.minimum(rank[place_N], GROUPS - 1))


def _regression(log: Impressions, group_N: IntArray, shown_M: IntArray, fit_M: BoolArray, seed: int) -> FloatArray:
    """P(group | state) of every state: (S, groups); 0 for groups that no row of the fit shows."""
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to import

    feature_SF = state_features(log.states, group_N)
    rows = np.flatnonzero(fit_M if fit_M.any() else np.ones(len(log), dtype=bool))
    if len(rows) > ROWS:
        rows = numpy_stream(seed, "off_policy", "propensities", "rows").choice(rows, ROWS, replace=False)
    # groups that the fit has not met keep probability 0 here, and popularity's share of the mixture
    chance_SG = np.zeros((len(log.states), int(group_N.max()) + 1))
    classes = np.unique(shown_M[rows])
    if len(classes) == 1:
        chance_SG[:, classes] = 1.0
        return chance_SG
    model = LogisticRegression(max_iter=300)
    model.fit(feature_SF[log.state_row_M[rows]], shown_M[rows])
    chance_SG[:, classes] = model.predict_proba(feature_SF)
    return chance_SG


def state_features(states: Sequence[State], group_N: IntArray) -> FloatArray:
    """What the regression reads of states: shares of groups, the latest item's group, hashed words: (S, F)."""
    from sklearn.feature_extraction.text import HashingVectorizer

    groups = int(group_N.max()) + 1
    share_SG, latest_SG = np.zeros((len(states), groups)), np.zeros((len(states), groups))
    for row, state in enumerate(states):
        past = group_N[[event.item for event in (*state.history, *state.session)]]
        if len(past):
            share_SG[row] = np.bincount(past, minlength=groups) / len(past)
            latest_SG[row, past[-1]] = 1.0
    words = HashingVectorizer(n_features=WORDS, alternate_sign=False, token_pattern=r"(?u)\b\w+\b")
    word_SF = words.transform([f"{state.profile} {state.context}" for state in states]).toarray()
    return np.concatenate([share_SG, latest_SG, word_SF], axis=1)
