"""The smallest set of history items without which an item leaves the top K.

All sets of one item are tried, then all of two, in batches that serve every item at once; equal prompts are asked
once. Beyond that the search is greedy and says so: items go in the order of their effects until the item is out, then
whatever is not needed comes back. What that finds is irreducible (with any of its items back, the item is back too),
but a smaller set of other items may exist.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrec.explain.parts import Part, Parted
from llmrec.explain.scores import Explained
from llmrec.types import Slate

SIZES = (1, 2)
"""Sizes of sets that are tried one and all."""
MOST_SETS = 400
"""Sets that are tried one and all, at most: a history of 27 items has 27 + 351."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What would have to be unknown for the item to leave the top K.

    Attributes:
        k: the K.
        parts: items of the history; empty where no set was found.
        found: smallest: no smaller set does it, all were tried. greedy: found by the greedy search. none: not found.
        ruled_out: sets of at most this size were all tried, and none does it.
    """

    k: int
    parts: tuple[Part, ...]
    found: Literal["smallest", "greedy", "none"]
    ruled_out: int


def counterfactuals(
    scores: Explained,
    parted: Parted,
    nats: Mapping[int, Sequence[float]],
    k: int,
    *,
    most_sets: int = MOST_SETS,
) -> dict[int, Counterfactual]:
    """A set for each item that is recommended in the whole state; nothing for others.

    Args:
        scores: whom to ask.
        parted: the state in its parts.
        nats: by item index the effects of all parts: of sets of one size the one with the largest sum is taken, and
            the greedy search goes by them.
        k: places of a slate.
        most_sets: bound on the sets that are tried one and all.
    """
    history = parted.of_kind("item")
    (there,) = _slates(scores, parted, [()], k)
    nats = {item: effects for item, effects in nats.items() if item in there.items_K}
    found: dict[int, Counterfactual] = {}
    ruled_out = 0
    for size in SIZES:
        open_items = [item for item in nats if item not in found]
        if not open_items or math.comb(len(history), size) > most_sets:
            break
        sets = list(itertools.combinations(history, size))
        most_sets -= len(sets)
        slates = _slates(scores, parted, sets, k) if sets else []
        for item in open_items:
            out = [gone for gone, slate in zip(sets, slates, strict=True) if item not in slate.items_K]
            if out:
                best = max(out, key=lambda gone: sum(nats[item][n] for n in gone))
                found[item] = _told(parted, k, best, "smallest", size - 1)
        ruled_out = size
    for item in nats:
        if item not in found:
            gone = _greedy(scores, parted, history, nats[item], item, k)
            # beyond what was enumerated one more item is the least there can be
            least = bool(gone) and len(gone) == ruled_out + 1
            how: Literal["smallest", "greedy", "none"] = "smallest" if least else "greedy" if gone else "none"
            found[item] = _told(parted, k, gone, how, ruled_out)
    return {item: found[item] for item in nats}


def _told(
    parted: Parted, k: int, gone: Sequence[int], how: Literal["smallest", "greedy", "none"], ruled_out: int
) -> Counterfactual:
    return Counterfactual(k, tuple(parted.parts[n] for n in gone), how, ruled_out)


def _slates(scores: Explained, parted: Parted, sets: Sequence[Sequence[int]], k: int) -> list[Slate]:
    return scores.slates([parted.without(gone) for gone in sets], k)


def _greedy(
    scores: Explained, parted: Parted, history: Sequence[int], nats: Sequence[float], item: int, k: int
) -> tuple[int, ...]:
    """An irreducible set without which the item is out; empty where leaving out by effects never gets it out."""
    order = sorted(history, key=lambda n: -nats[n])
    begun = [order[: n + 1] for n in range(len(order))]
    slates = _slates(scores, parted, begun, k) if begun else []
    first = next((n for n, slate in enumerate(slates) if item not in slate.items_K), None)
    if first is None:
        return ()
    gone = begun[first]
    while True:
        # all at once; of those that may come back the one with the least effect does
        smaller = [[n for n in gone if n != back] for back in gone]
        slates = _slates(scores, parted, smaller, k)
        out = [less for less, slate in zip(smaller, slates, strict=True) if item not in slate.items_K]
        if not out:
            return tuple(gone)
        gone = out[-1]
