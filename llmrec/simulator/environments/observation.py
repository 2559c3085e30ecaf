"""The spaces of actions and observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from llmrec.config import EnvironmentSettings
from llmrec.simulator.environments.population import Population

_ROUNDING = 1e-4


def action_space(population: Population, settings: EnvironmentSettings) -> spaces.MultiDiscrete:
    """A slate: K item indices, best first."""
    return spaces.MultiDiscrete(np.full(settings.slate_size, len(population.items), dtype=np.int64))


def observation_space(population: Population, settings: EnvironmentSettings) -> spaces.Dict:
    """What a user shows; no hidden state. With P numbers of a profile, F features of an item and K places:

    profile (P,)      what the profile's text tells
    interest (F,)     mean features of what was clicked, older turns weighing less, drawn to 0 where it is little
    passed (F,)       the same of what was shown and not clicked
    counts (2,)       log(1 + clicks), log(1 + conversions) of the episode
    slate (K,)        item indices of the last slate, -1 for an empty place
    clicks, conversions (K,)   0 or 1: what it got
    turn (1,)         share of the turn limit that is used up
    """
    places, items = settings.slate_size, len(population.items)
    low_F, high_F = (bound(population.feature_NF, axis=0) for bound in (np.min, np.max))
    low_P, high_P = (bound(population.profile_UP, axis=0) for bound in (np.min, np.max))
    mean = _box(np.minimum(low_F, 0) - _ROUNDING, np.maximum(high_F, 0) + _ROUNDING)
    most = float(np.log1p(settings.turns * places)) + _ROUNDING
    flags = _box(np.zeros(places), np.ones(places))
    return spaces.Dict(
        {
            "profile": _box(low_P - _ROUNDING, high_P + _ROUNDING),
            "interest": mean,
            "passed": mean,
            "counts": _box(np.zeros(2), np.full(2, most)),
            "slate": spaces.Box(-1, items - 1, (places,), np.int32),
            "clicks": flags,
            "conversions": flags,
            "turn": _box(np.zeros(1), np.ones(1)),
        }
    )


def empty_observations(space: spaces.Dict, count: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays for the observations of `count` users."""
    return {name: np.empty((count, *box.shape), dtype=box.dtype) for name, box in space.spaces.items()}


def _box(low: npt.ArrayLike, high: npt.ArrayLike) -> spaces.Box:
    return spaces.Box(np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32)
