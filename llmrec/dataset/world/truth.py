"""The hidden half of a generated world: who likes what, which items convert, and who would have been shown what.

All equations are those of docs/world.md. With interests z (topics), s (styles) and w (styles, when buying) of user
u, and topic t, style y, appeal and quality of item i:

    A(u, i) = (z[t] + 0.6 s[y]) / norm            P(click | examined)  = sigmoid(b + a A + appeal[i])
    B(u, i) = (0.5 z[t] + w[y]) / norm            P(conversion | click) = sigmoid(b2 + c B + quality[i])
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray

TOPICS, STYLES = 12, 8
FAVOURITE_TOPICS, FAVOURITE_STYLES = 2, 1
STYLE_WEIGHT, TOPIC_WEIGHT_BUYING = 0.6, 0.5


@dataclass(frozen=True, kw_only=True)
class WorldParameters:
    """Scales of the world, frozen before any policy was trained on it (docs/world.md).

    Affinities have variance 1 over users and items, so each number is a standard deviation of a logit.
    """

    click_bias: float = -2.8
    click_affinity: float = 0.5
    appeal_sd: float = 0.5
    conversion_bias: float = -1.0
    conversion_affinity: float = 0.5
    quality_sd: float = 2.2
    appeal_quality_correlation: float = -0.4
    logging_appeal: float = 3.0
    logging_affinity: float = 0.2
    logging_noise: float = 1.0
    uniform_share: float = 0.2
    interest_noise: float = 0.4
    """Share of standard deviation of an interest that is no clear favourite."""
    buying_correlation: float = 0.8
    """Correlation of the styles that a user clicks and the styles that the user buys."""


@dataclass(frozen=True)
class WorldTruth:
    """Hidden variables: T topics, Y styles, U users (rows), N items (item indices).

    `logged_topic_UT` and `logged_style_UY` are the noisy interests that the logging policy believes in.
    """

    topic_N: IntArray
    style_N: IntArray
    appeal_N: FloatArray
    quality_N: FloatArray
    topic_interest_UT: FloatArray
    style_interest_UY: FloatArray
    buying_interest_UY: FloatArray
    logged_topic_UT: FloatArray
    logged_style_UY: FloatArray

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by field name, as they are saved: row by row in memory."""
        # safetensors writes memory as it lies: numpy leaves the interests of a few thousand users column by column,
        # and they would be read back as other people's.
        return {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}


def draw_truth(users: int, items: int, parameters: WorldParameters, seed: int) -> WorldTruth:
    """Draws the hidden variables of `users` users and `items` items from the streams "items" and "users"."""
    item_stream, user_stream = numpy_stream(seed, "world", "items"), numpy_stream(seed, "world", "users")
    # As many items of each topic as of any other, so that no topic's size is part of what a seed draws.
    topic_N = item_stream.permutation(np.arange(items) % TOPICS)
    style_N = item_stream.permutation(np.arange(items) % STYLES)
    appeal_N, quality_N = _correlated(item_stream, items, parameters.appeal_quality_correlation)
    # Favourites and floor of the topics before those of the styles: the order of draws is part of every world.
    topic_UT = interests(_favourites(user_stream, users, TOPICS, FAVOURITE_TOPICS), parameters, user_stream)
    style_UY = interests(_favourites(user_stream, users, STYLES, FAVOURITE_STYLES), parameters, user_stream)
    nobody = np.zeros((0, 1))
    items_alone = WorldTruth(
        topic_N=topic_N,
        style_N=style_N,
        appeal_N=parameters.appeal_sd * appeal_N,
        quality_N=parameters.quality_sd * quality_N,
        topic_interest_UT=nobody,
        style_interest_UY=nobody,
        buying_interest_UY=nobody,
        logged_topic_UT=nobody,
        logged_style_UY=nobody,
    )
    return peopled(items_alone, topic_UT, style_UY, parameters, user_stream)


def peopled(
    truth: WorldTruth,
    topic_UT: FloatArray,
    style_UY: FloatArray,
    parameters: WorldParameters,
    stream: np.random.Generator,
) -> WorldTruth:
    """The items of `truth` and users of these interests; what else hangs on them is drawn from `stream`."""
    own_UY = stream.standard_normal(style_UY.shape)
    noise, rho = parameters.logging_noise, parameters.buying_correlation
    return replace(
        truth,
        topic_interest_UT=topic_UT,
        style_interest_UY=style_UY,
        # Correlation rho with the styles clicked, variance 1 still.
        buying_interest_UY=rho * style_UY + np.sqrt(1 - rho**2) * own_UY,
        logged_topic_UT=topic_UT + noise * stream.standard_normal(topic_UT.shape),
        logged_style_UY=style_UY + noise * stream.standard_normal(style_UY.shape),
    )


def _correlated(stream: np.random.Generator, n: int, correlation: float) -> tuple[FloatArray, FloatArray]:
    """Two vectors of sample mean 0, sample variance 1 and exactly the sample correlation that is asked for."""
    one, other = stream.standard_normal((2, n))
    one = (one - one.mean()) / one.std()
    other = other - other.mean()
    # Gram-Schmidt: exactly uncorrelated in the sample, so the mixture below has exactly the correlation asked for.
    other = other - one * (one * other).mean()
    other = other / other.std()
    return one, correlation * one + np.sqrt(1 - correlation**2) * other


def _favourites(stream: np.random.Generator, users: int, kinds: int, count: int) -> BoolArray:
    """Which kinds stand clear, (users, kinds): any `count` of them alike."""
    marked = np.broadcast_to(np.arange(kinds) < count, (users, kinds))
    return np.asarray(stream.permuted(marked, axis=1))


def interests(favourite_UT: BoolArray, parameters: WorldParameters, stream: np.random.Generator) -> FloatArray:
    """Interests (users, kinds) of mean 0 and variance 1: clear favourites, and a share noise**2 of Gaussian noise."""
    floor = parameters.interest_noise * stream.standard_normal(favourite_UT.shape)
    return clear_interests(favourite_UT, parameters) + floor


def clear_interests(favourite_UT: BoolArray, parameters: WorldParameters) -> FloatArray:
    """The part of the interests (users, kinds) that favourites decide; every row has equally many of them."""
    count, kinds = (int(favourite_UT[0].sum()), favourite_UT.shape[1]) if len(favourite_UT) else (1, 2)
    share = count / kinds
    # A Bernoulli variable standardised: mean 0 and variance 1 whatever the number of favourites.
    clear = (favourite_UT - share) / float(np.sqrt(share * (1 - share)))
    scaled: FloatArray = float(np.sqrt(1 - parameters.interest_noise**2)) * clear
    return scaled


def click_logit(truth: WorldTruth, parameters: WorldParameters, user: IntArray, item: IntArray) -> FloatArray:
    """Logit of P(click | examined); `user` (rows) and `item` (indices) broadcast against each other."""
    affinity = _click_affinity(truth.topic_interest_UT, truth.style_interest_UY, truth, user, item)
    logit: FloatArray = parameters.click_bias + parameters.click_affinity * affinity + truth.appeal_N[item]
    return logit


def conversion_logit(truth: WorldTruth, parameters: WorldParameters, user: IntArray, item: IntArray) -> FloatArray:
    """Logit of P(conversion | click); `user` (rows) and `item` (indices) broadcast against each other."""
    topic = _of_each(truth.topic_interest_UT, user, truth.topic_N[item])
    style = _of_each(truth.buying_interest_UY, user, truth.style_N[item])
    affinity = (TOPIC_WEIGHT_BUYING * topic + style) / np.sqrt(1 + TOPIC_WEIGHT_BUYING**2)
    logit: FloatArray = parameters.conversion_bias + parameters.conversion_affinity * affinity + truth.quality_N[item]
    return logit


def value(
    truth: WorldTruth,
    parameters: WorldParameters,
    user: IntArray,
    item: IntArray,
    click: float,
    conversion: float,
    offset: FloatArray | float = 0.0,
) -> FloatArray:
    """click * P(click | looked at) + conversion * P(click and conversion); `user`, `item`, `offset` broadcast.

    `offset` is what the moment adds to the click's logit (`Scenario.offset`).
    """
    logits = click_logit(truth, parameters, user, item) + offset, conversion_logit(truth, parameters, user, item)
    return worth(*logits, click, conversion)


def worth(click_logit: FloatArray, conversion_logit: FloatArray, click: float, conversion: float) -> FloatArray:
    """The same from both logits."""
    chance = sigmoid(click_logit)
    return click * chance + conversion * chance * sigmoid(conversion_logit)


def logging_policy_BN(
    truth: WorldTruth, parameters: WorldParameters, user_B: IntArray, tilt_N: FloatArray | None = None
) -> FloatArray:
    """mu(item | user), shape (B, N): 0.8 softmax(appeal tilt + noisy affinity) + 0.2 uniform; rows sum to 1.

    `tilt_N` is added to the logits; items with -inf are not on offer and get 0.
    """
    items_N = np.arange(truth.topic_N.shape[0])
    affinity = logged_affinity(truth, user_B[:, None], items_N)
    logit = parameters.logging_appeal * truth.appeal_N + parameters.logging_affinity * affinity
    offered: float | FloatArray = 1.0 / items_N.size
    if tilt_N is not None:
        logit = logit + tilt_N
        offered = np.isfinite(tilt_N) / np.isfinite(tilt_N).sum()
    # The largest logit is taken off before the exponential: it changes no ratio and cannot overflow.
    weight = np.exp(logit - logit.max(axis=1, keepdims=True))
    softmax: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return (1 - parameters.uniform_share) * softmax + parameters.uniform_share * offered


def logged_affinity(truth: WorldTruth, user: IntArray, item: IntArray) -> FloatArray:
    """A'(u, i), what the logging policy believes; `user` (rows) and `item` (indices) broadcast."""
    return _click_affinity(truth.logged_topic_UT, truth.logged_style_UY, truth, user, item)


def _click_affinity(
    topic_UT: FloatArray, style_UY: FloatArray, truth: WorldTruth, user: IntArray, item: IntArray
) -> FloatArray:
    topic, style = _of_each(topic_UT, user, truth.topic_N[item]), _of_each(style_UY, user, truth.style_N[item])
    affinity: FloatArray = (topic + STYLE_WEIGHT * style) / np.sqrt(1 + STYLE_WEIGHT**2)
    return affinity


def _of_each(interest_UT: FloatArray, user: IntArray, kind: IntArray) -> FloatArray:
    """interest_UT[user, kind]; of every user with every kind by rows and then columns, which is much faster."""
    if user.ndim == 2 and user.shape[1] == 1 and kind.ndim == 1:
        # `take` leaves rows in memory order: sums over them, and so propensities, keep their last digit
        return interest_UT[user[:, 0]].take(kind, axis=1)
    return interest_UT[user, kind]


def sigmoid(x: FloatArray) -> FloatArray:
    """Logistic function, without overflow for the logits that occur here."""
    probability: FloatArray = 1.0 / (1.0 + np.exp(-x))
    return probability


def examination_K(slate_size: int, position_bias: float) -> FloatArray:
    """P(position k is looked at) = (k + 1) ** -position_bias; all 1 where the bias is 0."""
    return np.power(np.arange(1, slate_size + 1, dtype=np.float64), -position_bias)
