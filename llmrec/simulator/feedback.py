"""Predictions become feedback: expected, or drawn with common random numbers.

Two policies met by the same users under the same seed see the same uniforms at the same place of the same turn, so
their difference has far less noise than either alone. Clicks at the places of a slate are independent of one
another in this version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.files import sha256_of
from llmrec.seeding import stream_seed
from llmrec.simulator.log import check_probabilities
from llmrec.types import Feedback, FloatArray, Prediction, State

DRAWS = 2  # a uniform for the click and one for the conversion
# 2^64 over the golden ratio and the two factors of SplitMix64's finaliser (Steele, Lea and Flood 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


Luck = str | tuple[object, ...] | None
"""Whose luck is drawn: a user's id, what stands for one, or None for somebody unknown."""


def common_uniforms(seed: int, user_ids: Sequence[Luck], turn: int | Sequence[int], places: int) -> FloatArray:
    """Uniforms in [0, 1) that depend on (seed, user, turn, place) alone: shape (B, K, 2).

    The user's key is hashed by SHA-256; the rest is a counter through SplitMix64 (Steele et al. 2014), so a number
    does not depend on who else is in the batch or on how long the slate is. `turn` may be one for all or one a user.
    """
    return keyed_uniforms(user_keys(seed, user_ids), turn, places)


def user_keys(seed: int, user_ids: Sequence[Luck]) -> npt.NDArray[np.uint64]:
    """A 63-bit key for each user, shape (B,): the SHA-256 of seed and id. Each None is somebody else, by number."""
    # Two strangers must not share their luck, so each is somebody else; the number makes it the same luck in the next
    # run.
    names = [("unknown", n) if user is None else user for user, n in zip(user_ids, _numbers(user_ids), strict=True)]
    key_of = {name: _key(seed, name) for name in set(names)}
    return np.array([key_of[name] for name in names], dtype=np.uint64)


def lucks(states: Sequence[State]) -> list[Luck]:
    """Whose luck each state's is: its user's; without an id that of what it holds, and of its number among equals.

    So two people without an id have different luck, and one of them the same luck in any batch.
    """
    held = [None if state.user_id is not None else sha256_of(repr(state)) for state in states]
    return [
        state.user_id if what is None else ("unknown", what, n)
        for state, what, n in zip(states, held, _numbers(held), strict=True)
    ]


def _numbers(names: Sequence[object]) -> list[int]:
    """How many equal ones stand before each."""
    counts: dict[object, int] = {}
    found = []
    for name in names:
        found.append(counts.get(name, 0))
        counts[name] = found[-1] + 1
    return found


def _key(seed: int, name: str | tuple[object, ...]) -> int:
    return stream_seed(seed, "feedback", *(name if isinstance(name, tuple) else (name,)))


def keyed_uniforms(key_B: npt.NDArray[np.uint64], turn: npt.ArrayLike, places: int, draws: int = DRAWS) -> FloatArray:
    """Uniforms in [0, 1) that depend on (key, turn, place, draw) alone: shape (B, K, draws)."""
    turn_B = np.broadcast_to(np.asarray(turn, dtype=np.uint64), key_B.shape)
    with np.errstate(over="ignore"):
        # The turn is mixed before it is added: key + turn alone would give user k at turn 1 the numbers of user k + 1
        # at turn 0. A counter through a bijection (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
        # has no state, so any number can be had without those before it.
        start_B = split_mix(key_B + split_mix(turn_B))
        counter_KD = np.arange(1, places * draws + 1, dtype=np.uint64).reshape(places, draws)
        bits = split_mix(start_B[:, None, None] + counter_KD * _GOLDEN)
    # The upper 53 bits fill a double's mantissa: multiples of 2^-53 in [0, 1), never 1.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def split_mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64, a bijection of 64 bits."""
    z = state + _GOLDEN  # a new array, which the rest may change
    for shift, factor in _ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> np.uint64(31)
    return z


def check_prediction(prediction: Prediction) -> None:
    """Raises `DataError` where shapes differ or a probability is not a finite number in [0, 1]."""
    if prediction.click_BK.shape != prediction.conversion_BK.shape:
        raise DataError(
            f"The behaviour model predicts clicks of shape {prediction.click_BK.shape} but conversions of shape "
            f"{prediction.conversion_BK.shape}; they must be equal."
        )
    check_probabilities(prediction.click_BK, "click")
    check_probabilities(prediction.conversion_BK, "conversion")


def simulate_feedback(prediction: Prediction, uniforms_BK2: FloatArray) -> Feedback:
    """Draws clicks (uniform < P(click)) and, where clicked, conversions (uniform < P(conversion | click))."""
    check_prediction(prediction)
    click_BK = uniforms_BK2[..., 0] < prediction.click_BK
    conversion_BK = click_BK & (uniforms_BK2[..., 1] < prediction.conversion_BK)
    return Feedback(click_BK.astype(np.float64), conversion_BK.astype(np.float64))


def expected_feedback(prediction: Prediction) -> Feedback:
    """P(click), and P(click and conversion) = P(click) P(conversion | click)."""
    check_prediction(prediction)
    return Feedback(prediction.click_BK, prediction.click_BK * prediction.conversion_BK)
