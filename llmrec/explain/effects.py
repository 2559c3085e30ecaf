"""What each part of a state does to the log-probability of an item, exactly.

    effect(a)         = log p(i | S) - log p(i | S without a)
    odds(a)           = odds(i | S) / odds(i | S without a),   odds = p / (1 - p)
    interaction(a, b) = effect(a and b) - effect(a) - effect(b)

Nothing is approximated and no token is masked: S without a is worded anew and asked, as a run of its own would. An
interaction above 0 says that a and b stand in for one another (each is missed little while the other is there), one
below 0 that they count together. Effects therefore need not add up to that of all parts, which is told beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.explain.parts import Part, Parted
from llmrec.explain.scores import Explained
from llmrec.types import FloatArray, IntArray

MATTERS = 0.05
"""Nats (5% of a probability) from which on an effect is told in words."""
JOINT_NATS, JOINT_SHARE = 0.1, 0.25
"""An interaction matters from so many nats and this share of the larger effect of the two on."""
WholeOf = Literal["history", "profile", "everything"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a part adds to the item's log-probability.

    Attributes:
        part: the part.
        nats: the change of the log-probability; 0 exactly where the part does not reach the recommender.
        odds: the odds of the item with the part as a multiple of those without.
    """

    part: Part
    nats: float
    odds: float


@dataclass(frozen=True, slots=True)
class Whole:
    """What all parts of a kind, or all there are, add together."""

    of: WholeOf
    nats: float
    odds: float


@dataclass(frozen=True, slots=True)
class Joint:
    """The two parts with the largest effects, together.

    Attributes:
        parts: both, the larger effect first.
        nats: their effect together.
        odds: as a ratio of odds.
        interaction: what is in that beyond the sum of both, in nats.
    """

    parts: tuple[Part, Part]
    nats: float
    odds: float
    interaction: float


@dataclass(frozen=True, slots=True)
class Attribution:
    """All effects on one item.

    Attributes:
        log_score: log-probability of the item in the whole state.
        nats_P: effect of each part, in the order of the parts.
        effects: the same, the largest first, whatever the sign.
        wholes: of kinds with more than one part, and of everything.
        joint: of the two largest, where their interaction matters.
    """

    log_score: float
    nats_P: tuple[float, ...]
    effects: tuple[Effect, ...]
    wholes: tuple[Whole, ...]
    joint: Joint | None


def attribute(scores: Explained, parted: Parted, items_G: Sequence[int]) -> list[Attribution]:
    """The effects of all parts on each of G items: one pass over all parts, one over the pairs of largest effects.

    Args:
        scores: whom to ask.
        parted: the state in its parts.
        items_G: item indices.
    """
    if not len(items_G):
        return []
    wholes = _wholes(parted)
    single = [(n,) for n in range(len(parted.parts))]
    sets = [(), *single, *wholes.values()]
    found_VG = scores.log_scores([parted.without(gone) for gone in sets], items_G)
    part_PG, whole_WG = found_VG[1 : 1 + len(single)], found_VG[1 + len(single) :]
    nats_PG = found_VG[0] - part_PG
    # of equal effects the part that stands first, whatever the other items say
    order_PG: IntArray = np.argsort(-np.abs(nats_PG), axis=0, kind="stable")
    pairs = [_pair(order_PG[:, g], nats_PG[:, g]) for g in range(len(items_G))]
    pair_G = _asked_pairs(scores, parted, items_G, pairs)
    told = []
    for g in range(len(items_G)):
        log_score = float(found_VG[0, g])
        effects = tuple(
            Effect(parted.parts[n], float(nats_PG[n, g]), odds_ratio(log_score, float(part_PG[n, g])))
            for n in order_PG[:, g]
        )
        whole = tuple(
            Whole(name, log_score - float(without), odds_ratio(log_score, float(without)))
            for name, without in zip(wholes, whole_WG[:, g], strict=True)
        )
        joint = _joint(effects, log_score, pair_G[g])
        told.append(Attribution(log_score, tuple(map(float, nats_PG[:, g])), effects, whole, joint))
    return told


def _wholes(parted: Parted) -> dict[WholeOf, tuple[int, ...]]:
    """Sets of parts that are left out together."""
    told: dict[WholeOf, tuple[int, ...]] = {"history": parted.of_kind("item"), "profile": parted.of_kind("profile")}
    kept = {name: parts for name, parts in told.items() if len(parts) > 1}
    # fields of cards go with the items that they tell of
    everything = tuple(n for n, part in enumerate(parted.parts) if part.kind != "card")
    return {**kept, "everything": everything} if everything else kept


def _pair(order_P: IntArray, nats_P: FloatArray) -> tuple[int, int] | None:
    """The two parts with the largest effects, where both have one."""
    if len(order_P) < 2 or not nats_P[order_P[1]]:
        return None
    return int(order_P[0]), int(order_P[1])


def _asked_pairs(
    scores: Explained, parted: Parted, items_G: Sequence[int], pairs: Sequence[tuple[int, int] | None]
) -> list[float | None]:
    """log p of each item without its pair."""
    asked = list(dict.fromkeys(frozenset(pair) for pair in pairs if pair is not None))
    if not asked:
        return [None] * len(pairs)
    found_VG = scores.log_scores([parted.without(gone) for gone in asked], items_G)
    row = {gone: n for n, gone in enumerate(asked)}
    return [None if pair is None else float(found_VG[row[frozenset(pair)], g]) for g, pair in enumerate(pairs)]


def _joint(effects: Sequence[Effect], log_score: float, without: float | None) -> Joint | None:
    if without is None:
        return None
    first, second = effects[:2]
    together = log_score - without
    beyond = together - first.nats - second.nats
    if abs(beyond) < max(JOINT_NATS, JOINT_SHARE * abs(first.nats)):
        return None
    return Joint((first.part, second.part), together, odds_ratio(log_score, without), beyond)


def odds_ratio(log_with: float, log_without: float) -> float:
    """The odds of probability exp(log_with) as a multiple of those of exp(log_without); finite."""
    return math.exp(min(max(_log_odds(log_with) - _log_odds(log_without), -700.0), 700.0))


def _log_odds(log_p: float) -> float:
    # what is left of 1 - p at p = 1 is a rounding
    return log_p - math.log(max(-math.expm1(log_p), 1e-300))
